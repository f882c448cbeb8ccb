"""The theory's energies on the layers of a diffusion model, from the updates of all stages and stored moments.

    F[t, j] = ‖(M_t - M_j) X_j‖² / ‖ΔW_j X_j‖²,     ‖M X_j‖² / N = tr(M Σ_j Mᵀ)

M_t is the merged update after stage t, ΔW_j what concept j learnt. With G_j the second moment of gradients at a layer's
outputs, for targets drawn from the model, K-FAC (Martens & Grosse 2015) says what the change does to the prediction,

    tr(G_j (M_t - M_j) Σ_j (M_t - M_j)ᵀ) summed over layers  ~  mean of w (f_t - f_j)²,

as if layers and rows were independent and the network linear: `prediction_changes` measures the right side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import product

import numpy as np
import torch
from torch import Tensor

from bench.api import MetricMatrix, Value
from bench.personalise.shared import Learnt
from bench.personalise.studio import Update
from seqlora.subspace import overlap, retract_qr


def energy(update: Tensor, moment: Tensor, output_moment: Tensor | None = None) -> float:
    """`tr(M Σ Mᵀ)`, or `tr(G M Σ Mᵀ)`."""
    M = update.double()
    weighed = M if output_moment is None else output_moment.double() @ M
    return max(0.0, float(((M @ moment) * weighed).sum()))


def forgetting_energies(stages: Sequence[Update], learnt: Sequence[Learnt]) -> list[MetricMatrix]:
    """F[t, j] of every layer, and their mean over layers (layer ""); nothing where only tokens were trained."""
    layers = [layer for layer in learnt[0].factors if layer in learnt[0].moments]
    matrices = [_of_layer(layer, stages, learnt) for layer in layers]
    if not matrices:
        return []
    nothing = np.full(len(learnt), np.nan)
    mean = np.mean([matrix.values for matrix in matrices], axis=0)
    return [*matrices, MetricMatrix("forgetting_energy", mean, nothing, nothing)]


def _of_layer(layer: str, stages: Sequence[Update], learnt: Sequence[Learnt]) -> MetricMatrix:
    T = len(stages)
    R, nothing = np.full((T, T), np.nan), np.full(T, np.nan)
    for j, concept in enumerate(learnt):
        A, B = concept.factors[layer]
        adapted = energy(B.flatten(1) @ A.flatten(1), concept.moments[layer])
        for t in range(j, T):
            changed = energy(stages[t][layer] - stages[j][layer], concept.moments[layer])
            R[t, j] = changed / max(adapted, np.finfo(np.float64).tiny)
    return MetricMatrix("forgetting_energy", R, nothing, nothing, layer)


def fisher_energy(stages: Sequence[Update], learnt: Sequence[Learnt]) -> list[MetricMatrix]:
    """tr(G_j ΔM Σ_j ΔMᵀ) summed over layers, ΔM = M_t - M_j; nothing where the output moments G_j are not known."""
    if not all(concept.output_moments for concept in learnt):
        return []
    T = len(stages)
    R, nothing = np.full((T, T), np.nan), np.full(T, np.nan)
    for j, concept in enumerate(learnt):
        for t in range(j, T):
            R[t, j] = sum(
                energy(stages[t][layer] - stages[j][layer], concept.moments[layer], G)
                for layer, G in concept.output_moments.items()
            )
    return [MetricMatrix("fisher_energy", R, nothing, nothing)]


def prediction_changes(
    stages: Sequence[Update],
    learnt: Sequence[Learnt],
    predictions: Callable[[Sequence[Update], Learnt], Iterable[Tensor]],
) -> list[MetricMatrix]:
    """Mean of w (f_t - f_j)², f_t what the network predicts of concept j's noisy images after stage t.

    Args:
        stages: merged updates.
        learnt: the concepts; nothing is measured where only tokens were trained, since no stage changes anything.
        predictions: √w f of a concept with W0 + each of some updates, always on the same batches.
    """
    if not learnt[0].factors:
        return []
    T = len(stages)
    R, nothing = np.full((T, T), np.nan), np.full(T, np.nan)
    for j, concept in enumerate(learnt):
        before, *later = predictions(stages[j:], concept)
        R[j:, j] = [0.0, *(float((after - before).double().square().mean()) for after in later)]
    return [MetricMatrix("prediction_change", R, nothing, nothing)]


def update_changes(stages: Sequence[Update]) -> MetricMatrix:
    """`‖M_t - M_j‖_F` over all layers together: what a predictor that knows no activations would look at."""
    T = len(stages)
    R, nothing = np.full((T, T), np.nan), np.full(T, np.nan)
    for j, t in product(range(T), repeat=2):
        if t < j:
            continue
        squares = (float((stages[t][layer] - stages[j][layer]).double().square().sum()) for layer in stages[t])
        R[t, j] = sum(squares) ** 0.5
    return MetricMatrix("update_change", R, nothing, nothing)


def geometry(learnt: Sequence[Learnt]) -> Iterator[Value]:
    """Residual energy, leak and overlap of the concepts' bases, mean over layers and (overlap) its largest.

    By layer, too: residual energy and leak as means over concepts, overlap as its largest over pairs.
    """
    layers = [layer for layer in learnt[0].factors if layer in learnt[0].moments]
    if not layers:
        return
    bases = {layer: [retract_qr(c.factors[layer][0].flatten(1).double()) for c in learnt] for layer in layers}
    shares = {layer: _shares(bases[layer], [c.moments[layer] for c in learnt]) for layer in layers}
    pairs = [(k, j) for j in range(len(learnt)) for k in range(j)]
    overlaps = {layer: [overlap(bases[layer][k], bases[layer][j]) for k, j in pairs] for layer in layers}
    for j in range(len(learnt)):
        yield Value("residual_energy", float(np.mean([residual[j] for residual, _ in shares.values()])), concept=j)
        if j + 1 < len(learnt):
            yield Value("leak", float(np.mean([leak[j] for _, leak in shares.values()])), concept=j)
    for p, (k, j) in enumerate(pairs):
        measured = [overlaps[layer][p] for layer in layers]
        yield Value("overlap", float(np.mean(measured)), concept=k, other=j)
        yield Value("overlap", float(np.max(measured)), concept=k, other=j, item="largest over layers")
    for layer in layers:
        residual, leak = shares[layer]
        yield Value("residual_energy", float(np.mean(residual)), layer=layer, item="mean over concepts")
        if pairs:
            yield Value("leak", float(np.mean(leak[:-1])), layer=layer, item="mean over concepts")
            yield Value("overlap", float(np.max(overlaps[layer])), layer=layer, item="largest over pairs")


def _shares(bases: Sequence[Tensor], moments: Sequence[Tensor]) -> tuple[list[float], list[float]]:
    """Of each concept's energy tr Σ_j on one layer: what its basis does not see, and what later bases read."""
    residual, leak = [], []
    for j, (A, S) in enumerate(zip(bases, moments, strict=True)):
        total = float(S.trace())
        residual.append(1 - float((A @ S @ A.mT).trace()) / total)
        later = torch.cat([S.new_zeros(0, S.shape[0]), *bases[j + 1 :]])
        leak.append(float((later @ S @ later.mT).trace()) / total)
    return residual, leak
