"""Claim C4: a budget on later updates certifies forgetting before any later concept is known."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from theory.api import BoundCheck, Claim, ClaimResult, Row, Suite, register
from theory.bounds import certificate, forgetting_bound, forgetting_weights, quadratic_form_bound
from theory.certificate import Certificate, verify
from theory.certify import certify_distribution_free, certify_sub_gaussian
from theory.claims.c3_forgetting_bound import rank_for
from theory.layers.base import Layer
from theory.learned import LearnedSequence, as_columns, learn_sequence, split_windows
from theory.subgaussian import estimate_proxy
from theory.tolerance import eigenvalue
from theory.verdicts import judge

Array = NDArray[np.float64]

DELTA = 0.05
NORM_MARGIN = 1.5
"""The declared norm bound, as a multiple of the largest calibration column. It is an assumption: where held-out columns
break it, the mean certificate is void and the row says so; the order statistic needs no such bound."""
INDEPENDENT_COLUMNS = 8
"""Columns grouped into a window where a layer has independent columns."""


@dataclass(frozen=True)
class Terms:
    """Everything about one concept that a certificate talks about."""

    concept: str
    basis: Array  # A_j, (r, n)
    bases: Array  # later bases stacked, (q, n)
    stack: Array  # [B_{j+1} … B_T], (m, q)
    reading: Array  # M up to a rotation, (rank, n)
    estimate: Array  # calibration windows, (K, n, N)
    held_out: Array  # fresh windows, (K, n, N)

    @classmethod
    def of(cls, sequence: LearnedSequence, index: int, estimate: Array, held_out: Array) -> Terms:
        """The terms of the concept at `index` of a learned sequence."""
        return cls(
            sequence.concepts[index],
            sequence.bases[index],
            np.concatenate(list(sequence.bases[index + 1 :])),
            sequence.later_stack(index),
            sequence.later_reading(index),
            estimate,
            held_out,
        )


@register
class AprioriCertificate(Claim):
    """The spectrum argument is checked exactly, the certificates on windows that they never saw."""

    id = "C4"
    title = "A-priori forgetting certificate"
    statement = (
        r"\|[B_{j+1}\ldots B_t]\| \le \beta,\ q\ \text{later directions}\ \Rightarrow\ "
        r"\lambda_k(M S M^\top) \le \beta^2\lambda_k((I-P_j)S(I-P_j)),\ k \le q,\ \text{so C3 holds with}\ "
        r"G = \beta^2\mathrm{diag}(\lambda_1,\ldots,\lambda_q)"
    )
    assumptions = (
        "later bases are orthogonal to this concept's basis and span at most q directions",
        "the stacked coefficients keep the budget beta",
        "sub-Gaussian form: the proxy estimated on one half of the windows; distribution-free form: exchangeability",
    )
    source = "ours"

    def check(self, layers: Sequence[Layer], source: str, suite: Suite, rng: np.random.Generator) -> ClaimResult:
        """Certificates of every concept that can be forgotten, on every layer."""
        start = time.perf_counter()
        checks: list[BoundCheck] = []
        rows: list[Row] = []
        for layer in layers:
            windowed = layer if layer.window > 1 else replace(layer, window=INDEPENDENT_COLUMNS)
            estimate, held_out = split_windows(windowed, rng)
            activations = {concept: as_columns(windows) for concept, windows in estimate.items()}
            outputs = min(layer.weight.shape[0], layer.width)
            sequence = learn_sequence(activations, outputs, rank_for(layer.width), rng)
            budget = float(np.linalg.norm(sequence.later_stack(0), 2))  # one budget for the whole sequence
            for index, concept in enumerate(sequence.concepts[:-1]):
                terms = Terms.of(sequence, index, estimate[concept], held_out[concept])
                if index == 0:
                    checks += spectrum_checks(layer.name, terms, budget)
                found, row = _certificate_checks(layer.name, terms, budget, rng)
                checks += found
                rows.append(row)
        return ClaimResult(
            claim=self.id,
            layers=source,
            verdict=judge(checks),
            evidence=_evidence(rows),
            checks=tuple(checks),
            tables={"certificate": rows},
            seconds=time.perf_counter() - start,
        )


def spectrum_checks(layer: str, terms: Terms, budget: float) -> list[BoundCheck]:
    """The certificate against the after-the-fact bound, for the learned, the worst and two inadmissible updates."""
    X = as_columns(terms.estimate)
    N, q = terms.estimate.shape[2], len(terms.bases)
    R = X - terms.basis.T @ (terms.basis @ X)
    S, S_residual = X @ X.T / X.shape[1], R @ R.T / X.shape[1]
    top = (len(S) - q, len(S) - 1)  # the certificate reads no more than q eigenvalues
    spectrum, worst = scipy.linalg.eigh(S_residual, subset_by_index=top)
    largest, leading = scipy.linalg.eigh(S, subset_by_index=top)
    certified = certificate(np.clip(spectrum, 0, None), q, budget, N, DELTA)
    tolerance = eigenvalue(len(S), budget**2 * float(largest[-1]))
    updates = {
        "learned updates": (terms.reading, False),
        "worst admissible updates": (budget * worst.T, False),
        "budget exceeded by 10 %": (1.1 * budget * worst.T, True),
        "leading directions reused": (budget * leading.T, True),
    }
    return [
        BoundCheck(
            f"certificate covers the spectrum: {name}",
            lhs=forgetting_bound(M @ S @ M.T, N, DELTA),
            rhs=certified,
            tolerance=tolerance * q,
            layer=layer,
            control=control,
        )
        for name, (M, control) in updates.items()
    ]


def _certificate_checks(
    layer: str, terms: Terms, budget: float, rng: np.random.Generator
) -> tuple[list[BoundCheck], Row]:
    """Certify from one half of the windows, verify on the other with the adapters that were learned later."""
    N = terms.estimate.shape[2]
    given = (terms.estimate, terms.basis, len(terms.bases), budget, DELTA)
    norm_bound = NORM_MARGIN * float(np.sqrt(np.square(terms.estimate).sum(1).max()))
    sub_gaussian = certify_sub_gaussian(*given, rng, layer=layer, concept=terms.concept)
    free = certify_distribution_free(*given, norm_bound=norm_bound, layer=layer, concept=terms.concept)
    bounded = bool(np.square(terms.held_out).sum(1).max() <= norm_bound**2)
    if not bounded:
        free = certify_distribution_free(*given, layer=layer, concept=terms.concept)
    proxy = estimate_proxy(terms.reading @ terms.estimate, rng)
    weights = forgetting_weights(np.linalg.eigvalsh(proxy.row), N, proxy.column)
    realised = np.square(terms.reading @ terms.held_out).sum((1, 2)) / N
    row: Row = {
        "layer": layer,
        "concept": terms.concept,
        "certificate": sub_gaussian.bound,
        "distribution_free": free.bound,
        "distribution_free_mean": free.mean_bound,
        "a_posteriori": quadratic_form_bound(weights, DELTA, proxy.kappa2, proxy.mean_energy),
        "realised": float(np.quantile(realised, 1 - DELTA)),
        "realised_largest": float(realised.max()),
        "realised_mean": float(realised.mean()),
        "budget": budget,
        "directions": len(terms.bases),
        "delta": DELTA,
        "windows": len(realised),
        "norm_bound_kept": bounded,
    }
    return [_verified(certified, terms) for certified in (sub_gaussian, free)], row


def _verified(certified: Certificate, terms: Terms) -> BoundCheck:
    return verify(certified, terms.bases, terms.stack, terms.held_out)


def _evidence(rows: Sequence[Row]) -> str:
    def ratio(above: str, below: str) -> Array:
        return np.array([float(row[above] or 0) / float(row[below] or 1) for row in rows])

    apriori, free = ratio("certificate", "a_posteriori"), ratio("certificate", "distribution_free")
    slack = ratio("certificate", "realised")
    return (
        f"certificate / a-posteriori bound {apriori.min():.1f}-{apriori.max():.1f} (median {np.median(apriori):.1f}), "
        f"certificate / realised {1 - DELTA:.0%} quantile {slack.min():.1f}-{slack.max():.1f}; the distribution-free "
        f"certificate is tighter for {int(np.sum(free > 1))} of {len(rows)} concepts "
        f"(sub-Gaussian / distribution-free {free.min():.2f}-{free.max():.2f})."
    )
