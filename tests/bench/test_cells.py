"""Cells and their random streams."""

from __future__ import annotations

import hashlib
import json
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.api import Cell, Metric
from bench.seeds import STREAMS, Seeds, concept_order
from seqlora.errors import BadInputError

CELL = Cell("linear-synthetic", "seqlora", 4, 1, 7)
names = st.text(min_size=1, max_size=20)
counts = st.integers(1, 200)
naturals = st.integers(0, 1000)
cells = st.builds(Cell, names, names, counts, naturals, naturals)


def test_a_cell_is_frozen_hashable_and_ordered() -> None:
    with pytest.raises(FrozenInstanceError):
        CELL.seed = 1  # type: ignore[misc]
    assert len({CELL, replace(CELL), replace(CELL, seed=8)}) == 2
    assert sorted([replace(CELL, seed=8), CELL]) == [CELL, replace(CELL, seed=8)]


def test_the_digest_is_a_hash_of_the_axes() -> None:
    # written out, because stores of earlier sessions must still be found: `hash` differs between sessions
    text = '{"method":"seqlora","n_concepts":4,"order":1,"seed":7,"task":"linear-synthetic"}'
    assert CELL.key == text
    assert CELL.digest == hashlib.sha256(text.encode()).hexdigest()[:16]


@settings(derandomize=True, deadline=None, max_examples=50)
@given(cells, cells)
def test_different_cells_have_different_digests(first: Cell, second: Cell) -> None:
    assert (first.digest == second.digest) == (first == second)
    assert Cell(**json.loads(first.key)) == first


@pytest.mark.parametrize("bad", [{"n_concepts": 0}, {"order": -1}, {"seed": -1}, {"task": ""}, {"method": ""}])
def test_no_such_cell(bad: dict[str, int | str]) -> None:
    with pytest.raises(BadInputError, match="is no cell"):
        replace(CELL, **bad)  # type: ignore[arg-type]


def test_the_method_does_not_change_the_seeds_and_every_other_axis_does() -> None:
    assert replace(CELL, method="plain-sum").seeds == CELL.seeds
    for change in ({"task": "linear-minilm"}, {"n_concepts": 5}, {"order": 0}, {"seed": 8}):
        assert replace(CELL, **change).seeds != CELL.seeds  # type: ignore[arg-type]


def test_streams_are_addressable_and_apart() -> None:
    seeds = CELL.seeds
    draws = {name: seeds.rng(name).standard_normal(4) for name in STREAMS}  # type: ignore[arg-type]
    for name, drawn in draws.items():
        # asked twice, in any order, a stream gives the same numbers
        assert np.array_equal(drawn, seeds.rng(name).standard_normal(4))  # type: ignore[arg-type]
    parts = [*draws.values(), seeds.rng("data", 0).standard_normal(4), seeds.rng("data", 1).standard_normal(4)]
    assert len({tuple(part) for part in parts}) == len(parts)


def test_torch_generators_follow_the_streams() -> None:
    import torch

    first, again, other = (CELL.seeds.torch(name) for name in ("training", "training", "evaluation"))  # type: ignore[arg-type]
    noise = torch.randn(4, generator=first)
    assert torch.equal(noise, torch.randn(4, generator=again))
    assert not torch.equal(noise, torch.randn(4, generator=other))


@settings(derandomize=True, deadline=None, max_examples=50)
@given(st.integers(1, 30), st.integers(0, 5), st.data())
def test_an_order_is_a_choice_without_repetition(available: int, order: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, available))
    chosen = concept_order("task", available, count, order)
    assert len(set(chosen.tolist())) == count
    assert set(chosen.tolist()) <= set(range(available))
    # a shorter sequence is the beginning of a longer one: adding concepts changes no earlier ones
    assert chosen.tolist() == concept_order("task", available, available, order)[:count].tolist()
    if order == 0:
        assert chosen.tolist() == list(range(count))


def test_orders_differ() -> None:
    orders = {tuple(concept_order("task", 12, 12, order)) for order in range(20)}
    assert len(orders) == 20


def test_worsening_follows_the_orientation() -> None:
    assert Metric("a", "a", "higher").worsening(0.9, 0.7) == pytest.approx(0.2)
    assert Metric("a", "a", "lower").worsening(0.9, 0.7) == pytest.approx(-0.2)


def test_seeds_are_spread() -> None:
    """Neighbouring seeds share nothing: 400 first draws are as uniform as they should be (Kolmogorov-Smirnov)."""
    from scipy.stats import kstest

    draws = [Seeds.of("task", 4, 0, seed).rng("data").random() for seed in range(400)]
    assert kstest(draws, "uniform").pvalue > 1e-6
