"""C8: what no update can beat — the range of the interference ratio, and the adaptation-forgetting frontier."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from seqlora.linear import solve_moments
from theory.api import BoundCheck, Claim, ClaimResult, Row, Suite, register
from theory.frontier import Frontier, Point, alternate, simultaneous
from theory.layers.base import Layer
from theory.task import LinearTask, learn, within
from theory.tolerance import eigenvalue
from theory.verdicts import judge, span

Array = NDArray[np.float64]

RANK = 4
CONCEPTS = 3
NOISE_SHARE = 1e-6  # isotropic energy added to every second moment (share of its mean eigenvalue): makes it definite
SIZES: dict[str, tuple[int, int, int]] = {  # n^2 in all, swept weights, attacks a weight
    "smoke": (384**2, 5, 1),
    "ci": (3 * 384**2, 9, 2),
    "full": (100 * 4096**2, 25, 8),
}


@register
class FrontierBound(Claim):
    """Interference is bounded by the data alone, and no rank-r update lies above the frontier."""

    id = "C8"
    title = "What no method can beat"
    statement = (
        r"\lambda_{\min}(\Sigma_j,\Sigma_i) \le \frac{\|MX_j\|^2}{\|MX_i\|^2} \le \lambda_{\max}(\Sigma_j,\Sigma_i)"
        r"\ \forall M,\qquad g(M)-\gamma F(M) \le \sum_{k\le r}\theta_k(\gamma)"
        r"\ \forall \gamma\ge 0,\ \operatorname{rank} M\le r"
    )
    assumptions = (
        r"\Sigma_i, \Sigma_j \succ 0 for finite bounds",
        "the update has rank at most r; its target and the past moments are those of the frontier",
    )
    source = "ours"

    def check(self, layers: Sequence[Layer], source: str, suite: Suite, rng: np.random.Generator) -> ClaimResult:
        """Attack both bounds with every method's update, random ones and ones optimised to break them."""
        entries, weights, attacks = SIZES[suite]
        checks: list[BoundCheck] = []
        tables: dict[str, list[Row]] = {"frontier": [], "eigenvalues": []}
        chosen = within(layers, entries)
        for layer in chosen:
            task = _definite(LinearTask.on(layer, max(2, min(CONCEPTS, len(layer.concepts))), rng))
            frontier = _frontier(task)
            methods = _updates(task, frontier, rng)
            checks += _interference(task, methods, tables)
            checks += _dominance(task, frontier, methods, np.geomspace(1e-2, 1e2, weights), attacks, tables, rng)
        evidence = _evidence(tables, len(chosen), len(layers))
        return ClaimResult(self.id, source, judge(checks), evidence, tuple(checks), tables)


def _definite(task: LinearTask) -> LinearTask:
    """The same task with a little isotropic energy in every second moment, so that all eigenvalues are finite."""
    noise = NOISE_SHARE * np.trace(task.moments, axis1=1, axis2=2) / task.width
    return LinearTask(task.layer, task.moments + noise[:, None, None] * np.eye(task.width), task.targets)


def _frontier(task: LinearTask) -> Frontier:
    """Learn the last concept, protect the sum of all earlier ones."""
    last = task.concepts - 1
    return Frontier(task.cross(last), task.energy(last), task.moments[last], task.moments[:last].sum(0), RANK)


def _updates(task: LinearTask, frontier: Frontier, rng: np.random.Generator) -> dict[str, Array]:
    """The last concept's update by each method, all for the same target.

    A frozen Haar basis is Haar in law whether or not it was drawn orthogonal to the others, so that one entry stands
    for frozen random and frozen orthonormal bases alike.
    """
    earlier = learn(task, RANK, concepts=task.concepts - 1).stacked_bases
    updates: dict[str, Array] = {}
    for weight in (0.0, 1.0):
        suffix = f", gamma={weight:g}"
        W = frontier.second_moment + weight * frontier.past_moment
        A = np.linalg.qr(rng.standard_normal((task.width, RANK)))[0].T
        B = scipy.linalg.solve(A @ W @ A.T, A @ frontier.cross.T, assume_a="pos").T
        updates["frozen" + suffix] = B @ A
        for name, past in (("learned orthogonal", earlier), ("learned", None)):
            A, B, _ = solve_moments(
                frontier.second_moment,
                frontier.cross,
                RANK,
                forgetting_weight=weight,
                past_bases=past,
                past_moment=frontier.past_moment,
            )
            updates[name + suffix] = np.asarray(B) @ np.asarray(A)
    return updates


def _interference(task: LinearTask, methods: dict[str, Array], tables: dict[str, list[Row]]) -> list[BoundCheck]:
    """Ratio of every update against the extreme generalised eigenvalues, for every pair of concepts.

    The ratio of the pair in the other order is the reciprocal, so that one order is enough.
    """
    checks = []
    for i, j in combinations(range(task.concepts), 2):
        S_i, S_j = task.moments[i], task.moments[j]
        pencil = simultaneous(S_i, S_j)
        eigenvalues = (1 - pencil.share) / pencil.share  # descending
        low, high = float(eigenvalues[-1]), float(eigenvalues[0])
        pair = f"concept {j + 1} by updates for {i + 1}"
        tables["eigenvalues"].append({"layer": task.layer, "pair": pair, "smallest": low, "largest": high})
        # Rows of F^T give the generalised eigenvalues themselves: the first the largest, the last the smallest.
        attacks = {**methods, "extreme": pencil.basis[:, :1].T, "opposite extreme": pencil.basis[:, -1:].T}
        ratios = {name: _ratio(M, S_j, S_i) for name, M in attacks.items()}
        tolerance = eigenvalue(task.width, pencil.condition)  # relative error of a generalised eigenvalue
        worst, least = max(ratios.values()), min(ratios.values())
        second = float(eigenvalues[1])
        checks += [
            BoundCheck(f"interference at most: {pair}", worst / high, 1.0, tolerance, layer=task.layer),
            BoundCheck(f"interference at least: {pair}", low / least, 1.0, tolerance, layer=task.layer),
            BoundCheck(f"interference attained: {pair}", high / worst, 1.0, tolerance, layer=task.layer),
        ]
        if not any(check.control for check in checks):
            name = f"interference at most: the second eigenvalue, {pair}"
            checks.append(BoundCheck(name, worst / second, 1.0, tolerance, layer=task.layer, control=True))
    return checks


