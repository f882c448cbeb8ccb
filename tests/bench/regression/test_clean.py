"""Twenty clean reruns on seeds that nothing else uses: no alarm.

What a clean rerun is depends on what the paired test may share with the base:

- *rounding*: the same cells, every input moved by one unit in the last place. Data, noise and starts are shared, as
  they are between two machines.
- *fresh streams*: the same cells, all random numbers drawn anew, as after a harmless change of a random stream. Nothing
  is shared, so differences are as large as between seeds, and their mean is zero.

With fresh streams the promise is at most one alarm in a hundred comparisons; 40 comparisons (each block both ways
round) at one in a hundred would raise one with probability 1/3 if the level were used up. The margins leave far less.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from bench.api import Cell
from bench.regression.comparison import Comparison, compare
from bench.regression.margins import NO_PILOT, MarginsFile, load_margins
from bench.regression.snapshot import Snapshot
from bench.store import Store

BLOCKS, SEEDS = 20, 8
SMALL = "linear-synthetic:width=16,samples=100,rank=2"
FIRST = 50_000  # of the fresh seeds: far from suites and pilot
FRESH = 500_000  # what is added to a seed to draw everything anew


def blocks(kinds: list[tuple[str, str, int]], count: int = BLOCKS) -> Iterator[list[Cell]]:
    for block in range(count):
        seeds = range(FIRST + block * SEEDS, FIRST + (block + 1) * SEEDS)
        # methods innermost: neighbours share their data
        yield [Cell(task, method, T, 0, seed) for seed in seeds for task, method, T in kinds]


def anew(cells: list[Cell], make: SimpleNamespace, store: Store) -> Snapshot:
    """The cells with all their random numbers drawn anew, under their own names."""
    drawn = make.measured([Cell(c.task, c.method, c.n_concepts, c.order, c.seed + FRESH) for c in cells], store)
    renamed = [entry.model_copy(update={"seed": entry.seed - FRESH}) for entry in drawn.cells]
    return make.elsewhere(drawn.model_copy(update={"cells": renamed}))


def rounding(cells: list[Cell], make: SimpleNamespace, store: Store, which: int) -> Snapshot:
    return make.elsewhere(make.measured(cells, store, disturbance=str(which)))


def verdicts(found: list[Comparison]) -> Counter[str]:
    return Counter(gate.verdict for one in found for gate in one.gates)


def reruns(
    kinds: list[tuple[str, str, int]], make: SimpleNamespace, store: Store, margins: MarginsFile
) -> tuple[list[Comparison], list[Comparison]]:
    """Comparisons of each block with its rounded and with its fresh rerun, the latter both ways round."""
    rounded, fresh = [], []
    for number, cells in enumerate(blocks(kinds)):
        base = make.measured(cells, store)
        rounded.append(compare(base, rounding(cells, make, store, number + 1), margins))
        other = anew(cells, make, store)
        fresh += [compare(base, other, margins), compare(other, base, margins)]
    return rounded, fresh


def test_twenty_clean_reruns_raise_no_alarm(make: SimpleNamespace, store: Store) -> None:
    kinds = [(SMALL, "seqlora", 2)]
    rounded, fresh = reruns(kinds, make, store, NO_PILOT)
    assert len(rounded) == BLOCKS
    assert all(one.exit_code == 0 for one in rounded)
    assert set(verdicts(rounded)) == {"unchanged"}
    assert all(one.exit_code == 0 for one in fresh)
    # The control of this test: fresh streams really move the numbers, beyond the margin in many a block.
    moved = [gate for one in fresh for gate in one.gates if abs(gate.candidate - gate.base) > gate.margin]
    assert len(moved) > BLOCKS


@pytest.mark.slow
def test_twenty_clean_reruns_of_the_gated_cells_raise_no_alarm(make: SimpleNamespace, store: Store) -> None:
    methods = ("plain-sum", "frozen-orthonormal", "seqlora", "seqlora-penalty")
    kinds = [*(("linear-synthetic", method, 4) for method in methods), ("linear-trained", "seqlora", 3)]
    rounded, fresh = reruns(kinds, make, store, load_margins())
    assert all(one.exit_code == 0 for one in (*rounded, *fresh))
    assert set(verdicts(rounded)) == {"unchanged"}
    print("rounded", dict(verdicts(rounded)), "fresh", dict(verdicts(fresh)))
