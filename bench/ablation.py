"""Does the forgetting penalty remove forgetting, and need no fusion (claim C10): paired differences over seeds.

For every task and number of concepts T, with penalised SeqLoRA (γ as shipped), SeqLoRA without penalty (orthogonality
alone) and the best fusion as they are in the store, each seed giving one number (a mean over concepts):

    removed    forgetting of the penalised method                           upper limit <= 0.02
    less       forgetting without penalty - with                            lower limit > 0
    adapts     final identity with penalty - without                        lower limit > 0
    no fusion  final identity with penalty - best fusion                    lower limit >= -0.02

Limits are those of two-sided 95 % t-intervals over paired seeds; 0.02 is identity's practical margin. "adapts" is there
because a penalty that forbids learning forgets nothing. Controls that must be broken: "removed" for orthogonality
alone, "no fusion" for the plain sum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from bench.api import Array
from bench.methods import load_method
from bench.metrics import IDENTITY
from bench.metrics.forgetting import summary
from bench.options import split_name
from bench.schema import CellRecord
from seqlora.errors import BadInputError
from theory.api import BoundCheck, ClaimResult, Row, Verdict
from theory.claims.images import PENALTY

MARGIN = IDENTITY.margin or 0.0
PENALISED, ORTHOGONAL, SUM = "seqlora-penalty", "seqlora", "plain-sum"
FUSIONS = ("fusion", "fusion-frozen", "fusion-lbfgs", "mix-of-show", "mix-of-show-exact")
FEWEST = 2  # seeds; fewer give no interval

Seed = tuple[int, int]  # order and seed: the unit of replication
Numbers = Mapping[Seed, Mapping[str, float]]


@dataclass(frozen=True)
class Group:
    """All methods on one task with T concepts.

    Attributes:
        task: name with options.
        concepts: T.
        methods: method -> seed -> what `bench.metrics.forgetting.summary` says of identity.
    """

    task: str
    concepts: int
    methods: Mapping[str, Numbers]

    @property
    def label(self) -> str:
        """For checks and conditions."""
        return f"{self.task}, T = {self.concepts}"

    def values(self, method: str, key: str, minus: str = "") -> Array:
        """One number a seed, of a method or of its difference from another on the same seeds."""
        first, second = self.methods[method], self.methods.get(minus, {})
        shared = sorted(first) if not minus else sorted(set(first) & set(second))
        return np.array([first[seed][key] - (second[seed][key] if minus else 0.0) for seed in shared])

    def best_fusion(self) -> str | None:
        """The fusion with the highest mean final identity."""
        found = [name for name in self.methods if split_name(name)[0] in FUSIONS]
        return max(found, key=lambda name: float(self.values(name, "final").mean()), default=None)


def groups(records: Sequence[CellRecord]) -> list[Group]:
    """Identity of every image cell, by task and T; groups without the penalised method and its γ = 0 are left out."""
    found: dict[tuple[str, int], dict[str, dict[Seed, Mapping[str, float]]]] = {}
    for record in records:
        identity = record.matrix("identity")
        if identity is None or len(identity.values) < 2:
            continue
        cell = record.cell
        by_method = found.setdefault((cell.task, cell.n_concepts), {})
        by_method.setdefault(cell.method, {})[cell.order, cell.seed] = summary(identity)
    return [
        Group(task, concepts, methods)
        for (task, concepts), methods in found.items()
        if {PENALISED, ORTHOGONAL} <= set(methods)
    ]


def interval(values: Array) -> tuple[float, float, float]:
    """Mean and the 95 % t-interval over seeds; NaN limits for fewer than two."""
    mean = float(values.mean()) if len(values) else float("nan")
    if len(values) < FEWEST:
        return mean, float("nan"), float("nan")
    half = float(stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return mean, mean - half, mean + half


def judge_penalty(records: Sequence[CellRecord]) -> ClaimResult:
    """Claim C10 as a row of the ledger.

    `holds`: all four parts hold on every task and T, and both controls are broken. `holds when …`: on some of them; the
    condition names which. `fails when …`: on none, with the parts that are broken and by how much.

    Raises:
        BadInputError: no image cells of SeqLoRA with and without the penalty.
    """
    found = groups(records)
    if not found:
        raise BadInputError(f"no image cells of {PENALISED} and {ORTHOGONAL} on the same task; run both")
    checks = {group.label: group_checks(group) for group in found}
    evidence = " ".join(_evidence(group) for group in found)
    tables = {"parts": [row for group in found for row in _parts(group)], "ablations": ablations(found)}
    flat = tuple(check for part in checks.values() for check in part)
    return ClaimResult(PENALTY.id, "images", _verdict(checks), evidence, flat, tables)


def group_checks(group: Group) -> list[BoundCheck]:
    """The four parts and the two controls, as far as the group has the methods and seeds for them."""
    fusion = group.best_fusion()
    checks = [
        _at_most("removed", group, group.values(PENALISED, "forgetting"), MARGIN),
        _at_least("less", group, group.values(ORTHOGONAL, "forgetting", PENALISED), 0.0),
        _at_least("adapts", group, group.values(PENALISED, "final", ORTHOGONAL), 0.0),
        _at_most("removed", group, group.values(ORTHOGONAL, "forgetting"), MARGIN, of=ORTHOGONAL),
    ]
    if fusion:
        checks.append(_at_least("no fusion", group, group.values(PENALISED, "final", fusion), -MARGIN, of=fusion))
    if fusion and SUM in group.methods:
        checks.append(_at_least("no fusion", group, group.values(SUM, "final", fusion), -MARGIN, of=SUM))
    return [check for check in checks if check is not None]


def _at_most(part: str, group: Group, values: Array, limit: float, of: str = "") -> BoundCheck | None:
    _, _, high = interval(values)
    return _check(part, group, high, limit, len(values), of) if np.isfinite(high) else None


def _at_least(part: str, group: Group, values: Array, limit: float, of: str = "") -> BoundCheck | None:
    _, low, _ = interval(values)
    return _check(part, group, limit, low, len(values), of) if np.isfinite(low) else None


def _check(part: str, group: Group, lhs: float, rhs: float, seeds: int, of: str) -> BoundCheck:
    """`of` names the rival (a fusion), or the control in whose place the method stands."""
    control = of in (ORTHOGONAL, SUM)
    name = f"{part}: {group.label}" + (f", {of}" if control else f", against {of}" if of else "")
    return BoundCheck(name, lhs=lhs, rhs=rhs, control=control, details={"seeds": seeds})


def _verdict(checks: Mapping[str, Sequence[BoundCheck]]) -> Verdict:
    judged = {label: found for label, found in checks.items() if found}
    if not judged:
        return Verdict("fails when", f"judged without replication: fewer than {FEWEST} seeds give no interval")
    idle = [check for found in judged.values() for check in found if check.control and check.holds]
    if idle:
        return Verdict("fails when", f"it is told from its controls: {'; '.join(check.name for check in idle)} held")
    broken = {label: [c for c in found if not c.control and not c.holds] for label, found in judged.items()}
    unfused = [label for label, found in judged.items() if not any(c.name.startswith("no fusion") for c in found)]
    reasons = [f"{c.name} ({c.lhs:.3f} against {c.rhs:.3f})" for found in broken.values() for c in found]
    reasons += [f"a fusion to compare with on {label}" for label in unfused]
    good = [label for label in judged if not broken[label] and label not in unfused]
    if len(good) == len(checks):
        return Verdict("holds")
    if good:
        return Verdict(
            "holds when", f"on {'; '.join(good)}" + (f"; elsewhere not {'; '.join(reasons)}" if reasons else "")
        )
    return Verdict("fails when", f"asked for {'; '.join(reasons)}")


def _evidence(group: Group) -> str:
    fusion = group.best_fusion()
    parts = [
        f"{name} {_mean(group, name, 'final')} (forgetting {_mean(group, name, 'forgetting')})"
        for name in dict.fromkeys(filter(None, (PENALISED, ORTHOGONAL, fusion, SUM)))
        if name in group.methods
    ]
    return f"{group.label}, {len(group.methods[PENALISED])} seeds, final identity: {', '.join(parts)}."


def _mean(group: Group, method: str, key: str) -> str:
    mean, low, high = interval(group.values(method, key))
    return f"{mean:.3f}" + (f" [{low:.3f}, {high:.3f}]" if np.isfinite(low) else "")


def _parts(group: Group) -> list[Row]:
    """Mean and interval of every quantity that is judged."""
    fusion = group.best_fusion()
    quantities = {
        "forgetting": group.values(PENALISED, "forgetting"),
        "forgetting without penalty": group.values(ORTHOGONAL, "forgetting"),
        "forgetting, without - with": group.values(ORTHOGONAL, "forgetting", PENALISED),
        "final identity, with - without": group.values(PENALISED, "final", ORTHOGONAL),
    }
    if fusion:
        quantities[f"final identity, penalised - {fusion}"] = group.values(PENALISED, "final", fusion)
    rows: list[Row] = []
    for name, values in quantities.items():
        mean, low, high = interval(values)
        rows.append({"task": group.task, "n_concepts": group.concepts, "quantity": name, "seeds": len(values),
                     "mean": mean, "low": _or_none(low), "high": _or_none(high)})  # fmt: skip
    return rows


def ablations(found: Sequence[Group]) -> list[Row]:
    """Every variant of the penalised method against it: paired differences, and the curve over γ.

    A row is a method of the family (other γ, no orthogonality, other weights, sketched or additional moments).
    """
    rows: list[Row] = []
    for group in found:
        for name in group.methods:
            method = load_method("images", name)[1]
            gamma = getattr(method, "forgetting_weight", None)
            if gamma is None:
                continue
            row: dict[str, float | int | str | bool | None] = {
                "task": group.task,
                "n_concepts": group.concepts,
                "method": name,
                "pretty_name": method.pretty_name,
                "gamma": float(gamma),
                "seeds": len(group.methods[name]),
            }
            for key in ("just_trained", "final", "forgetting"):
                row[key] = float(group.values(name, key).mean())
                mean, low, high = interval(group.values(name, key, PENALISED))
                row |= {f"{key}_difference": _or_none(mean), f"{key}_low": _or_none(low), f"{key}_high": _or_none(high)}
            rows.append(row)
    return rows


def _or_none(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