def _ratio(M: Array, S_j: Array, S_i: Array) -> float:
    return float(((M @ S_j) * M).sum() / ((M @ S_i) * M).sum())


def _dominance(
    task: LinearTask,
    frontier: Frontier,
    methods: dict[str, Array],
    gammas: Array,
    attacks: int,
    tables: dict[str, list[Row]],
    rng: np.random.Generator,
) -> list[BoundCheck]:
    """Every update against every supporting line of the frontier; each line attained."""
    checks = []
    past_energy = sum(task.energy(i) for i in range(task.concepts - 1))
    optima = {float(gamma): frontier.optimum(gamma) for gamma in gammas}
    for gamma, best in optima.items():
        candidates = {**methods, **{f"optimum at {weight:g}": M for weight, M in optima.items()}}
        for attack in range(attacks):
            start = rng.standard_normal((RANK, task.width))
            candidates[f"optimised {attack}"] = alternate(frontier, gamma, start, iterations=20)
            # A random update, scaled to its own best: the largest gain - gamma forgetting on its ray.
            M = rng.standard_normal((len(frontier.cross), RANK)) @ rng.standard_normal((RANK, task.width))
            ray = frontier.place(M)
            slope = float((M * frontier.cross).sum())
            candidates[f"random {attack}"] = M * slope / (2 * slope - ray.gain + gamma * ray.forgetting)
        line = frontier.support(gamma)
        excess = {name: _excess(frontier.place(M), gamma, line) for name, M in candidates.items()}
        tolerance = max(frontier.rounding(M, gamma) for M in candidates.values()) / frontier.energy
        name = max(excess, key=lambda key: excess[key])
        at = f"gamma={gamma:.3g}"
        details: Row = {"highest": name, "candidates": len(candidates)}
        highest, own = excess[name] / frontier.energy, -excess[f"optimum at {gamma:g}"] / frontier.energy
        checks += [
            BoundCheck(f"frontier: {at}", highest, 0.0, tolerance, layer=task.layer, details=details),
            BoundCheck(f"frontier attained: {at}", own, 0.0, tolerance, layer=task.layer),
        ]
        tables["frontier"].append(_row(task, frontier, best, past_energy, "frontier", gamma))
    for label, M in methods.items():
        gamma = float(label.rpartition("=")[2])
        tables["frontier"].append(_row(task, frontier, M, past_energy, label.partition(",")[0], gamma))
    return checks + _controls(task, frontier)


def _controls(task: LinearTask, frontier: Frontier) -> list[BoundCheck]:
    """Rank r against the frontier of rank r - 1, and the optimum at gamma against the line of 2 gamma."""
    narrow = Frontier(frontier.cross, frontier.energy, frontier.second_moment, frontier.past_moment, frontier.rank - 1)
    best = frontier.optimum(1.0)
    point, tolerance = frontier.place(best), frontier.rounding(best, 2.0) / frontier.energy
    against_rank = _excess(point, 1.0, narrow.support(1.0)) / frontier.energy
    against_weight = _excess(point, 1.0, frontier.support(2.0)) / frontier.energy
    return [
        BoundCheck("frontier: of rank r - 1", against_rank, 0.0, tolerance, layer=task.layer, control=True),
        BoundCheck("frontier: line of 2 gamma", against_weight, 0.0, tolerance, layer=task.layer, control=True),
    ]


def _excess(point: Point, gamma: float, line: float) -> float:
    """By how much a point passes the supporting line g = h(gamma) + gamma F: at most 0 in truth."""
    return point.gain - gamma * point.forgetting - line


def _row(task: LinearTask, frontier: Frontier, M: Array, past_energy: float, label: str, gamma: float) -> Row:
    point = frontier.place(M)
    return {
        "layer": task.layer,
        "gamma": gamma,
        "adaptation": point.gain / frontier.energy,
        "forgetting": point.forgetting / past_energy,
        "label": label,
        "shortfall": 0.0 if label == "frontier" else max(0.0, frontier.shortfall(point)),
    }


def _evidence(tables: dict[str, list[Row]], used: int, available: int) -> str:
    largest = np.array([row["largest"] for row in tables["eigenvalues"]], dtype=float)
    smallest = np.array([row["smallest"] for row in tables["eigenvalues"]], dtype=float)

    def shortfall(label: str, gamma: float) -> str:
        rows = [row for row in tables["frontier"] if (row["label"], row["gamma"]) == (label, gamma)]
        return span((float(row["shortfall"] or 0) for row in rows), ".3f")

    return (
        f"{used} of {available} layers. Interference ratio between {smallest.min():.2g} and {largest.max():.3g} over "
        f"all pairs, both ends attained. Adaptation that the best rank-{RANK} update of equal forgetting has over the "
        f"method, as a share of ‖Y‖²: frozen {shortfall('frozen', 0.0)}, learned orthogonal "
        f"{shortfall('learned orthogonal', 0.0)}, with gamma = 1 {shortfall('learned orthogonal', 1.0)}, gamma = 1 "
        f"without orthogonality {shortfall('learned', 1.0)}."
    )
