"""What is measured on a linear layer: errors of every concept after every stage, and the energies of the theory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from bench.api import Array, MetricMatrix, Value
from bench.methods.linear.api import LinearProblem, LowRank, Stage, stack
from seqlora.subspace import overlap, principal_angles
from theory.frontier import Frontier

Update = LowRank | Array  # a pair of factors, or the m x n matrix where that is smaller


def smaller(update: LowRank) -> Update:
    """The matrix itself if the factors have more columns than it has."""
    return update.dense() if len(update.A) > min(len(update.B), update.A.shape[1]) else update


def energy(update: Update, moment: Array) -> float:
    """`‖M X‖²/N = tr(M Σ Mᵀ) = tr(Bᵀ B · A Σ Aᵀ)`."""
    if isinstance(update, LowRank):
        B, A = update
        return float(np.sum((B.T @ B) * (A @ moment @ A.T)))
    return float(np.sum((update @ moment) * update))


def relative_error(update: Update, problem: LinearProblem, concept: int) -> float:
    """`‖(M - D_j) X_j‖² / ‖Y_j‖² = (‖M X_j‖² - 2 <M, K_j> + ‖Y_j‖²) / ‖Y_j‖²`."""
    K, wanted = problem.cross_moments[concept], problem.energies[concept]
    cross = np.sum((K @ update.A.T) * update.B) if isinstance(update, LowRank) else np.sum(K * update)
    # An exact fit leaves round-off of either sign.
    return max(0.0, (energy(update, problem.moments[concept]) - 2 * float(cross) + wanted) / wanted)


def difference(after: Update, before: Update) -> Update:
    """`M_after - M_before`."""
    if isinstance(after, LowRank) and isinstance(before, LowRank):
        return smaller(LowRank(np.hstack([after.B, -before.B]), np.vstack([after.A, before.A])))
    return _dense(after) - _dense(before)


def _dense(update: Update) -> Array:
    return update.dense() if isinstance(update, LowRank) else update


def error_matrix(metric: str, stages: Sequence[Stage], problem: LinearProblem) -> MetricMatrix:
    """R[t, j] of the relative error on every concept after every stage, also those not yet learnt."""
    concepts = range(problem.concepts)
    merged = [smaller(stage.merged) for stage in stages]
    R = np.array([[relative_error(update, problem, j) for j in concepts] for update in merged])
    single = np.array([relative_error(stages[j].alone, problem, j) for j in concepts])
    base = np.array([relative_error(problem.nothing(), problem, j) for j in concepts])
    return MetricMatrix(metric, R, single, base, problem.layer)


def change_matrix(stages: Sequence[Stage], problem: LinearProblem) -> MetricMatrix:
    """R[t, j] = ‖(M_t - M_j) X_j‖² / ‖Y_j‖² for t >= j."""
    T = problem.concepts
    merged = [smaller(stage.merged) for stage in stages]
    R = np.full((T, T), np.nan)
    for j in range(T):
        for t in range(j, T):
            changed = energy(difference(merged[t], merged[j]), problem.moments[j]) / problem.energies[j]
            R[t, j] = max(0.0, changed)
    nothing = np.full(T, np.nan)
    return MetricMatrix("output_change", R, nothing, nothing, problem.layer)


def layer_values(stages: Sequence[Stage], problem: LinearProblem) -> Iterator[Value]:
    """Everything that is no R matrix, on the activations that were fitted."""
    yield Value("update_norm", float(np.linalg.norm(stages[-1].merged.dense())), problem.layer)
    for j, stage in enumerate(stages):
        gain = 1 - relative_error(stage.merged, problem, j)
        yield Value("adaptation_gain", gain, problem.layer, stage=j, concept=j)
    yield from _interference(stages[-1], problem)
    yield from _frontier(stages, problem)
    bases = [stage.basis for stage in stages]
    if all(basis is not None for basis in bases):
        yield from _geometry([basis for basis in bases if basis is not None], problem)


def _interference(last: Stage, problem: LinearProblem) -> Iterator[Value]:
    """Only where the merged model says which share is whose."""
    if len(last.shares) != problem.concepts or problem.concepts == 1:
        return
    for j, own in enumerate(last.shares):
        others = stack(last.shares[:j] + last.shares[j + 1 :])
        adapted = energy(own, problem.moments[j])
        if adapted > 0:
            ratio = energy(others, problem.moments[j]) / adapted
            yield Value("interference_ratio", ratio, problem.layer, concept=j)


def _frontier(stages: Sequence[Stage], problem: LinearProblem) -> Iterator[Value]:
    """How far the last step is from the best step of its rank that forgets no more (claim C8)."""
    if len(stages) < 2 or not _adds_one_share(stages[-2], stages[-1]):
        return
    last, past, step = len(stages) - 1, stages[-2].merged, stages[-1].shares[-1]
    missing = problem.missing(last, past)
    frontier = Frontier(
        cross=missing,
        energy=relative_error(past, problem, last) * problem.energies[last],
        second_moment=problem.moments[last],
        past_moment=problem.moments[:last].sum(axis=0),
        rank=min(problem.rank, *missing.shape),
    )
    distance = frontier.shortfall(frontier.place(step.dense()))
    yield Value("frontier_distance", distance, problem.layer, stage=last, concept=last)


def _adds_one_share(before: Stage, after: Stage) -> bool:
    """Whether the step from one stage to the next added an update and left the earlier ones as they were."""
    return len(after.shares) == len(before.shares) + 1 and all(
        np.array_equal(old.B, new.B) and np.array_equal(old.A, new.A)
        for old, new in zip(before.shares, after.shares, strict=False)
    )


def _geometry(bases: Sequence[Array], problem: LinearProblem) -> Iterator[Value]:
    """Residual energy, leak, overlaps and angles of the bases."""
    for j, (A, S) in enumerate(zip(bases, problem.moments, strict=True)):
        total = float(np.trace(S))
        yield Value("residual_energy", (total - float(np.trace(A @ S @ A.T))) / total, problem.layer, concept=j)
        if j + 1 < len(bases):
            # Later bases may overlap each other: ‖A_{j+1:T} X_j‖² counts what several of them read as often.
            later = np.vstack(bases[j + 1 :])
            yield Value("leak", float(np.trace(later @ S @ later.T)) / total, problem.layer, concept=j)
        for k in range(j):
            yield Value("overlap", overlap(bases[k], A), problem.layer, concept=k, other=j)
            angle = float(np.degrees(principal_angles(bases[k], A)[0]))
            yield Value("smallest_angle", angle, problem.layer, concept=k, other=j)
