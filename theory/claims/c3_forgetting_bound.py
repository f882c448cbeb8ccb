"""Claim C3: forgetting stays below a high-probability bound if residual activations are sub-Gaussian."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from theory.api import BoundCheck, Claim, ClaimResult, Row, Suite, register
from theory.bounds import forgetting_bound, gaussian_quantile, gaussian_tail, union_delta
from theory.layers.base import Layer
from theory.learned import LearnedSequence, learn_sequence
from theory.montecarlo import CONTROLS, SUB_GAUSSIAN, forgetting_samples
from theory.stattest import check_rate, rate_interval
from theory.tolerance import eigenvalue
from theory.verdicts import judge

Array = NDArray[np.float64]

DELTAS = (0.1, 0.01, 0.001)
CONTROL_DELTAS = (0.01, 0.001)  # heavy tails show far out: at 0.1 even t(3) may stay below the bound
COLUMNS = 16
TIGHTNESS_COLUMNS = (1, 4, 16, 64, 256)
ENTRIES: dict[str, int] = {"smoke": 8_000_000, "ci": 20_480_000, "full": 204_800_000}  # 20,000 trials at n=64, N=16
MOST_TRIALS: dict[str, int] = {"smoke": 4000, "ci": 20_000, "full": 200_000}


def rank_for(width: int) -> int:
    """Directions a concept: 4 in narrow layers, 8 in wide ones."""
    return 4 if width < 128 else 8


def learn(layer: Layer, rng: np.random.Generator) -> LearnedSequence:
    """Adapters learned in sequence on all of a layer's concepts."""
    outputs = min(layer.weight.shape[0], layer.width)
    return learn_sequence(layer.activations, outputs, rank_for(layer.width), rng)


@register
class ForgettingBound(Claim):
    """Second moments and updates come from the layer, fresh residual activations from families of known law."""

    id = "C3"
    title = "High-probability forgetting bound"
    statement = (
        r"P\left(N F > \kappa^2\left[\mathrm{tr}G\,\mathrm{tr}\Psi + 2\|G\|_F\|\Psi\|_F\sqrt{x}"
        r" + 2\|G\|\|\Psi\|x\right]\right) \le \delta,\quad G = M S M^\top,\ x = \log(1/\delta)"
    )
    assumptions = (
        "centred residual activations are matrix sub-Gaussian with proxy kappa^2 Psi (x) S",
        "M is independent of the fresh sample",
    )
    source = "abstract"

    def check(self, layers: Sequence[Layer], source: str, suite: Suite, rng: np.random.Generator) -> ClaimResult:
        """Every family on the narrowest layer; the exact Gaussian tail on all of them."""
        start = time.perf_counter()
        checks: list[BoundCheck] = []
        rows: list[Row] = []
        tightness: list[Row] = []
        narrowest = min(layers, key=lambda layer: layer.width)
        for layer in layers:
            sequence = learn(layer, rng)
            reading = sequence.later_reading(0)
            read = reading @ layer.activations[sequence.concepts[0]]
            G = read @ read.T / read.shape[1]  # M S M^T, without the n x n matrix S
            checks += _exact_checks(layer.name, G)
            if layer is narrowest:
                S = layer.second_moment(sequence.concepts[0])
                found, table = _family_checks(layer.name, reading, S, suite, rng)
                checks += [*found, *_variant_checks(layer, sequence, suite, rng)]
                rows += table
                tightness += _tightness_rows(layer.name, G)
        return ClaimResult(
            claim=self.id,
            layers=source,
            verdict=judge(checks),
            evidence=_evidence(rows),
            checks=tuple(checks),
            tables={"violations": rows, "tightness": tightness},
            seconds=time.perf_counter() - start,
        )


def _exact_checks(layer: str, G: Array) -> list[BoundCheck]:
    """For a Gaussian the failure probability of the bound is known: no Monte Carlo, no acceptance limit."""
    g = np.clip(np.linalg.eigvalsh(G), 0, None) / COLUMNS
    return [
        BoundCheck(
            f"exact Gaussian tail: delta={delta:g}",
            lhs=gaussian_tail(g, forgetting_bound(G, COLUMNS, delta), np.full(len(g), COLUMNS)),
            rhs=delta,
            tolerance=eigenvalue(len(g), delta),
            layer=layer,
        )
        for delta in DELTAS
    ]


