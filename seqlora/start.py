"""Where a new basis starts: the closed form of one linearised step, a random one, or a least-overlap one."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seqlora.adapters import AdaptedLayer, recording
from seqlora.config import SeqLoRAConfig
from seqlora.errors import NonFiniteError
from seqlora.groups import LayerGroup
from seqlora.linear import solve_moments
from seqlora.moments import ExactMoment, Moment, SketchedMoment
from seqlora.subspace import project_out, retract_qr, spread

Loss = Callable[[torch.nn.Module, Any], Tensor]
REMEMBERED = "on what is to be remembered; check the data"


def gather_moments(
    model: torch.nn.Module, layers: Sequence[AdaptedLayer], batches: Iterable[Any], loss: Loss, config: SeqLoRAConfig
) -> dict[str, Moment]:
    """Second moment of every layer's input over `batches`, without gradients."""
    moments = empty_moments(layers, config)
    with torch.no_grad(), recording(layers, lambda layer, rows: moments[layer.name].update(rows)):
        for batch in batches:
            loss(model, batch)
    return moments


def empty_moments(layers: Sequence[AdaptedLayer], config: SeqLoRAConfig) -> dict[str, Moment]:
    """A moment of each layer's inputs, exact or sketched, that has seen nothing yet."""
    return {
        layer.name: (
            ExactMoment(layer.weight.shape[1])
            if config.moments == "exact"
            else SketchedMoment(layer.weight.shape[1], config.sketch_size)
        )
        for layer in layers
    }


