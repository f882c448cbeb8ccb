"""What the gates can see: the probability that a shift of a given size is called a regression.

With true shift μ, standard deviation σ of the differences, n pairs and margin δ the mean of the differences is
N(μ, σ²/n) and, independently, `s² ~ σ² χ²_{n-1} / (n-1)`. A regression is called iff the mean exceeds both δ and
`t_c s / sqrt(n)`, t_c being the critical value at Holm's first, strictest step, level 0.01 / gates:

    P = E_s Φ( (μ - max(δ, t_c s / sqrt(n))) sqrt(n) / σ )

At δ = 0 that is the noncentral t: `P(t_{n-1}(μ sqrt(n) / σ) > t_c)`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import integrate, stats

from bench.regression.decision import FAMILY_LEVEL
from bench.regression.margins import GateMargin, MarginsFile

SHIFTS = (1.0, 1.5, 2.0, 3.0, 5.0)  # in margins


def detection_probability(shift: float, sd: float, margin: float, pairs: int, gates: int) -> float:
    """Probability that a true shift is called a regression by one of `gates` gates, at Holm's first step.

    Args:
        shift: true mean of the differences, + is worse.
        sd: their standard deviation; 0 is certainty.
        margin: practical margin, >= 0.
        pairs: n >= 2.
        gates: number of gates that share the family level.
    """
    if sd == 0:
        return float(shift > margin)
    critical = float(stats.t.isf(FAMILY_LEVEL / gates, pairs - 1))
    if margin == 0:
        return float(stats.nct.sf(critical, pairs - 1, shift * np.sqrt(pairs) / sd))
    error = sd / np.sqrt(pairs)

    def given(quantile: float) -> float:
        s = np.sqrt(stats.chi2.ppf(quantile, pairs - 1) / (pairs - 1))
        return float(stats.norm.cdf((shift - max(margin, critical * s * error)) / error))

    # The integrand has a kink where the two conditions cross.
    kink = float(stats.chi2.cdf((margin / (critical * error)) ** 2 * (pairs - 1), pairs - 1))
    value, _ = integrate.quad(given, 0, 1, points=[min(max(kink, 1e-9), 1 - 1e-9)], epsabs=1e-8, limit=200)
    return float(np.clip(value, 0, 1))


def power_row(gate: GateMargin, pairs: int, gates: int, sd: float, shifts: Sequence[float] = SHIFTS) -> list[float]:
    """Detection probabilities of a gate for shifts of so many margins."""
    return [detection_probability(k * gate.margin, sd, gate.margin, pairs, gates) for k in shifts]


def markdown(file: MarginsFile) -> str:
    """The power table of all gates as Markdown."""
    heads = ["task", "method", "T", "number", "pairs", "margin", "sd of seeds", "sd of rounding", "differences"]
    heads += [f"{k:g} margins" for k in SHIFTS]
    lines = [
        "# What the gates can see",
        "",
        f"Probability that a true shift of so many margins is called a regression: exact, at Holm's first step of "
        f"{len(file.gates)} gates, family level {FAMILY_LEVEL:g}. From the pilot of {file.seeds} seeds, revision "
        f"{(file.git_revision or 'unknown')[:12]}, {file.cpu}.",
        "",
        "Differences are *paired* when both sides draw the same numbers and only round differently (the usual case: "
        "another machine), their standard deviation being that of the pilot's cells with disturbed inputs; and "
        "*fresh* when nothing is shared (a change of random streams), √2 times that between seeds. A change of the "
        "code lies in between. Gates whose margin is 0 see any shift that is the same in all seeds.",
        "",
        "| " + " | ".join(heads) + " |",
        "|" + "---|" * len(heads),
    ]
    for gate in file.gates:
        if gate.margin == 0:
            continue
        axes = [f"`{gate.task}`", gate.method, str(gate.n_concepts), gate.number, str(gate.pairs)]
        axes += [f"{gate.margin:.2g}", f"{gate.sd:.2g}", f"{gate.noise_sd:.2g}"]
        for name, sd in (("paired", gate.noise_sd), ("fresh", np.sqrt(2) * gate.sd)):
            shares = [f"{value:.2f}" for value in power_row(gate, gate.pairs, len(file.gates), sd)]
            lines.append("| " + " | ".join([*axes, name, *shares]) + " |")
    return "\n".join(lines) + "\n"
