"""The theory's energies on the layers of a diffusion model, from the updates of all stages and stored moments.

    F[t, j] = ‖(M_t - M_j) X_j‖² / ‖ΔW_j X_j‖²,     ‖M X_j‖² / N = tr(M Σ_j Mᵀ)

M_t is the merged update after stage t, ΔW_j what concept j learnt.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from bench.api import MetricMatrix, Value
from bench.personalise.shared import Learnt
from bench.personalise.studio import Update
from seqlora.subspace import overlap, retract_qr


def energy(update: Tensor, moment: Tensor) -> float:
    """`tr(M Σ Mᵀ)`."""
    M = update.double()
    return max(0.0, float(((M @ moment) * M).sum()))


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


def geometry(learnt: Sequence[Learnt]) -> Iterator[Value]:
    """Residual energy, leak and overlap of the concepts' bases: mean over layers, overlap also its largest."""
    layers = [layer for layer in learnt[0].factors if layer in learnt[0].moments]
    if not layers:
        return
    bases = {layer: [retract_qr(c.factors[layer][0].flatten(1).double()) for c in learnt] for layer in layers}
    for j, concept in enumerate(learnt):
        residual, leak = [], []
        for layer in layers:
            S, A = concept.moments[layer], bases[layer][j]
            total = float(S.trace())
            residual.append(1 - float((A @ S @ A.mT).trace()) / total)
            later = torch.cat([S.new_zeros(0, S.shape[0]), *bases[layer][j + 1 :]])
            leak.append(float((later @ S @ later.mT).trace()) / total)
        yield Value("residual_energy", float(np.mean(residual)), concept=j)
        if j + 1 < len(learnt):
            yield Value("leak", float(np.mean(leak)), concept=j)
        for k in range(j):
            pairs = [overlap(bases[layer][k], bases[layer][j]) for layer in layers]
            yield Value("overlap", float(np.mean(pairs)), concept=k, other=j)
            yield Value("overlap", float(np.max(pairs)), concept=k, other=j, item="largest over layers")
