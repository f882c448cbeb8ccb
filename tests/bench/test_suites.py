"""What a suite runs, and how the command line chooses from it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.api import Cell
from bench.estimate import estimate_seconds, in_words
from bench.methods import methods
from bench.runner import Job, compute
from bench.selection import in_shard, numbers, seed_range, selected, settings
from bench.store import Store
from bench.suites import SUITES, CellSet, Suite
from seqlora.errors import BadInputError

from .conftest import SMALL, ScriptedTask


@pytest.mark.parametrize("name", list(SUITES))
def test_suites_have_cells_each_once(name: str) -> None:
    cells = SUITES[name].cells()
    assert cells
    assert len(set(cells)) == len(cells)


def test_every_linear_method_is_in_every_suite_with_linear_tasks() -> None:
    for name in ("smoke", "ci", "full"):
        linear = {cell.method for cell in SUITES[name].cells() if cell.task.startswith("linear")}
        assert linear >= set(methods("linear"))


def test_gated_cells_have_eight_seeds() -> None:
    seeds = {cell.seed for cell in SUITES["ci"].cells() if cell.task == "linear-synthetic"}
    assert len(seeds) >= 8


def test_methods_are_innermost() -> None:
    cells = list(CellSet(SMALL, ("seqlora", "base"), (2, 3), (0,), (0, 1)).cells())
    assert [cell.method for cell in cells] == ["seqlora", "base"] * 4
    assert len(cells) == 8


def test_options_replace_axes() -> None:
    cells = selected("ci", ["linear-synthetic"], ["seqlora"], "2,3", "2")
    assert {cell.method for cell in cells} == {"seqlora"}
    assert {cell.n_concepts for cell in cells} == {2, 3}
    assert {cell.seed for cell in cells} == {0, 1}
    assert {cell.task for cell in cells} == {"linear-synthetic", "linear-synthetic:decay=2.0"}


def test_a_task_that_is_not_in_the_suite_runs_all_the_same() -> None:
    cells = selected("smoke", ["linear-synthetic:decay=0.7"], None, "2", "")
    assert {cell.task for cell in cells} == {"linear-synthetic:decay=0.7"}
    assert len(cells) == len(methods("linear"))


def test_seeds_and_numbers() -> None:
    assert numbers("2,4,8", "--concepts") == (2, 4, 8)
    assert numbers("0-3,7", "--concepts") == (0, 1, 2, 3, 7)
    assert seed_range("3") == (0, 1, 2)
    assert seed_range("3,5") == (3, 5)
    assert seed_range("4-4") == (4,)
    assert seed_range("") == ()
    assert settings(["base=sd15", "clip=a=b"]) == {"base": "sd15", "clip": "a=b"}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: numbers("two", "--concepts"), "--concepts 'two' is no list of numbers"),
        (lambda: numbers("1-", "--concepts"), "is no list"),
        (lambda: numbers("-3", "--concepts"), "is no list"),
        (lambda: numbers(",", "--concepts"), "holds no number"),
        (lambda: seed_range("0"), "asks for no seed"),
        (lambda: seed_range("5-3"), "holds no number"),
        (lambda: settings(["base"]), "not name=value"),
        (lambda: settings(["=x"]), "not name=value"),
        (lambda: in_shard([], "3/2"), "is not i/n"),
        (lambda: in_shard([], "0/2"), "is not i/n"),
        (lambda: in_shard([], "1"), "is not i/n"),
        (lambda: selected("smok", None, None, "", ""), "unknown suite 'smok'; did you mean 'smoke'"),
        (lambda: selected("smoke", ["nothing"], None, "", ""), "unknown task"),
        (lambda: selected("smoke", None, ["seqlor"], "", ""), "did you mean 'seqlora'"),
        (lambda: selected("smoke", None, ["seqlora:gama=1"], "", ""), "no option 'gama'"),
        (lambda: selected("smoke", None, None, "0", ""), "is no cell"),
    ],
)
def test_bad_choices_are_one_line(call, message: str) -> None:
    with pytest.raises(BadInputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_shards_are_a_partition_that_keeps_groups_together() -> None:
    cells = SUITES["ci"].cells()
    shards = [in_shard(cells, f"{i}/3") for i in (1, 2, 3)]
    assert sorted(cell for shard in shards for cell in shard) == sorted(cells)
    groups = [{(c.task, c.n_concepts, c.order, c.seed) for c in shard} for shard in shards]
    assert not groups[0] & groups[1]
    assert not groups[1] & groups[2]
    assert not groups[0] & groups[2]


def test_duplicates_run_once(scripted: ScriptedTask) -> None:
    twice = CellSet("scripted", ("seqlora",), (2,))
    assert Suite("s", "", (twice, twice)).cells() == [Cell("scripted", "seqlora", 2)]


def test_estimates_come_from_timed_cells_of_the_same_kind(scripted: ScriptedTask, store: Store) -> None:
    cells = [Cell("scripted", name, 2) for name in ("seqlora", "plain-sum")]
    assert estimate_seconds(cells, []) == 4.0  # the task's own guess, 2 s each
    record = compute(cells[0], store, Job(store.folder))
    timed = record.model_copy(update={"timing": {**record.timing, "total_seconds": 10.0}})
    assert estimate_seconds(cells[:1], [timed]) == 10.0
    assert estimate_seconds(cells, [timed]) == 20.0  # another method of the task stands in
    assert estimate_seconds(cells, [timed], workers=2) == 10.0
    assert estimate_seconds([Cell("scripted", "seqlora", 3)], [timed]) == 2.0
    assert estimate_seconds([], [timed]) == 0.0


def test_an_estimate_counts_a_shared_training_once() -> None:
    task = "portraits:steps=7"
    plain, fusion, learned, base = (Cell(task, name, 4) for name in ("plain-sum", "fusion", "seqlora", "base"))
    alone = {cell: estimate_seconds([cell], []) for cell in (plain, fusion, learned, base)}
    training = 0.08 * 4 * 7 * 8  # seconds an image, concepts, steps, images a step
    assert alone[plain] == alone[fusion] == pytest.approx(alone[base] + training)
    assert estimate_seconds([plain, fusion], []) == pytest.approx(alone[plain] + alone[base])
    assert estimate_seconds([plain, learned], []) == pytest.approx(alone[plain] + alone[learned])
    other_seed = replace(fusion, seed=1)
    assert estimate_seconds([plain, other_seed], []) == pytest.approx(2 * alone[plain])


def test_durations_in_words() -> None:
    assert [in_words(s) for s in (5, 600, 9000)] == ["5 s", "10 min", "2.5 h"]
