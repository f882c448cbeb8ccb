"""C5: Riemannian descent on the basis converges, at the promised rate, to the closed form; K inner steps are enough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from theory.api import BoundCheck, Claim, ClaimResult, Row, Suite, register
from theory.convergence import SHRINK, Descent, descend, hypergradient_error, inner_rate, random_start, retract
from theory.layers.base import Layer
from theory.reduced import ReducedProblem
from theory.task import LinearTask, learn, within
from theory.tolerance import matmul, orthonormality
from theory.verdicts import judge, span

Array = NDArray[np.float64]

RANK = 4
RIDGE_SHARE = 0.03  # ridge as a share of the mean eigenvalue: a conditioning that descent meets in practice
TARGET_GAP = 1e-8  # gap to the closed form, relative to ‖Y‖^2, at which solvers are compared in this project
STOP = 1e-12  # ‖grad‖^2 relative to ‖Y‖^2 at which a descent ends
MOST_STEPS = 10_000  # of a descent that ends at STOP: how many it takes depends on the gap between θ_r and θ_(r+1)
CONTROL_STEPS = 50


@dataclass(frozen=True)
class _Size:
    entries: int  # layers are taken in order while the sum of their n^2 stays below
    starts: int
    fixed_steps: int
    inner_steps: int


SIZES: dict[str, _Size] = {
    "smoke": _Size(entries=384**2, starts=1, fixed_steps=75, inner_steps=40),
    "ci": _Size(entries=3 * 384**2, starts=2, fixed_steps=100, inner_steps=60),
    "full": _Size(entries=100 * 4096**2, starts=8, fixed_steps=250, inner_steps=120),
}


@dataclass(frozen=True)
class _Setting:
    """One layer's problem, its optimum, and its smoothness constant measured on starts that the checks do not use."""

    layer: str
    problem: ReducedProblem
    free: ReducedProblem  # the same without the constraint, Q = I
    past: Array
    best: Array
    optimum: float
    smoothness: float
    local_smoothness: float
    local_direction: Array


@register
class Convergence(Claim):
    """Descent is monotone, keeps its rate, reaches the global optimum, and stays orthogonal to earlier concepts."""

    id = "C5"
    title = "Riemannian descent converges to the closed form"
    statement = (
        r"\Phi(C_{k+1}) \le \Phi(C_k),\quad \min_{k<K}\|\operatorname{grad}\Phi(C_k)\|^2 \le "
        r"\frac{2L(\Phi_0-\Phi^*)}{K},\quad \Phi(C_K)\to\Phi^* = \tfrac12\|Y\|^2/N-\tfrac12\sum_{k\le r}\theta_k,\quad "
        r"\|\nabla_C L(B_k, C)-\operatorname{grad}\Phi(C)\|\le c\,\rho^k"
    )
    assumptions = (
        r"M = Q^\top(\Sigma+\lambda I+\gamma\Sigma_{past})Q \succ 0",
        r"step 1/L, or Armijo backtracking with factor q and L/q in place of L",
        "start not exactly a saddle (probability 1 for a random start)",
    )
    source = "abstract"

    def check(self, layers: Sequence[Layer], source: str, suite: Suite, rng: np.random.Generator) -> ClaimResult:
        """Descend on each layer's last concept, in the complement of the bases that the earlier ones learned."""
        size = SIZES[suite]
        chosen = within(layers, size.entries)
        checks: list[BoundCheck] = []
        tables: dict[str, list[Row]] = {"descent": [], "rate": [], "inner_error": []}
        for layer in chosen:
            setting = _setting(layer, rng)
            for start in range(size.starts):
                checks += _descents(setting, start, size.fixed_steps, tables, rng)
            checks += _inner(setting, size.inner_steps, tables, rng)
            checks += _constants(setting, tables)
            checks += _controls(setting, size.inner_steps, rng)
        return ClaimResult(
            self.id, source, judge(checks), _evidence(checks, tables, len(layers)), tuple(checks), tables
        )


def _setting(layer: Layer, rng: np.random.Generator) -> _Setting:
    task = LinearTask.on(layer, max(2, min(3, len(layer.concepts))), rng)
    last = task.concepts - 1
    earlier = learn(task, RANK, concepts=last)
    # What is still missing on the last concept with the earlier adapters merged.
    missing = task.targets[last] - earlier.merged
    free, problem = (
        ReducedProblem.from_moments(
            task.moments[last],
            missing @ task.moments[last],
            task.energy(last, missing),
            ridge=task.ridge(RIDGE_SHARE),
            past_bases=past,
        )
        for past in (None, earlier.stacked_bases)
    )
    best, optimum = problem.optimum(RANK)
    local, direction = problem.largest_curvature(best, rng)
    probes = [problem.largest_curvature(random_start(problem, RANK, rng), rng)[0] for _ in range(3)]
    smoothness = max(local, *probes)
    return _Setting(layer.name, problem, free, earlier.stacked_bases, best, optimum, smoothness, local, direction)


