"""The pilot: how much the gated numbers vary between seeds, and how far rounding takes them. Margins follow from it.

The gate suite's cells run with seeds of their own, twice: as they are, and some of them once more with every input
moved by one unit in the last place (`bench.disturbance`), which is what another machine may do.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from bench.api import Cell
from bench.disturbance import OPTION
from bench.executors import Executor, Outcome
from bench.regression.margins import GateMargin, MarginsFile, RoundOff, practical_margin
from bench.regression.numbers import GATED
from bench.regression.snapshot import CellNumbers, Group, Snapshot
from bench.runner import Job, run
from bench.suites import SUITES
from seqlora.errors import BadInputError

FIRST_SEED = 1000  # far from the seeds of any suite: margins are not fitted to what is gated
SEEDS = 20
DISTURBED = 4  # cells of each group that also run with disturbed inputs: round-off needs no interval of its own
SUITE = "gate"


def cells(seeds: int) -> list[Cell]:
    """The gate suite's cells, with the pilot's seeds."""
    return SUITES[SUITE].restricted(seeds=range(FIRST_SEED, FIRST_SEED + seeds)).cells()


def disturbed(chosen: Iterable[Cell]) -> list[Cell]:
    """Those that run again with disturbed inputs."""
    return [cell for cell in chosen if cell.seed < FIRST_SEED + DISTURBED]


def run_pilot(
    chosen: Sequence[Cell], out: Path, executor: Executor, watch: Callable[[Outcome], None], threads: int = 1
) -> int:
    """Run what is missing of the pilot in `out`/plain and `out`/disturbed; returns how many cells failed."""
    plain = run(chosen, Job(out / "plain", threads), executor, watch)
    moved = run(disturbed(chosen), Job(out / "disturbed", threads, options={OPTION: "1"}), executor, watch)
    return plain.count("failed") + moved.count("failed")


def margins(plain: Snapshot, moved: Snapshot, gate_seeds: dict[Group, int]) -> MarginsFile:
    """What the pilot says of every gate.

    Args:
        plain: cells as they are.
        moved: some of them with disturbed inputs.
        gate_seeds: group -> seeds that the gate suite runs.

    Raises:
        BadInputError: a group without disturbed cells.
    """
    groups = _grouped(plain.cells)
    after = moved.by_cell()
    gates, round_off = [], []
    for group, members in groups.items():
        pairs = [(one, after[one.cell]) for one in members if one.cell in after and after[one.cell].status == "done"]
        if len(pairs) < 2:
            raise BadInputError(f"{' '.join(map(str, group))}: {len(pairs)} disturbed cells; run the pilot to its end")
        task, method, count = group
        changes = {name: _changes(name, pairs) for name in members[0].numbers}
        largest = {name: float(np.abs(change).max(initial=0)) for name, change in changes.items()}
        round_off.append(RoundOff(task=task, method=method, n_concepts=count, numbers=largest))
        for name in GATED:
            values = np.array([one.numbers[name] for one in members if name in one.numbers])
            if len(values) < 2:
                continue
            sd = float(values.std(ddof=1))
            gates.append(
                GateMargin(
                    task=task,
                    method=method,
                    n_concepts=count,
                    number=name,
                    pairs=gate_seeds.get(group, len(values)),
                    mean=float(values.mean()),
                    sd=sd,
                    low=float(values.min()),
                    high=float(values.max()),
                    noise_sd=float(changes[name].std(ddof=1)),
                    margin=practical_margin(sd),
                )
            )
    seeds = min(len(members) for members in groups.values())
    cpu = ", ".join(sorted({str(machine["cpu"]) for machine in plain.comparable.values()}))
    least = min(sum(one.cell in after for one in members) for members in groups.values())
    return MarginsFile(
        git_revision=plain.git_revision, cpu=cpu, seeds=seeds, disturbed=least, gates=gates, round_off=round_off
    )


def gate_seeds() -> dict[Group, int]:
    """How many seeds the gate suite runs of each group."""
    counts: dict[Group, int] = defaultdict(int)
    for cell in SUITES[SUITE].cells():
        counts[cell.task, cell.method, cell.n_concepts] += 1
    return dict(counts)


def only(snapshot: Snapshot, chosen: Iterable[Cell]) -> Snapshot:
    """The part of a snapshot that belongs to the pilot as it is now; older cells may lie beside it."""
    wanted = set(chosen)
    return snapshot.model_copy(update={"cells": [entry for entry in snapshot.cells if entry.cell in wanted]})


def _grouped(entries: Iterable[CellNumbers]) -> dict[Group, list[CellNumbers]]:
    groups: dict[Group, list[CellNumbers]] = {}
    for entry in entries:
        if entry.status == "done":
            groups.setdefault(entry.group, []).append(entry)
    return groups


def _changes(name: str, pairs: Sequence[tuple[CellNumbers, CellNumbers]]) -> np.ndarray:
    return np.array([b.numbers[name] - a.numbers[name] for a, b in pairs if name in a.numbers and name in b.numbers])
