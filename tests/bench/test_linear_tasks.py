"""Where linear problems come from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench.api import Cell, Context
from bench.methods import load_method
from bench.tasks import load_task
from bench.tasks.linear import LinearTask, SyntheticTask, learned_targets, random_targets, split
from seqlora.errors import BadInputError
from theory.layers.base import Layer
from theory.tolerance import gamma

SMALL = "linear-synthetic:width=16,samples=200,rank=2"


def run(task: str, method: str, n_concepts: int, tmp_path: Path, seed: int = 0):
    cell = Cell(task, method, n_concepts, 0, seed)
    context = Context(cell.seeds, tmp_path / "artifacts", tmp_path / "shared")
    loaded = load_task(task)
    return loaded.run(cell, load_method(loaded.family, method)[1], context)


def test_names_are_canonical() -> None:
    assert load_task("linear-synthetic:angle=30,decay=2").name == "linear-synthetic:decay=2.0,angle=30.0"
    assert load_task("linear-synthetic:decay=1.5").name == "linear-synthetic"
    assert load_task("linear-minilm:target=learned").name == "linear-minilm:target=learned"
    assert load_method("linear", "seqlora-penalty:gamma=0.5")[0] == "seqlora-penalty:gamma=0.5"
    assert load_method("linear", "seqlora-penalty:gamma=1")[0] == "seqlora-penalty"


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("linear-sinthetic", "did you mean 'linear-synthetic'"),
        ("linear-synthetic:decay=steep", "is no float"),
        ("linear-synthetic:decay=-1", "decay >= 0"),
        ("linear-synthetic:angle=120", "angle within"),
        ("linear-synthetic:rank=0", "must be positive"),
        ("linear-synthetic:ridge=0", "must be positive"),
        ("linear-minilm:target=wrong", "target is one of random, learned"),
        ("linear-minilm:size=huge", "size one of"),
        ("linear-minilm:depth=3", "no option 'depth'"),
    ],
)
def test_bad_names_are_one_line(task: str, message: str) -> None:
    with pytest.raises(BadInputError, match=message) as caught:
        load_task(task)
    assert "\n" not in str(caught.value)


def test_a_result_is_a_function_of_the_cell(tmp_path: Path) -> None:
    first, again = (run(SMALL, "seqlora", 3, tmp_path) for _ in range(2))
    other = run(SMALL, "seqlora", 3, tmp_path, seed=1)
    for a, b, c in zip(first.matrices, again.matrices, other.matrices, strict=True):
        assert np.array_equal(a.values, b.values, equal_nan=True)
        assert not np.array_equal(a.values, c.values, equal_nan=True)


def test_all_methods_see_the_same_concepts(tmp_path: Path) -> None:
    single = {name: run(SMALL, name, 3, tmp_path).matrices[0].single for name in ("plain-sum", "seqlora", "fusion")}
    assert np.array_equal(single["plain-sum"], single["seqlora"])
    assert np.array_equal(single["plain-sum"], single["fusion"])


def test_the_untrained_base_has_error_one(tmp_path: Path) -> None:
    result = run(SMALL, "base", 3, tmp_path)
    errors = next(m for m in result.matrices if m.metric == "relative_error" and not m.layer)
    for part in (errors.values, errors.single, errors.base):
        assert np.abs(part - 1).max() <= gamma(16 * 16)


def test_the_whole_model_is_the_mean_over_layers(tmp_path: Path) -> None:
    result = run(SMALL, "seqlora", 2, tmp_path)
    layer, whole = (
        [m for m in result.matrices if m.metric == "fit_error" and bool(m.layer) == named] for named in (True, False)
    )
    assert len(whole) == 1
    assert np.array_equal(np.mean([m.values for m in layer], axis=0), whole[0].values)


def layer_of(X: np.ndarray, window: int) -> Layer:
    return Layer("test", np.eye(len(X)), {"one": X, "two": X[:, ::-1].copy()}, window)


def test_halves_share_no_window() -> None:
    # each window is one basis vector, repeated: a half's second moment then names the windows that are in it
    X = np.repeat(np.eye(6), 4, axis=1)
    targets = random_targets(2, 3, 6, np.random.default_rng(0))
    halves = split(layer_of(X, 4), ["one", "two"], targets, 2, 0.1, np.random.default_rng(1))
    for fitted, held_out in zip(halves.fitted.moments, halves.held_out.moments, strict=True):
        there, here = np.diag(fitted) > 0, np.diag(held_out) > 0
        assert there.sum() == here.sum() == 3
        assert not (there & here).any()
    assert halves.fitted.ridge == halves.held_out.ridge


def test_energies_are_those_of_the_targets() -> None:
    X = np.random.default_rng(2).standard_normal((6, 40))
    targets = random_targets(2, 3, 6, np.random.default_rng(0))
    halves = split(layer_of(X, 1), ["one", "two"], targets, 2, 0.1, np.random.default_rng(1))
    for problem in (halves.fitted, halves.held_out):
        for D, S, K, wanted in zip(targets, problem.moments, problem.cross_moments, problem.energies, strict=True):
            assert pytest.approx(D @ S) == K
            assert wanted == pytest.approx(np.trace(D @ S @ D.T))


def test_learned_targets_foretell_the_next_column() -> None:
    """Columns that turn by a rotation of the concept's own: the shift towards the next one is found exactly."""
    rng = np.random.default_rng(3)
    rotations = [np.linalg.qr(rng.standard_normal((4, 4)))[0] for _ in range(2)]
    activations = {}
    for index, Q in enumerate(rotations):
        starts = rng.standard_normal((300, 4))
        windows = np.stack([starts, starts @ Q.T, starts @ Q.T @ Q.T], axis=1)  # (windows, columns, n)
        activations[f"concept{index}"] = windows.reshape(-1, 4).T.copy()
    layer = Layer("test", 2 * np.eye(4), activations, window=3)
    first, second = learned_targets(layer, ["concept0", "concept1"], ridge=1e-10)
    # D_0 - D_1 = W0 (W_0 - W_1): the pooled regression cancels
    assert first - second == pytest.approx(2 * (rotations[0] - rotations[1]), abs=1e-6)


@pytest.mark.parametrize("decay", [0.0, 2.0])
def test_synthetic_spectra_decay_as_asked(decay: float) -> None:
    task = load_task(f"linear-synthetic:width=16,samples=4000,decay={decay},rank=2")
    assert isinstance(task, SyntheticTask)
    _, (halves,) = task.problems(2, 0, Cell(task.name, "seqlora", 2).seeds)
    eigenvalues = np.linalg.eigvalsh(halves.fitted.moments[0])[::-1]
    slope = np.polyfit(np.log(np.arange(1, 17)), np.log(eigenvalues), 1)[0]
    assert slope == pytest.approx(-decay, abs=0.15)


def test_too_many_topics(tmp_path: Path) -> None:
    from bench.suites import CellSet

    with pytest.raises(BadInputError, match="has 7 concepts, not 8"):
        list(CellSet("linear-minilm", n_concepts=(8,)).cells())


def test_real_layers_keep_their_names_and_orders(tmp_path: Path) -> None:
    task = load_task("linear-minilm:size=smoke,rank=2")
    assert isinstance(task, LinearTask)
    concepts, problems = task.problems(2, 0, Cell(task.name, "seqlora", 2).seeds)
    shuffled, _ = task.problems(2, 3, Cell(task.name, "seqlora", 2, order=3).seeds)
    assert len(problems) == 4
    assert all(halves.fitted.width == 384 for halves in problems)
    assert len(set(concepts)) == len(set(shuffled)) == 2
    assert concepts != shuffled
    assert task.weights()
