"""A run that is killed at any moment, and started again, ends with the store of a run that nobody disturbed.

Stores are compared file by file. Artifacts must be equal byte by byte, records field by field, except for what says
when and how long: the values of `timing` (wall times and peak memory; their names must agree),
`provenance.created_utc` (the second in which the cell was computed), and `checksum`, which covers these two.
"""

from __future__ import annotations

import errno
import hashlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.api import Cell, Context
from bench.executors import Resources, Serial
from bench.runner import Job, run
from bench.store import Store
from seqlora import files
from seqlora.errors import UnwritableError

from .conftest import ScriptedTask

CELLS = [Cell("scripted", method, 3, 0, seed) for seed in range(2) for method in ("seqlora", "plain-sum")]


def content(folder: Path) -> dict[str, Any]:
    """Every file of a store except its locks: records without when and how long, a hash of anything else."""
    found: dict[str, Any] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and ".locks" not in p.parts):
        if path.suffix == ".json":
            record = json.loads(path.read_text(encoding="utf-8"))
            assert len(record.pop("checksum")) == 64
            record["timing"] = sorted(record["timing"])
            del record["provenance"]["created_utc"]
            found[str(path.relative_to(folder))] = record
        else:
            found[str(path.relative_to(folder))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def harass(folder: Path, kills: int) -> dict[str, Any]:
    root = Path(__file__).parents[2]
    command = [sys.executable, str(Path(__file__).with_name("chaos.py")), str(folder), str(kills)]
    variables = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    options: dict[str, Any] = {"cwd": root, "env": variables, "timeout": 1500, "start_new_session": True}
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("kills", [8, pytest.param(50, marks=pytest.mark.slow)])
def test_killed_at_random_moments_the_store_is_that_of_an_undisturbed_run(kills: int, tmp_path: Path) -> None:
    """One runner, and two that share a folder."""
    harassed = harass(tmp_path, kills)
    print(harassed)
    whole = content(tmp_path / "whole")
    records = [value for value in whole.values() if isinstance(value, dict)]
    assert len(records) == harassed["cells"]
    assert {record["status"] for record in records} == {"done"}
    assert len(whole) > len(records)  # artifacts are compared, too
    for report in harassed["reports"]:
        assert report["kills"] == kills
        for folder in report["folders"]:
            assert content(Path(folder)) == whole


def test_a_changed_number_or_a_file_too_many_would_be_seen(scripted: ScriptedTask, tmp_path: Path) -> None:
    stores = [Store(tmp_path / name) for name in ("one", "two")]
    for store in stores:
        go(store)
    one, two = (content(store.folder) for store in stores)
    assert one == two
    path = next(stores[1].folder.rglob("*.json"))
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('"value": 0.25', '"value": 0.26'), encoding="utf-8")
    assert content(stores[1].folder) != one
    path.write_text(text, encoding="utf-8")
    assert content(stores[1].folder) == one
    (path.parent / f".{path.name}.left.tmp").write_text("", encoding="utf-8")
    assert content(stores[1].folder) != one


def go(store: Store) -> None:
    run(CELLS, Job(store.folder), Serial(Resources(1, 1, "", store.folder)))


# --- every stage of a write -----------------------------------------------------------------------------------------

Fault = Callable[[], None]


def interrupt(stage: str, fault: Fault, patch: pytest.MonkeyPatch) -> None:
    """Have `fault` happen at one stage of the first record that is written."""

    def before(owner: Any, name: str) -> None:
        whole = getattr(owner, name)

        def faulty(*arguments: Any, **options: Any) -> Any:
            patch.setattr(owner, name, whole)
            fault()
            return whole(*arguments, **options)

        patch.setattr(owner, name, faulty)

    def half(path: Path, text: str, encoding: str) -> int:
        with path.open("w", encoding=encoding) as file:
            file.write(text[: len(text) // 2])
        fault()
        return 0

    if stage == "half written":
        patch.setattr(Path, "write_text", half)
    else:
        owner, name = STAGES[stage]
        before(owner, name)


STAGES: dict[str, tuple[Any, str]] = {
    "no temporary file yet": (files.tempfile, "mkstemp"),
    "half written": (Path, "write_text"),
    "not synchronised": (files.os, "fsync"),
    "without its mode": (Path, "chmod"),
    "not renamed": (Path, "replace"),
}
ERRORS = [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO]


def _killed(folder: Path, stage: str) -> None:
    Store(folder).check_writable()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "check_writable", lambda store: None)  # it synchronises a file, too
        interrupt(stage, lambda: os.kill(os.getpid(), signal.SIGKILL), patch)
        go(Store(folder))


@pytest.mark.parametrize("stage", STAGES)
def test_killed_at_every_stage_of_a_write(stage: str, scripted: ScriptedTask, store: Store, tmp_path: Path) -> None:
    whole = Store(tmp_path / "whole")
    go(whole)
    child = multiprocessing.get_context("fork").Process(target=_killed, args=(store.folder, stage))
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    assert [store.state(cell) for cell in CELLS] == ["missing"] * len(CELLS)
    go(store)
    assert content(store.folder) == content(whole.folder)


@pytest.mark.parametrize("number", ERRORS, ids=errno.errorcode.get)
@pytest.mark.parametrize("stage", STAGES)
def test_a_disk_that_refuses_any_stage_of_a_write(
    stage: str, number: int, scripted: ScriptedTask, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run stops with one line, nothing stored changes, nothing is left behind; it goes on when there is room."""
    run(CELLS[:1], Job(store.folder), Serial(Resources(1, 1, "", store.folder)))
    before = content(store.folder)

    def refuse() -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(Store, "check_writable", lambda store: None)
        interrupt(stage, refuse, patch)
        with pytest.raises(UnwritableError) as caught:
            go(store)
    assert os.strerror(number) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
    assert content(store.folder) == before
    go(store)
    whole = Store(tmp_path / "whole")
    go(whole)
    assert content(store.folder) == content(whole.folder)


@pytest.mark.parametrize("number", ERRORS[:3], ids=errno.errorcode.get)
def test_a_disk_that_is_full_inside_a_cell_makes_no_failed_cell(
    number: int, scripted: ScriptedTask, store: Store
) -> None:
    def full(cell: Cell, context: Context) -> None:
        if cell == CELLS[1]:
            raise OSError(number, os.strerror(number), str(context.artifacts / "image.png"))

    scripted.script = full
    with pytest.raises(UnwritableError, match=r"image\.png: .*; free space or choose another folder"):
        go(store)
    assert [store.state(cell) for cell in CELLS] == ["done", "missing", "missing", "missing"]


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE], ids=errno.errorcode.get)
def test_a_record_that_cannot_be_read_now_is_not_taken_for_corrupt(
    number: int, scripted: ScriptedTask, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    go(store)
    before = content(store.folder)

    def refuse(*_: Any, **__: Any) -> str:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", refuse)
        with pytest.raises(files.StoredFileError, match=os.strerror(number)):
            go(store)
    assert content(store.folder) == before
