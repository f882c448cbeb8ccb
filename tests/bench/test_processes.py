"""What only real processes show: kill -9, Ctrl-C, two runners in one folder, and executors that agree."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from bench.api import Cell
from bench.executors import EXECUTORS, Loky, Resources
from bench.runner import Job, run
from bench.store import Store
from bench.suites import SUITES
from seqlora.errors import UnwritableError

# About 0.1 s a cell, so that a run lasts long enough to be killed in its middle.
TASK = "linear-synthetic:width=128,samples=400"
OPTIONS = ["run", "--suite", "smoke", "--task", TASK, "--concepts", "6", "--seeds", "2"]
CELLS = SUITES["smoke"].restricted([TASK], n_concepts=[6], seeds=[0, 1]).cells()


def start(out: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "bench", *OPTIONS, "--out", str(out), *options]
    root = Path(__file__).parents[2]
    return subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, cwd=root, start_new_session=True, env={**os.environ, "CI": "1"}
    )


def wait_for_cells(out: Path, count: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while len(list(out.glob("cells/*/*/*.json"))) < count:
        assert process.poll() is None, "the run ended before it could be stopped; make its cells slower"
        assert time.monotonic() < deadline
        time.sleep(0.01)


def alive(group: int) -> list[psutil.Process]:
    """Processes of a group that still run (a zombie only waits for init to take note)."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, ProcessLookupError):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def content(out: Path) -> dict[Cell, object]:
    """Everything in a store that must not depend on when, how or where it was computed."""
    keep = {"status", "settings", "concepts", "matrices", "values", "fingerprint"}
    return {r.to_cell(): r.model_dump(include=keep) for r in Store(out).all_records()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[Cell, object]:
    # In a process of its own: the last bits may depend on what a long-lived process did before (memory layout, BLAS).
    out = tmp_path_factory.mktemp("undisturbed")
    finish(start(out, "--executor", "serial"))
    return content(out)


def finish(process: subprocess.Popen[str]) -> str:
    _, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    return err.splitlines()[-1]


def test_kill_9_costs_one_cell_at_most(tmp_path: Path, undisturbed: dict[Cell, object]) -> None:
    process = start(tmp_path, "--executor", "serial")
    wait_for_cells(tmp_path, 5, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    stored = content(tmp_path)
    assert 5 <= len(stored) < len(CELLS)
    assert all(undisturbed[cell] == record for cell, record in stored.items())
    assert f", {len(stored)} were stored" in finish(start(tmp_path, "--executor", "serial"))
    assert content(tmp_path) == undisturbed


@pytest.mark.slow  # three processes that import torch
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_stops_workers_and_exits_130(
    number: signal.Signals, tmp_path: Path, undisturbed: dict[Cell, object]
) -> None:
    process = start(tmp_path, "--executor", "loky", "--workers", "2")
    wait_for_cells(tmp_path, 3, process)
    os.killpg(process.pid, number)  # a terminal sends it to the whole group, a scheduler too
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on from there" in err
    assert "Traceback" not in err
    stored = content(tmp_path)
    assert all(undisturbed[cell] == record for cell, record in stored.items())
    deadline = time.monotonic() + 30
    while left := alive(process.pid):
        assert time.monotonic() < deadline, f"left behind: {left}"
        time.sleep(0.1)


def test_two_runners_share_a_folder_and_compute_each_cell_once(tmp_path: Path, undisturbed: dict[Cell, object]) -> None:
    runners = [start(tmp_path, "--executor", "serial") for _ in range(2)]
    computed = [int(finish(runner).split(" cells computed")[0]) for runner in runners]
    assert sum(computed) == len(CELLS)
    assert content(tmp_path) == undisturbed
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "scheduler"), [("loky", ""), ("dask", ""), ("submitit", "local")])
def test_every_executor_gives_what_serial_gives(
    name: str, scheduler: str, tmp_path: Path, undisturbed: dict[Cell, object]
) -> None:
    executor = EXECUTORS[name](Resources(2, 1, scheduler, tmp_path))
    summary = run(CELLS, Job(tmp_path), executor)
    assert summary.exit_code == 0
    assert content(tmp_path) == undisturbed


def die(cell: Cell):
    """Work that kills its process on one cell."""
    from bench.executors import Outcome

    if cell.seed == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return Outcome(cell, "done")


@pytest.mark.slow
def test_a_dying_worker_takes_no_other_cell_along(tmp_path: Path) -> None:
    cells = [Cell("task", "method", 1, 0, seed) for seed in range(4)]
    outcomes = {o.cell.seed: o.status for o in Loky(Resources(2, 1, "", tmp_path)).map(die, cells)}
    assert outcomes == {0: "done", 1: "died", 2: "done", 3: "done"}


def full(cell: Cell):
    """Work that finds the disk full."""
    raise UnwritableError("cannot write here: No space left on device; free space or choose another folder")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "scheduler"), [("loky", ""), ("dask", ""), ("submitit", "local")])
def test_a_full_disk_in_a_worker_stops_the_run_with_its_line(name: str, scheduler: str, tmp_path: Path) -> None:
    executor = EXECUTORS[name](Resources(2, 1, scheduler, tmp_path))
    cells = [Cell("task", "method", 1, 0, seed) for seed in range(3)]
    with pytest.raises(UnwritableError, match="No space left on device; free space"):
        list(executor.map(full, cells))


@pytest.mark.slow
def test_kill_9_of_the_runner_takes_its_workers_along(tmp_path: Path, undisturbed: dict[Cell, object]) -> None:
    process = start(tmp_path, "--executor", "loky", "--workers", "2")
    wait_for_cells(tmp_path, 3, process)
    os.kill(process.pid, signal.SIGKILL)  # the parent alone
    process.communicate(timeout=60)
    deadline = time.monotonic() + 60
    while left := alive(process.pid):
        assert time.monotonic() < deadline, f"left behind: {left}"
        time.sleep(0.1)
    finish(start(tmp_path, "--executor", "serial"))
    assert content(tmp_path) == undisturbed
