"""From checks to a verdict: what holds, what fails, and whether the controls could tell the difference."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from theory.api import BoundCheck, Verdict


def judge(checks: Sequence[BoundCheck]) -> Verdict:
    """Judge a claim whose checks are all parts of its statement.

    `holds` only if every check holds and every control is broken. Otherwise the condition names, per kind of check
    (its name up to the first colon), on how many layers it failed and by how much; a control that held makes the
    claim fail, because then the checks prove nothing.
    """
    broken = [check for check in checks if not check.control and not check.holds]
    idle = [check for check in checks if check.control and check.holds]
    if not any(check.control for check in checks):
        return Verdict("fails when", "it is put to the test: there is no control")
    reasons = [f"asked for {_summary(broken, checks)}"] if broken else []
    if idle:
        reasons.append(f"it is told from its controls: {_summary(idle, checks)} held")
    return Verdict("fails when", "; ".join(reasons)) if reasons else Verdict("holds")


def kind(check: BoundCheck) -> str:
    """What a check is about, without its particulars: its name up to the first colon."""
    return check.name.split(":")[0]


def span(values: Iterable[float], digits: str = ".3g") -> str:
    """Range of some numbers for the ledger: "0.12 to 0.34", or one number where both ends print alike."""
    ordered = sorted(values)
    low, high = f"{ordered[0]:{digits}}", f"{ordered[-1]:{digits}}"
    return low if low == high else f"{low} to {high}"


def _summary(chosen: Sequence[BoundCheck], checks: Sequence[BoundCheck]) -> str:
    parts = []
    for name in dict.fromkeys(kind(check) for check in chosen):
        layers = {check.layer for check in checks if kind(check) == name}
        hit = [check for check in chosen if kind(check) == name]
        worst = max(hit, key=lambda check: check.lhs - check.rhs)
        count = len({check.layer for check in hit})
        parts.append(f"{name} ({count} of {len(layers)} layers; {worst.lhs:.3g} against {worst.rhs:.3g})")
    return ", ".join(parts)
