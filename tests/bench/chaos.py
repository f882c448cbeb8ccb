"""Kill runs at random moments and say how the store came through: `python tests/bench/chaos.py FOLDER KILLS`.

A parent imports everything once and forks a process for every attempt, so that a kill costs milliseconds and not the
seconds of an import. It prints one JSON object: how many kills hit a working process, and where the folders lie.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench import environment
from bench.api import Cell, CellResult, Context, MetricMatrix
from bench.executors import Resources, Serial
from bench.methods import load_method
from bench.runner import Job, run
from bench.tasks import TASKS, load_task

METHODS = ("base", "plain-sum", "seqlora", "frozen-orthonormal", "joint")
LINEAR = "linear-synthetic:width=48,samples=100"
CELLS = [
    Cell(task, method, count, 0, seed)
    for seed in range(6)
    for count in (2, 4)
    for task in (LINEAR, "files")
    for method in METHODS
]
fork = multiprocessing.get_context("fork")


class FilesTask:
    """Numbers and files from the cell's own streams, written bit by bit, so that a kill finds them half done."""

    name, family = "files", "linear"

    def max_concepts(self) -> int:
        return 10

    def estimate(self, cell: Cell) -> float:
        return 0.01

    def run(self, cell: Cell, method: Any, context: Context) -> CellResult:
        T = cell.n_concepts
        context.artifacts.mkdir(parents=True)  # fails where a killed attempt's files still lie
        rng = context.seeds.rng("training")
        for j in range(T):
            with (context.artifacts / f"{j}.bin").open("wb", buffering=0) as file:
                for _ in range(8):
                    file.write(rng.bytes(4096))
                    time.sleep(0.0005)
        R = np.where(np.tri(T, dtype=bool), context.seeds.rng("data").random((T, T)), np.nan)
        matrix = MetricMatrix("relative_error", R, R[-1], np.ones(T))
        files = {str(j): f"{j}.bin" for j in range(T)}
        return CellResult(tuple(f"c{j}" for j in range(T)), [matrix], artifacts=files)


def start(folder: Path, cells: list[Cell]) -> Any:
    """Fork a runner."""
    process = fork.Process(target=_run, args=(folder, cells))
    process.start()
    return process


def _run(folder: Path, cells: list[Cell]) -> None:
    code = run(cells, Job(folder), Serial(Resources(1, 1, "", folder))).exit_code
    sys.stdout.flush()
    os._exit(code)


def finish(processes: list[Any]) -> None:
    """Wait for runners that nobody disturbs."""
    for process in processes:
        process.join()
        assert process.exitcode == 0, f"a run ended with {process.exitcode}"


def harass(
    folder: Path, cells: list[Cell], kills: int, runners: int, longest: float, moments: random.Random
) -> dict[str, Any]:
    """Kill `runners` runs of one folder until `kills` hit; begin another folder where one is finished before."""
    hits, writes, folders = 0, 0, [folder / "0"]
    processes = [start(folders[-1], cells) for _ in range(runners)]
    while hits < kills:
        time.sleep(moments.uniform(0, longest))
        chosen = moments.randrange(runners)
        processes[chosen].kill()
        processes[chosen].join()
        if processes[chosen].exitcode == -signal.SIGKILL:
            hits += 1
            writes += any(folders[-1].glob("cells/*/*/.*.tmp"))
            processes[chosen] = start(folders[-1], cells)
        else:
            finish(processes)
            folders.append(folder / str(len(folders)))
            processes = [start(folders[-1], cells) for _ in range(runners)]
    finish(processes)
    return {"kills": hits, "inside_a_write": writes, "folders": [str(path) for path in folders]}


def main(folder: Path, kills: int) -> dict[str, Any]:
    """An undisturbed store in `folder/whole`; beside it those of one harassed runner, and of two on one folder."""
    TASKS.add("files", lambda options: FilesTask())
    environment.provenance(1)  # asks git and reads versions once, here; what cells import is imported here, too
    for method in METHODS:
        load_method(load_task(LINEAR).family, method)
    cells = CELLS[: max(20, kills)]
    started = time.perf_counter()
    finish([start(folder / "whole", cells)])
    # A kill comes after the work of 0 to 3 cells: an attempt gets on a little, a folder takes some dozens of kills.
    longest = 3 * (time.perf_counter() - started) / len(cells)
    moments = random.Random(0)
    reports = [harass(folder / str(runners), cells, kills, runners, longest, moments) for runners in (1, 2)]
    return {"cells": len(cells), "reports": reports, "seconds": time.perf_counter() - started}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]))))