def _descents(
    setting: _Setting, start: int, fixed_steps: int, tables: dict[str, list[Row]], rng: np.random.Generator
) -> list[BoundCheck]:
    problem = setting.problem
    first = random_start(problem, RANK, rng)
    noise = problem.rounding(setting.best)
    # Curvature is largest far from the optimum, where the descent starts.
    L, fixed = _descend_with_smoothness(
        problem, first, fixed_steps, max(setting.smoothness, problem.largest_curvature(first, rng)[0]), noise
    )
    armijo = descend(problem, first, MOST_STEPS, stop=STOP * problem.energy)
    tables["descent"] += _trace(setting, armijo, start, "armijo") + _trace(setting, fixed, start, "1/L")
    gap = float(armijo.values[-1]) - setting.optimum
    A = problem.basis(armijo.last)
    label, on = f"start {start}", setting.layer
    tightness = {
        "1/L": fixed.bound_tightness(L, setting.optimum),
        "Armijo": armijo.bound_tightness(L / SHRINK, setting.optimum),
    }
    tables["rate"] += [
        {"layer": on, "quantity": "slope", "start": start, "L": L, "bound": -1.0, "measured": armijo.slope()},
        {"layer": on, "quantity": "gap", "start": start, "L": L, "bound": TARGET_GAP, "measured": gap / problem.energy},
    ]
    details = {"iterations": len(armijo.steps), "evaluations": armijo.evaluations}
    return [
        BoundCheck(f"monotone: Armijo, {label}", armijo.largest_increase, 0.0, layer=on),
        BoundCheck(f"monotone: step 1/L, {label}", fixed.largest_increase, 0.0, tolerance=noise, layer=on),
        *(BoundCheck(f"rate: {rule}, {label}", value, 1.0, layer=on) for rule, value in tightness.items()),
        BoundCheck(f"smoothness: {label}", L, 2 * problem.smoothness_bound(), layer=on),  # 2: L was found by doubling
        BoundCheck(f"gap: {label}", gap, TARGET_GAP * problem.energy, layer=on, details=details),
        BoundCheck(f"optimality: {label}", setting.optimum, float(armijo.values.min()), tolerance=noise, layer=on),
        BoundCheck(
            f"orthogonality: {label}",
            float(np.linalg.norm(A @ setting.past.T)),
            0.0,
            # Rounding of Q, of C and of the product A past^T.
            tolerance=2 * orthonormality(problem.complement.shape[0]) + matmul(problem.complement.shape[0], RANK),
            layer=on,
        ),
    ]


def _descend_with_smoothness(
    problem: ReducedProblem, first: Array, iterations: int, curvature: float, noise: float
) -> tuple[float, Descent]:
    """Smallest L = curvature, 2 curvature, … that is a smoothness constant along its own run with steps 1/L.

    The rate needs Phi(R_C(-grad/L)) <= Phi(C) - ‖grad‖^2 / (2L) at every iterate. Curvatures at single points do not
    give it: the largest one along a step may lie between them.
    """
    L = curvature
    while True:
        fixed = descend(problem, first, iterations, step=1 / L)
        promised = fixed.gradient_norms2[: len(fixed.steps)] / (2 * L)
        if problem.smoothness_bound() <= L or (-np.diff(fixed.values) >= promised - noise).all():
            return L, fixed
        L *= 2


def _inner(
    setting: _Setting, inner_steps: int, tables: dict[str, list[Row]], rng: np.random.Generator
) -> list[BoundCheck]:
    """The hypergradient after k inner steps against c rho^k, at a random basis."""
    problem = setting.problem
    C = random_start(problem, RANK, rng)
    error, bound, excess = hypergradient_error(problem, C, inner_steps)
    rho = inner_rate(problem, C)
    floor = _inner_rounding(problem, C)
    visible = np.flatnonzero(error > 1e3 * floor)
    measured = float(np.exp(np.polyfit(visible, np.log(error[visible]), 1)[0])) if len(visible) > 1 else 0.0
    tables["inner_error"] += [
        {"layer": setting.layer, "inner_steps": k, "error": e, "bound": b, "value_error": x}
        for k, (e, b, x) in enumerate(zip(error.tolist(), bound.tolist(), excess.tolist(), strict=True))
    ]
    tables["rate"].append({"layer": setting.layer, "quantity": "inner rate", "bound": rho, "measured": measured})
    worst = int(np.argmax(error - bound))
    return [
        BoundCheck(
            f"inner steps: error after {worst} against c rho^{worst}",
            float(error[worst]),
            float(bound[worst]),
            tolerance=floor,
            layer=setting.layer,
            details={"rho": rho, "measured_rate": measured, "final_error": float(error[-1])},
        )
    ]