def _family_checks(
    layer: str, M: Array, S: Array, suite: str, rng: np.random.Generator
) -> tuple[list[BoundCheck], list[Row]]:
    """Violations of the bound by family and delta; controls are judged where they must show."""
    G = M @ S @ M.T
    trials = min(MOST_TRIALS[suite], ENTRIES[suite] // (S.shape[0] * COLUMNS))
    checks: list[BoundCheck] = []
    rows: list[Row] = []
    for family in (*SUB_GAUSSIAN, *CONTROLS):
        control = family in CONTROLS
        count = MOST_TRIALS[suite] if family == "gaussian" else trials
        F = forgetting_samples(M, S, COLUMNS, family, count, rng)
        for delta in DELTAS:
            bound = forgetting_bound(G, COLUMNS, delta)
            violations = int(np.sum(bound < F))
            quantile = float(np.quantile(F, 1 - delta))
            row = rate_row(layer, violations, count, delta, bound=bound, quantile=quantile)
            rows.append({**row, "family": family, "n_samples": COLUMNS, "trials": count, "control": control})
            if not control or delta in CONTROL_DELTAS:
                name = f"{family}: delta={delta:g}"
                checks.append(check_rate(name, violations, count, delta, layer=layer, control=control))
    return checks, rows


def rate_row(layer: str, violations: int, trials: int, delta: float, bound: float, quantile: float) -> dict:
    """Columns shared by the violation tables: exact 95 % interval of the rate, and tightness = bound / quantile."""
    lower, upper = rate_interval(violations, trials)
    return {
        "layer": layer,
        "delta": delta,
        "violations": violations,
        "rate": violations / trials,
        "lower": lower,
        "upper": upper,
        "bound": bound,
        "quantile": quantile,
        "tightness": bound / quantile,
    }


def _variant_checks(layer: Layer, sequence: LearnedSequence, suite: str, rng: np.random.Generator) -> list[BoundCheck]:
    """The three additions to the plain form: dependent columns, a mean, and the union over concepts."""
    M = sequence.later_reading(0)
    S = layer.second_moment(sequence.concepts[0])
    trials, delta = MOST_TRIALS[suite] // 2, 0.01
    G = M @ S @ M.T
    Psi = autoregressive(COLUMNS, 0.8)
    F = forgetting_samples(M, S, COLUMNS, "gaussian", trials, rng, column_proxy=Psi)
    dependent = int(np.sum(forgetting_bound(G, COLUMNS, delta, Psi) < F))
    mean = layer.activations[sequence.concepts[0]].mean(1)
    mean *= np.sqrt(0.5 * np.trace(G)) / max(float(np.linalg.norm(M @ mean)), 1e-300)  # a third of the energy
    few = min(trials, ENTRIES[suite] // (4 * S.shape[0] * COLUMNS))
    F = forgetting_samples(M, S, COLUMNS, "gaussian", few, rng, mean=mean)
    shifted = int(np.sum(forgetting_bound(G, COLUMNS, delta, mean_energy=float(np.sum((M @ mean) ** 2))) < F))
    each = union_delta(0.1, len(sequence.concepts))
    any_broken = np.zeros(trials, dtype=bool)
    for index, concept in enumerate(sequence.concepts[:-1]):
        L, S_j = sequence.later_reading(index), layer.second_moment(concept)
        F = forgetting_samples(L, S_j, COLUMNS, "gaussian", trials, rng)
        any_broken |= forgetting_bound(L @ S_j @ L.T, COLUMNS, each) < F
    return [
        check_rate("dependent columns: AR(0.8)", dependent, trials, delta, layer=layer.name),
        check_rate("with a mean: a third of the energy", shifted, few, delta, layer=layer.name),
        check_rate("union over concepts: delta=0.1", int(any_broken.sum()), trials, 0.1, layer=layer.name),
    ]


def autoregressive(size: int, correlation: float) -> Array:
    """Psi_kl = correlation^|k-l|: a stationary first-order process along the columns."""
    steps = np.arange(size)
    return correlation ** np.abs(np.subtract.outer(steps, steps)).astype(float)


def _tightness_rows(layer: str, G: Array) -> list[Row]:
    g = np.clip(np.linalg.eigvalsh(G), 0, None)
    rows: list[Row] = []
    for n_samples in TIGHTNESS_COLUMNS:
        for delta in DELTAS:
            bound = forgetting_bound(G, n_samples, delta)
            exact = gaussian_quantile(g / n_samples, delta, np.full(len(g), n_samples))
            rows.append(
                {
                    "layer": layer,
                    "n_samples": n_samples,
                    "delta": delta,
                    "bound": bound,
                    "exact_quantile": exact,
                    "ratio": bound / exact,
                }
            )
    return rows


def _evidence(rows: Sequence[Row]) -> str:
    inside = [row for row in rows if not row["control"]]
    low, high = (f(float(row["tightness"] or 0) for row in inside) for f in (min, max))
    least = min(DELTAS)
    text = [f"bound/quantile {low:.2f}-{high:.2f} on {', '.join(SUB_GAUSSIAN)}"]
    for family in (*SUB_GAUSSIAN, *CONTROLS):
        row = next(r for r in rows if r["family"] == family and r["delta"] == least)
        text.append(f"{family} {row['rate']:.2g} (<= {row['upper']:.2g})")
    return f"{text[0]}; violation rates at delta={least:g}: {', '.join(text[1:])}."
