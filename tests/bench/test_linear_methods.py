"""The linear methods against dense references that share no code with them, and each against what must break it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.api import Array
from bench.methods.linear import METHODS, LinearMethod, LinearProblem, Stage
from bench.methods.linear.alternating import Alternating
from bench.methods.linear.api import LowRank, coefficients
from bench.methods.linear.sequential import PenaltyOnly, PlainSequence, SeqLoRA, SeqLoRAPenalty
from bench.metrics.linear import change_matrix, energy, error_matrix, layer_values, relative_error
from seqlora.errors import CapacityError
from theory.tolerance import gamma, orthonormality

COUNT = 40  # columns of each concept


def draw(seed: int, concepts: int, width: int, outputs: int, rank: int) -> tuple[LinearProblem, Array, Array]:
    """A problem with its raw activations X (T, n, N) and targets Y (T, m, N), for the references."""
    rng = np.random.default_rng(seed)
    scale = np.arange(1, width + 1, dtype=float)[None, :, None] ** -0.5
    X = scale * rng.standard_normal((concepts, width, COUNT))
    D = rng.standard_normal((concepts, outputs, width))
    Y = D @ X
    moments, cross = X @ X.mT / COUNT, Y @ X.mT / COUNT
    return LinearProblem("test", moments, cross, (Y**2).sum((1, 2)) / COUNT, rank, 0.01), X, Y


def learn(name: str, problem: LinearProblem, seed: int = 0) -> list[Stage]:
    return list(METHODS[name].learn(problem, np.random.default_rng(seed)))


def tolerance(problem: LinearProblem) -> float:
    """Relative error of quantities that pass through one solve: n u times the condition of Σ + λ I, times 100."""
    worst = max(float(np.linalg.eigvalsh(S)[-1]) for S in problem.moments) / problem.ridge
    return 100 * gamma(problem.width) * worst


problems = st.builds(
    draw,
    seed=st.integers(0, 10_000),
    concepts=st.integers(1, 4),
    width=st.integers(8, 20),
    outputs=st.integers(1, 12),
    rank=st.integers(1, 2),
)
PROPERTY = settings(derandomize=True, deadline=None, max_examples=30)


@PROPERTY
@given(problems)
def test_errors_from_moments_are_errors_on_the_activations(drawn: tuple[LinearProblem, Array, Array]) -> None:
    problem, X, Y = drawn
    stages = learn("seqlora", problem)
    R = error_matrix("fit_error", stages, problem).values
    change = change_matrix(stages, problem).values
    for t, stage in enumerate(stages):
        M = sum(share.B @ share.A for share in stage.shares)
        for j in range(len(stages)):
            wanted = (Y[j] ** 2).sum()
            expected = ((Y[j] - M @ X[j]) ** 2).sum() / wanted
            assert R[t, j] == pytest.approx(expected, rel=tolerance(problem), abs=tolerance(problem))
            if t >= j:
                later = sum((s.B @ s.A for s in stage.shares[j + 1 :]), np.zeros_like(M))
                forgotten = ((later @ X[j]) ** 2).sum() / wanted
                assert change[t, j] == pytest.approx(forgotten, rel=tolerance(problem), abs=tolerance(problem))
            else:
                assert np.isnan(change[t, j])


def ridge_reference(X: list[Array], Y: list[Array], ridge: float) -> Array:
    """argmin_M Σ_j ‖Y_j - M X_j‖²/N + λ ‖M‖² by least squares on stacked data and the penalty as extra columns."""
    n = X[0].shape[0]
    columns = np.hstack([*(part / np.sqrt(COUNT) for part in X), np.sqrt(ridge) * np.eye(n)])
    targets = np.hstack([*(part / np.sqrt(COUNT) for part in Y), np.zeros((Y[0].shape[0], n))])
    return np.linalg.lstsq(columns.T, targets.T, rcond=None)[0].T


@PROPERTY
@given(problems)
def test_joint_is_ridge_regression_on_all_data(drawn: tuple[LinearProblem, Array, Array]) -> None:
    problem, X, Y = drawn
    for t, stage in enumerate(learn("joint", problem)):
        expected = ridge_reference(list(X[: t + 1]), list(Y[: t + 1]), problem.ridge)
        scale = np.linalg.norm(expected)
        assert np.linalg.norm(stage.merged.dense() - expected) <= tolerance(problem) * scale


@PROPERTY
@given(problems)
def test_fusion_is_least_squares_on_what_the_single_models_do(drawn: tuple[LinearProblem, Array, Array]) -> None:
    problem, X, _ = drawn
    singles = [update.dense() for update in problem.optima]
    for t, stage in enumerate(learn("fusion", problem)):
        wanted = [singles[i] @ X[i] for i in range(t + 1)]
        expected = ridge_reference(list(X[: t + 1]), wanted, problem.ridge)
        assert np.linalg.norm(stage.merged.dense() - expected) <= tolerance(problem) * np.linalg.norm(expected)


@PROPERTY
@given(problems)
def test_no_method_beats_the_joint_optimum(drawn: tuple[LinearProblem, Array, Array]) -> None:
    """On its own objective, Σ_j ‖(M - D_j) X_j‖² + λ ‖M‖², the joint optimum is below everything else."""
    problem = drawn[0]

    def objective(update: LowRank) -> float:
        errors = [relative_error(update, problem, j) * problem.energies[j] for j in range(problem.concepts)]
        return sum(errors) + problem.ridge * energy(update, np.eye(problem.width))

    values = {}
    for name in METHODS:
        try:
            values[name] = objective(learn(name, problem)[-1].merged)
        except CapacityError:
            assert problem.rank * problem.concepts > problem.width
    slack = 1 + tolerance(problem)
    assert all(values["joint"] <= value * slack for value in values.values())
    # a sum of T updates has rank r T at most
    assert all(values["joint-rank"] <= value * slack for name, value in values.items() if name != "joint")


@PROPERTY
@given(problems, st.integers(0, 1000))
def test_the_single_optimum_beats_any_other_update_of_its_rank(
    drawn: tuple[LinearProblem, Array, Array], seed: int
) -> None:
    problem = drawn[0]
    rng = np.random.default_rng(seed)
    S, K = problem.moments[0], problem.cross_moments[0]

    def objective(update: LowRank) -> float:
        fit = relative_error(update, problem, 0) * problem.energies[0]
        return fit + problem.ridge * energy(update, np.eye(problem.width))

    best = objective(problem.optima[0])
    for _ in range(5):
        A = np.linalg.qr(rng.standard_normal((problem.width, problem.rank)))[0].T
        rival = LowRank(coefficients(A, S, K, problem.ridge), A)
        assert best <= objective(rival) * (1 + tolerance(problem))


@PROPERTY
@given(problems, st.sampled_from(["frozen-orthonormal", "frozen-orthonormal-sequence", "seqlora", "seqlora-penalty"]))
def test_orthogonal_methods_are_orthogonal(drawn: tuple[LinearProblem, Array, Array], name: str) -> None:
    problem = drawn[0]
    bases = np.vstack([stage.basis for stage in learn(name, problem)])
    assert np.abs(bases @ bases.T - np.eye(len(bases))).max() <= orthonormality(problem.width)


@pytest.mark.parametrize("name", ["frozen-random", "plain-sum", "plain-sequence", "penalty-only", "alternating"])
def test_the_others_are_not_orthogonal(name: str) -> None:
    """The control of the test above: the same measure, broken by far."""
    problem, _, _ = draw(1, 4, 16, 8, 2)
    bases = np.vstack([stage.basis for stage in learn(name, problem)])
    assert np.abs(bases @ bases.T - np.eye(len(bases))).max() > 0.1
    for stage in learn(name, problem):  # each basis by itself is orthonormal all the same
        assert np.abs(stage.basis @ stage.basis.T - np.eye(2)).max() <= orthonormality(problem.width)


@PROPERTY
@given(problems)
def test_frozen_coefficients_are_stationary(drawn: tuple[LinearProblem, Array, Array]) -> None:
    problem, X, Y = drawn
    for j, stage in enumerate(learn("frozen-random", problem)):
        B, A = stage.alone
        # d/dB of ½‖Y - B A X‖²/N + λ/2 ‖B‖²
        gradient = (B @ A @ X[j] - Y[j]) @ (A @ X[j]).T / COUNT + problem.ridge * B
        assert np.linalg.norm(gradient) <= tolerance(problem) * np.linalg.norm(problem.cross_moments[j])


def test_sequence_fits_what_is_missing_and_sum_fits_the_whole() -> None:
    problem, X, Y = draw(3, 3, 16, 8, 2)
    independent, sequence = learn("frozen-random", problem), learn("frozen-random-sequence", problem)
    assert np.allclose(independent[0].merged.dense(), sequence[0].merged.dense(), rtol=0, atol=1e-14)
    M = sequence[0].merged.dense()
    A = sequence[1].basis
    columns = np.hstack([A @ X[1] / np.sqrt(COUNT), np.sqrt(problem.ridge) * np.eye(2)])
    targets = np.hstack([(Y[1] - M @ X[1]) / np.sqrt(COUNT), np.zeros((8, 2))])
    B = np.linalg.lstsq(columns.T, targets.T, rcond=None)[0].T
    assert np.allclose(sequence[1].shares[1].B, B, rtol=0, atol=tolerance(problem))
    assert not np.allclose(independent[1].shares[1].B, B, rtol=0, atol=1e-3)


def test_alternating_converges_to_the_plain_sequence() -> None:
    problem, _, _ = draw(5, 3, 12, 8, 2)
    target = learn("plain-sequence", problem)[0].merged.dense()

    def gap(rounds: int) -> float:
        stages = list(Alternating(rounds=rounds).learn(problem, np.random.default_rng(0)))
        return float(np.linalg.norm(stages[0].merged.dense() - target) / np.linalg.norm(target))

    assert gap(300) <= 1e-6
    assert gap(1) > 0.01


def test_the_penalty_trades_adaptation_for_forgetting() -> None:
    problem, _, _ = draw(7, 3, 16, 8, 2)

    def run(method: LinearMethod) -> tuple[float, float]:
        stages = list(method.learn(problem, np.random.default_rng(0)))
        error = error_matrix("fit_error", stages, problem).values
        return float(np.diag(error)[1:].mean()), float(change_matrix(stages, problem).values[-1, 0])

    weights = (0.0, 0.1, 1.0, 10.0, 1e4)
    fits, forgotten = zip(*(run(SeqLoRAPenalty(gamma=weight)) for weight in weights), strict=True)
    assert list(fits) == sorted(fits)
    assert list(forgotten) == sorted(forgotten, reverse=True)
    assert forgotten[-1] <= 1e-4
    assert run(SeqLoRAPenalty(gamma=0.0)) == pytest.approx(run(SeqLoRA()))
    assert run(PenaltyOnly(gamma=0.0)) == pytest.approx(run(PlainSequence()))


def test_merge_weights() -> None:
    problem, _, _ = draw(11, 4, 16, 8, 2)
    total = learn("plain-sum", problem)[-1].merged.dense()
    assert np.allclose(total, sum(update.dense() for update in problem.optima))
    assert np.allclose(learn("plain-average", problem)[-1].merged.dense(), total / 4)
    matched = learn("plain-norm-matched", problem)[-1].merged.dense()
    typical = np.mean([np.linalg.norm(update.dense()) for update in problem.optima])
    assert np.linalg.norm(matched) == pytest.approx(typical)
    assert np.allclose(matched / np.linalg.norm(matched), total / np.linalg.norm(total))


@pytest.mark.parametrize("name", list(METHODS))
def test_contract(name: str) -> None:
    """What every linear method owes: one stage a concept, the single model, repeatable draws, sensible errors."""
    problem, _, _ = draw(13, 3, 16, 8, 2)
    stages, again = learn(name, problem), learn(name, problem)
    assert len(stages) == problem.concepts
    for stage, other in zip(stages, again, strict=True):
        assert np.array_equal(stage.merged.dense(), other.merged.dense())
    matrix = error_matrix("fit_error", stages, problem)
    assert matrix.base == pytest.approx(np.ones(3))
    # before there is anything to merge with, merged and single are one; fusion shrinks by its own ridge
    slack = 0.02 if name.startswith("fusion") else tolerance(problem)
    assert matrix.values[0, 0] == pytest.approx(matrix.single[0], abs=slack)
    assert METHODS[name].settings == vars(METHODS[name])


def test_a_sequence_past_capacity_is_refused() -> None:
    problem, _, _ = draw(17, 5, 8, 4, 2)
    for name in ("seqlora", "seqlora-penalty", "frozen-orthonormal"):
        with pytest.raises(CapacityError):
            learn(name, problem)
    assert len(learn("penalty-only", problem)) == 5


def test_layer_values_of_orthogonal_bases() -> None:
    problem, X, _ = draw(19, 3, 16, 8, 2)
    stages = learn("seqlora", problem)
    values = list(layer_values(stages, problem))
    by_name = {name: [v for v in values if v.metric == name] for name in {v.metric for v in values}}
    assert max(v.value for v in by_name["overlap"]) <= orthonormality(16)
    assert min(v.value for v in by_name["smallest_angle"]) == pytest.approx(90)
    for value in by_name["residual_energy"]:
        A = stages[value.concept].basis
        seen = ((A @ X[value.concept]) ** 2).sum() / (X[value.concept] ** 2).sum()
        assert value.value == pytest.approx(1 - seen)
    leak = {v.concept: v.value for v in by_name["leak"]}
    read = sum(((stages[k].basis @ X[0]) ** 2).sum() for k in (1, 2)) / (X[0] ** 2).sum()
    assert leak[0] == pytest.approx(read)
    assert 2 not in leak  # nothing comes after the last concept
    M = [share.B @ share.A for share in stages[-1].shares]
    expected = (((M[1] + M[2]) @ X[0]) ** 2).sum() / ((M[0] @ X[0]) ** 2).sum()
    assert by_name["interference_ratio"][0].value == pytest.approx(expected)


def test_relative_error_knows_an_exact_fit() -> None:
    problem, _, _ = draw(23, 1, 8, 4, 2)
    exact = replace(problem, ridge=1e-12, rank=4)
    assert relative_error(exact.optima[0], exact, 0) <= 1e-6


@PROPERTY
@given(problems, st.sampled_from(["plain-sum", "plain-sequence", "frozen-random", "seqlora", "penalty-only"]))
def test_no_step_passes_the_frontier(drawn: tuple[LinearProblem, Array, Array], name: str) -> None:
    problem = drawn[0]
    if problem.rank * problem.concepts > problem.width or problem.outputs < problem.rank:
        return
    found = [v for v in layer_values(learn(name, problem), problem) if v.metric == "frontier_distance"]
    assert len(found) == (problem.concepts > 1)
    # the frontier knows no ridge, so a method at its own optimum stays below by a little
    assert all(value.value >= -tolerance(problem) for value in found)


def test_the_penalised_step_is_on_the_frontier_and_others_are_not() -> None:
    problem = replace(draw(29, 3, 16, 8, 2)[0], ridge=1e-9)

    def distance(name: str) -> float:
        return next(v.value for v in layer_values(learn(name, problem), problem) if v.metric == "frontier_distance")

    assert distance("penalty-only") <= 1e-6  # its objective is the supporting line of slope gamma
    assert distance("plain-sequence") <= 1e-6  # gamma = 0: the end of the frontier
    assert distance("seqlora") > 0.01
    assert distance("frozen-orthonormal-sequence") > 0.05


@pytest.mark.parametrize("name", ["plain-average", "fusion", "joint", "joint-rank", "base"])
def test_the_frontier_is_for_steps_of_rank_r_only(name: str) -> None:
    problem, _, _ = draw(31, 3, 16, 8, 2)
    assert not [v for v in layer_values(learn(name, problem), problem) if v.metric == "frontier_distance"]