def _constants(setting: _Setting, tables: dict[str, list[Row]]) -> list[BoundCheck]:
    bound = setting.problem.smoothness_bound()
    row: Row = {"layer": setting.layer, "quantity": "L", "bound": bound, "measured": setting.smoothness}
    local: Row = {"layer": setting.layer, "quantity": "L at the optimum", "bound": bound}
    tables["rate"] += [row, {**local, "measured": setting.local_smoothness}]
    return [
        BoundCheck("smoothness: measured L against theta_1 cond(M)", setting.smoothness, bound, layer=setting.layer)
    ]


def _controls(setting: _Setting, inner_steps: int, rng: np.random.Generator) -> list[BoundCheck]:
    """Four ways to leave the assumptions; each must break its part of the claim."""
    problem, on = setting.problem, setting.layer
    noise = problem.rounding(setting.best)
    # Step 4/L with L the curvature at the optimum: beyond 2/L the optimum repels, so no run can settle there.
    long = descend(problem, random_start(problem, RANK, rng), CONTROL_STEPS, step=4 / setting.local_smoothness)
    # From C* + small V along the top curvature, ‖grad‖^2 = 2 L (Phi_0 - Phi*) to first order: half of L is too little.
    near = retract(setting.best + 1e-3 * setting.local_direction)
    single = descend(problem, near, 1, step=1 / setting.local_smoothness)
    # Q = I: descent is free to reuse the earlier directions.
    free, n = setting.free, problem.complement.shape[0]
    reused = free.basis(descend(free, random_start(free, RANK, rng), CONTROL_STEPS).last)
    C = random_start(problem, RANK, rng)
    longest = 2.5 / float(np.linalg.eigvalsh(C @ problem.metric @ C.T)[-1])
    diverging = hypergradient_error(problem, C, inner_steps, step=longest)[0]
    return [
        BoundCheck("monotone: fixed step 4/L", long.largest_increase, 0.0, tolerance=noise, layer=on, control=True),
        BoundCheck(
            "rate: half the constant",
            single.bound_tightness(setting.local_smoothness / 2, setting.optimum),
            1.0,
            layer=on,
            control=True,
        ),
        BoundCheck(
            "orthogonality: without the projection",
            float(np.linalg.norm(reused @ setting.past.T)),
            0.0,
            tolerance=2 * orthonormality(n) + matmul(n, RANK),
            layer=on,
            control=True,
        ),
        BoundCheck("inner steps: step 2.5/h", float(diverging[-1]), float(diverging[0]), layer=on, control=True),
    ]


def _inner_rounding(problem: ReducedProblem, C: Array) -> float:
    """Rounding error of B^T (K - B C M): products of lengths m and d of factors as large as their norms."""
    B = problem.coefficients(C)
    size = np.linalg.norm(B) * (np.linalg.norm(problem.cross) + np.linalg.norm(B) * np.linalg.norm(C @ problem.metric))
    spectrum = np.linalg.eigvalsh(C @ problem.metric @ C.T)
    return matmul(sum(problem.cross.shape), float(size * spectrum[-1] / spectrum[0]))


def _trace(setting: _Setting, run: Descent, start: int, rule: str) -> list[Row]:
    """The run at some 60 iterations, equally spaced in the logarithm."""
    last = len(run.values) - 1
    shown = np.unique(np.geomspace(1, last + 1, 60).round().astype(int)) - 1
    return [
        {
            "layer": setting.layer,
            "start": start,
            "rule": rule,
            "iteration": int(k),
            "value": float(run.values[k]),
            "gradient_norm2": float(run.gradient_norms2[k]),
            "gap": float(run.values[k] - setting.optimum) / setting.problem.energy,
        }
        for k in shown
    ]


def _evidence(checks: Sequence[BoundCheck], tables: dict[str, list[Row]], available: int) -> str:
    layers = {check.layer for check in checks}
    tightness = max(check.lhs for check in checks if check.name.startswith("rate") and not check.control)

    def column(quantity: str, key: str = "measured") -> list[float]:
        return [float(row[key] or 0) for row in tables["rate"] if row["quantity"] == quantity]

    ratios = [bound / measured for bound, measured in zip(column("L", "bound"), column("L"), strict=True)]
    return (
        f"{len(column('gap'))} random starts on {len(layers)} of {available} layers: largest gap to the closed form "
        f"{max(column('gap')):.1e} ‖Y‖², largest min grad²/bound {tightness:.2f}, slope of log min grad² "
        f"{span(column('slope'), '.1f')} (the bound promises -1); a-priori L is {span(ratios, '.0f')} times the "
        f"measured one; inner-step error shrinks by {max(column('inner rate')):.3f} a step against rho = "
        f"{max(column('inner rate', 'bound')):.3f}."
    )