def gather_gradients(
    model: torch.nn.Module, layers: Sequence[AdaptedLayer], batches: Iterable[Any], loss: Loss
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Second moments (n, n) and mean weight gradients (m, n) of every layer, in one pass of forward and backward."""
    moments = {layer.name: ExactMoment(layer.weight.shape[1]) for layer in layers}
    gradients = {layer.name: torch.zeros(layer.weight.shape, dtype=torch.float64) for layer in layers}

    def add_gradient(layer: AdaptedLayer, rows: Tensor, output_gradient: Tensor) -> None:
        # dL/dW = sum over tokens of (dL/dy) x^T
        gradients[layer.name] += (output_gradient.mT @ rows).to(gradients[layer.name])

    _pass(model, layers, batches, loss, moments, add_gradient, "before any step; check the data and the model")
    return {name: moment.matrix() for name, moment in moments.items()}, gradients


def gather_sensitivities(
    model: torch.nn.Module,
    layers: Sequence[AdaptedLayer],
    batches: Iterable[Any],
    loss: Loss,
    moments: Mapping[str, Moment] | None = None,
) -> dict[str, float]:
    """How much the loss reacts to each layer's output: `sum over rows of ‖dL/dy‖² / m`, the trace of a Fisher block.

    The inputs that pass by are counted into `moments`, if there are any: that saves a pass of its own.

    With it, `tr(M S M^T)` times this number estimates what a change M of the weight does to the loss (K-FAC with a
    multiple of the identity in place of the output factor; Martens & Grosse 2015).
    """
    squares = {layer.name: 0.0 for layer in layers}

    def add(layer: AdaptedLayer, rows: Tensor, output_gradient: Tensor) -> None:
        squares[layer.name] += float(output_gradient.square().sum()) / output_gradient.shape[-1]

    _pass(model, layers, batches, loss, moments, add, REMEMBERED)
    return squares


def gather_output_moments(
    model: torch.nn.Module,
    layers: Sequence[AdaptedLayer],
    batches: Iterable[Any],
    loss: Loss,
    moments: Mapping[str, Moment] | None = None,
) -> dict[str, Tensor]:
    """`sum over rows of (dL/dy)(dL/dy)ᵀ` of every layer, (m, m) float64: the output factor of K-FAC.

    Its trace over m is what `gather_sensitivities` gives; inputs are counted into `moments` in the same way.
    """
    sums = {layer.name: torch.zeros(len(layer.weight), len(layer.weight), dtype=torch.float64) for layer in layers}

    def add(layer: AdaptedLayer, rows: Tensor, output_gradient: Tensor) -> None:
        sums[layer.name] += (output_gradient.mT @ output_gradient).to(sums[layer.name])

    _pass(model, layers, batches, loss, moments, add, REMEMBERED)
    return sums


def _pass(
    model: torch.nn.Module,
    layers: Sequence[AdaptedLayer],
    batches: Iterable[Any],
    loss: Loss,
    moments: Mapping[str, Moment] | None,
    add: Callable[[AdaptedLayer, Tensor, Tensor], None],
    complaint: str,
) -> None:
    """Forward and backward over all batches; `add` gets every layer's inputs and output gradients.

    Inputs are counted into `moments`, if there are any; `complaint` ends the message of a loss that is not finite.
    """

    def count(layer: AdaptedLayer, rows: Tensor) -> None:
        if moments is not None:
            moments[layer.name].update(rows)

    for layer in layers:
        layer.B.requires_grad_(True)  # B = 0 changes nothing, but makes every layer's output part of the graph
    with torch.enable_grad(), recording(layers, count, add):
        for batch in batches:
            value = loss(model, batch)
            if not bool(torch.isfinite(value)):
                raise NonFiniteError(f"the loss is not finite {complaint}")
            torch.autograd.backward(value, inputs=[layer.B for layer in layers])


def moment_start(
    group: LayerGroup,
    moments: Mapping[str, Tensor],
    gradients: Mapping[str, Tensor],
    past: Mapping[str, Tensor],
    damping: float,
) -> Tensor:
    """Bases of the best rank-r step: section 1's closed form with K = -dL/dW, in the complement of `past`.

    The second moment is scaled to mean eigenvalue 1 and `damping` is the ridge; `damping -> inf` gives the leading
    right singular vectors of the weight gradient.

    Returns:
        Shape (L, r, n), float64.
    """
    S = torch.stack([moments[name] for name in group.names]).double()
    S = S / S.diagonal(dim1=-2, dim2=-1).mean(-1).clamp_min(torch.finfo(S.dtype).tiny)[:, None, None]
    if group.past_factor is not None:
        F = group.past_factor.to(S)  # moments are kept in main memory, whatever the device
        past_moment = F.mT @ F
        S = S + past_moment / past_moment.diagonal(dim1=-2, dim2=-1).mean(-1).clamp_min(1e-300)[:, None, None]
    K = -torch.stack([gradients[name] for name in group.names]).double()
    K = K / K.flatten(1).norm(dim=1).clamp_min(torch.finfo(K.dtype).tiny)[:, None, None]
    used = torch.stack([past[name] for name in group.names]).double() if group.mode == "orthogonal" else None
    return solve_moments(S, K, group.A.shape[-2], ridge=damping, past_bases=used).A


def random_start(group: LayerGroup, past: Mapping[str, Tensor], rng: np.random.Generator) -> Tensor:
    """Haar-distributed bases, in the complement of `past` where bases must be orthogonal. Shape (L, r, n)."""
    A = torch.from_numpy(rng.standard_normal(tuple(group.A.shape)))
    if group.mode == "orthogonal":
        A = project_out(A, torch.stack([past[name] for name in group.names]).double())
    return retract_qr(A)


def spread_start(group: LayerGroup, concept: int, concepts: int, seed: int) -> Tensor:
    """The bases of concept number `concept` in the least-overlap arrangement of all `concepts`. Shape (L, r, n)."""
    rank, n = group.A.shape[-2:]
    return torch.from_numpy(np.stack([_arrangement(n, rank, concepts, seed, name)[concept] for name in group.names]))


@functools.lru_cache(maxsize=256)
def _arrangement(n: int, rank: int, concepts: int, seed: int, layer: str) -> NDArray[np.float64]:
    return spread(n, rank, concepts, np.random.default_rng([seed, *layer.encode()]))
