"""The theory's guarantees on the diffusion model's own layers: C3's bound, and C4's certificate, on held-out images.

Concept j's updates are fixed; images of j that no training saw, with fresh noise and noise levels, are then what the
theory calls a fresh sample X, one image a window of N positions:

    F = ‖M X‖² / N,  M = Σ_{j<i<=t} B_i A_i      against    bound(M, moments of other windows)             (C3, C3r)
                                                  and       certificate(A_j, β, q), which knows no M        (C4)

Only methods whose merge is the plain sum are judged; C4 only where its terms are kept: later bases orthogonal to A_j,
and ‖[B_{j+1} … B_t]‖ <= β, the budget that was declared when j was learnt.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.api import Array
from bench.methods.images.api import ImageMethod, weighted_sum
from bench.personalise.batches import ConceptBatches
from bench.personalise.images import ConceptImages
from bench.personalise.shared import Learnt
from bench.personalise.studio import Studio, Update
from bench.seeds import part
from seqlora.adapters import input_rows
from theory.api import BoundCheck
from theory.bounds import quadratic_form_bound
from theory.certify import certify_distribution_free, certify_sub_gaussian
from theory.claims.c3r_real_activations import weights_by_form
from theory.stattest import check_rate
from theory.subgaussian import estimate_proxy

if TYPE_CHECKING:
    from bench.tasks.images import ImageWorkshop

DELTA = 0.1
BATCHES, BATCH = 2, 8  # 16 windows to estimate from, 16 to judge: the least that an order statistic of delta needs is 9
POSITIONS = 16  # N, evenly spaced over pixels or tokens
CONCEPTS = 2  # the first ones, which have most to lose; keeps the cost of a cell constant in T
DIRECTIONS = 64  # q, at most: more could not be told apart in 16 windows; later stages are then left out
HEADROOM = 2.0  # the budget that is declared when j is learnt: this times ‖B_j‖ sqrt(number of later concepts)
ORTHOGONAL = 1e-4  # ‖A_i A_jᵀ‖ below which float32 bases count as orthogonal
FORMS = ("C3, plain form", "C3r, proxy form", "C4, sub-Gaussian", "C4, distribution-free")


def applies(method: ImageMethod) -> bool:
    """Whether the merged model is the base plus the plain sum of updates."""
    kind = type(method)
    return kind.merge is ImageMethod.merge and kind.stages is ImageMethod.stages


def guarantees(
    method: ImageMethod, learnt: Sequence[Learnt], stages: Sequence[Update], workshop: ImageWorkshop
) -> list[dict[str, Any]]:
    """One check a layer and form, over the windows of the first concepts, as `BoundCheck.to_json`.

    `details` hold what a figure needs, relative to the concept's own adaptation energy ‖ΔW_j X_j‖²/N: mean F
    ("forgetting"), mean bound ("bound"), and their least distance ("slack", negative where a window broke the bound).
    """
    if not applies(method) or len(learnt) < 2 or not all(len(one.references) for one in workshop.concepts):
        return []
    layers = list(learnt[0].factors)
    tallies = {layer: Tally(layer) for layer in layers}
    for j in range(min(CONCEPTS, len(learnt) - 1)):
        model = stages[j] if method.in_sequence else weighted_sum([learnt[j]], [1.0])
        seed = workshop.noise[j]
        children = [part(seed, k) for k in range(3)]
        subject = workshop.know(learnt[j])
        workshop.studio.show(model)
        images = workshop.concepts[j]
        estimate = record(workshop.studio, images, subject, layers, children[0])
        held_out = record(workshop.studio, unseen(images), subject, layers, children[1])
        rng = np.random.default_rng(children[2])
        for layer in layers:
            tallies[layer].add(Terms.of(layer, learnt, j), estimate[layer], held_out[layer], rng)
    return [check.to_json() for tally in tallies.values() for check in tally.checks()]


def unseen(concept: ConceptImages) -> ConceptImages:
    """The held-out references in place of the training images, captioned by the subject alone."""
    plain = (("a photo of {}",),) * len(concept.references)
    return replace(concept, training=concept.references, templates=plain, masks=None)


@torch.no_grad()
def record(
    studio: Studio, concept: ConceptImages, subject: str, layers: Sequence[str], seed: np.random.SeedSequence
) -> dict[str, Array]:
    """Layer name -> windows of a concept's images at random noise levels, (K, n, N), with the model as it is shown."""
    windows: dict[str, list[Array]] = {layer: [] for layer in layers}

    def keep(layer: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            rows = input_rows(module, inputs[0])
            seen = rows.reshape(len(inputs[0]), -1, rows.shape[-1])
            at = np.linspace(0, seen.shape[1] - 1, min(POSITIONS, seen.shape[1])).round().astype(int)
            windows[layer].append(seen[:, at].mT.double().cpu().numpy())

        return hook

    handles = [studio.denoiser.get_submodule(layer).register_forward_pre_hook(keep(layer)) for layer in layers]
    try:
        for batch in ConceptBatches(studio.pipeline, concept, BATCHES, BATCH, seed, subject):
            studio.denoiser(batch)
    finally:
        for handle in handles:
            handle.remove()
    return {layer: np.concatenate(parts) for layer, parts in windows.items()}


@dataclass(frozen=True)
class Terms:
    """What concept j and the later ones are on one layer.

    Attributes:
        own: ΔW_j, (m, n).
        basis: A_j with orthonormal rows, (r, n).
        later: bases of the later concepts, stacked, (q, n).
        stack: [B_{j+1} … B_t], (m, q).
        budget: β, declared from B_j and the number of later concepts alone.
    """

    own: Array
    basis: Array
    later: Array
    stack: Array
    budget: float

    @classmethod
    def of(cls, layer: str, learnt: Sequence[Learnt], j: int) -> Terms:
        """From the factors; the rows of A are made orthonormal, B takes up the difference."""
        A, B = _orthonormal(*learnt[j].factors[layer])
        following = learnt[j + 1 : j + 1 + max(1, DIRECTIONS // len(A))]
        pairs = [_orthonormal(*concept.factors[layer]) for concept in following]
        budget = HEADROOM * float(np.linalg.norm(B, 2)) * len(pairs) ** 0.5
        return cls(B @ A, A, np.concatenate([a for a, _ in pairs]), np.concatenate([b for _, b in pairs], 1), budget)

    @property
    def reading(self) -> Array:
        """M up to a rotation of the outputs: L = R A with [B …] = Q R, so that ‖L X‖ = ‖M X‖."""
        return np.linalg.qr(self.stack, mode="r") @ self.later

    @property
    def norm(self) -> float:
        """‖[B_{j+1} … B_t]‖, which the budget caps."""
        return float(np.linalg.norm(self.stack, 2))

    @property
    def orthogonal(self) -> bool:
        """Whether C4's terms on bases hold: later bases orthonormal, and orthogonal to A_j."""
        rows = np.concatenate([self.basis, self.later])
        return bool(np.abs(rows @ rows.T - np.eye(len(rows))).max() < ORTHOGONAL)


@dataclass
class Tally:
    """Forgetting of held-out windows and what was promised, on one layer."""

    layer: str
    energies: dict[str, list[Array]] = field(default_factory=dict)  # form -> F of the windows of each concept
    bounds: dict[str, list[float]] = field(default_factory=dict)  # form -> bound of each concept
    norms: list[tuple[float, float]] = field(default_factory=list)  # (‖[B …]‖, β) where bases are orthogonal

    def add(self, terms: Terms, estimate: Array, held_out: Array, rng: np.random.Generator) -> None:
        """Bounds from one half of the windows, F of the other, both relative to what the concept's update does."""
        N = estimate.shape[2]
        read = terms.reading
        unit = float(np.square(terms.own @ estimate).sum((1, 2)).mean() / N)
        if unit == 0 or not np.any(read @ estimate):
            return  # nothing was learnt here, or nothing later: there is nothing to bound
        F = np.square(read @ held_out).sum((1, 2)) / N / unit
        found = self._bounds(terms, estimate, rng)
        if terms.orthogonal:
            self.norms.append((terms.norm, terms.budget))
            found |= self._certificates(terms, estimate, rng) if terms.norm <= terms.budget else {}
        for form, bound in found.items():
            self.energies.setdefault(form, []).append(F)
            self.bounds.setdefault(form, []).append(bound / unit)

    def _bounds(self, terms: Terms, estimate: Array, rng: np.random.Generator) -> dict[str, float]:
        windows = terms.reading @ estimate
        proxy = estimate_proxy(windows, rng)
        weights = weights_by_form(windows, proxy)
        return {
            FORMS[0]: quadratic_form_bound(weights["plain"], DELTA, mean_energy=proxy.mean_energy),
            FORMS[1]: quadratic_form_bound(weights["proxy"], DELTA, proxy.kappa2, proxy.mean_energy),
        }

    def _certificates(self, terms: Terms, estimate: Array, rng: np.random.Generator) -> dict[str, float]:
        given = (estimate, terms.basis, len(terms.later), terms.budget, DELTA)
        free = {FORMS[3]: certify_distribution_free(*given).bound}
        # the costly one for the first concept only, which has the most to lose
        return free if FORMS[2] in self.bounds else {FORMS[2]: certify_sub_gaussian(*given, rng).bound, **free}

    def checks(self) -> Iterator[BoundCheck]:
        """One a form, and one whether later concepts kept the budget."""
        for form, energies in self.energies.items():
            F = np.concatenate(energies)
            bound = np.concatenate([np.full(len(f), b) for f, b in zip(energies, self.bounds[form], strict=True)])
            yield check_rate(
                f"{form}: delta={DELTA:g}",
                int(np.sum(bound < F)),
                len(F),
                DELTA,
                layer=self.layer,
                forgetting=float(F.mean()),
                bound=float(bound.mean()),
                slack=float((bound - F).min()),
            )
        if self.norms:
            norm, budget = max(self.norms, key=lambda pair: pair[0] / max(pair[1], np.finfo(np.float64).tiny))
            yield BoundCheck("C4, budget: ‖[B …]‖ <= beta", lhs=norm, rhs=budget, layer=self.layer)


def _orthonormal(A: Tensor, B: Tensor) -> tuple[Array, Array]:
    """The same update with orthonormal rows: Aᵀ = Q R gives A <- Qᵀ, B <- B Rᵀ."""
    Q, R = np.linalg.qr(A.flatten(1).double().numpy().T)
    return Q.T, B.flatten(1).double().numpy() @ R.T


__all__ = ["DELTA", "FORMS", "Tally", "Terms", "applies", "guarantees", "record", "unseen"]
