"""C7: the merge is a plain sum — exact, order-free, of constant memory — and what gradient fusion buys over it."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from theory.api import BoundCheck, Claim, ClaimResult, Row, Suite, Verdict, register
from theory.layers.base import Layer
from theory.merging import BLOCK, fuse_exact, fuse_lbfgs, fusion_objective, merge, merge_rounding
from theory.task import Adapters, LinearTask, learn, within
from theory.tolerance import matmul
from theory.verdicts import judge, span

Array = NDArray[np.float64]
Pair = tuple[Array, Array]

RANK = 4
REFERENCE_WIDTH = 640  # of the timing and memory measurements: the middle width of Stable Diffusion 1.x
SIZES: dict[str, tuple[int, int, tuple[int, ...], int]] = {  # n^2 in all, concepts, timed T, timed repetitions
    "smoke": (384**2, 3, (1, 16, 64), 3),
    "ci": (3 * 384**2, 4, (1, 4, 16, 64, 101), 5),
    "full": (100 * 4096**2, 7, (1, 4, 16, 64, 101), 21),
}


@register
class Merge(Claim):
    """Merging sums the updates: no data, no order, no memory that grows; the price is measured against fusion."""

    id = "C7"
    title = "Merging needs no fusion"
    statement = (
        r"W = W_0 + \sum_i B_iA_i \text{ in any order, in memory independent of } T;\quad "
        r"A_iX_j = 0\ (i\ne j) \Rightarrow W \text{ minimises } \sum_i\|(W_0+\Delta W_i)X_i - WX_i\|^2"
    )
    assumptions = ("equality of sum and fusion: no later basis reads an earlier concept's activations",)
    source = "abstract"

    def check(self, layers: Sequence[Layer], source: str, suite: Suite, rng: np.random.Generator) -> ClaimResult:
        """Merge in several orders and blocks, weigh memory, and compare errors and times with fusion on the layers."""
        entries, concepts, timed, repetitions = SIZES[suite]
        chosen = within(layers, entries)
        checks: list[BoundCheck] = _memory(max(timed), rng)
        rows: list[Row] = _timing(timed, repetitions, rng)
        for layer in chosen:
            task = LinearTask.on(layer, max(2, min(concepts, len(layer.concepts))), rng)
            weight = layer.weight[: task.targets.shape[1]]
            checks += [*_sums(layer.name, weight, learn(task, RANK), rng), *_no_leak(task)]
            checks += _quality(task, weight, repetitions, rows)
        verdict = _verdict(checks)
        return ClaimResult(
            self.id, source, verdict, _evidence(rows, len(chosen), len(layers)), tuple(checks), {"merge": rows}
        )


def _pairs(adapters: Adapters) -> list[Pair]:
    return list(zip(adapters.coefficients, adapters.bases, strict=True))


def _sums(layer: str, weight: Array, adapters: Adapters, rng: np.random.Generator) -> list[BoundCheck]:
    """Entrywise differences between orders and blocks, over the rounding bound of the sum: at most 1."""
    pairs = _pairs(adapters)
    bound = 2 * merge_rounding(weight, pairs)  # each of the two sums may be off by one bound
    reference = merge(weight, pairs)
    shuffled = [merge(weight, [pairs[i] for i in rng.permutation(len(pairs))], block=1) for _ in range(5)]
    dense = weight + adapters.merged
    reordered = _running_average(weight, pairs), _running_average(weight, pairs[::-1])
    # PEFT's "linear" combination adds the factors: (sum B_i)(sum A_i) has the cross terms B_i A_j.
    factors = weight + adapters.coefficients.sum(0) @ adapters.bases.sum(0)

    def difference(first: Array, second: Array) -> float:
        return float((np.abs(first - second) / np.maximum(bound, np.finfo(float).tiny)).max())

    return [
        BoundCheck(
            "order: five orders, one adapter at a time",
            max(difference(reference, W) for W in shuffled),
            1.0,
            layer=layer,
        ),
        BoundCheck("exactness: blocks against the dense sum", difference(reference, dense), 1.0, layer=layer),
        BoundCheck("order: running average", difference(*reordered), 1.0, layer=layer, control=True),
        BoundCheck("exactness: sum of factors", difference(factors, dense), 1.0, layer=layer, control=True),
    ]


def _running_average(weight: Array, pairs: Sequence[Pair]) -> Array:
    """A merge that does depend on the order: each concept is averaged into what is there."""
    update = np.zeros_like(weight)
    for B, A in pairs:
        update = (update + B @ A) / 2
    return weight + update


def _stream(count: int, width: int, seed: int) -> Iterator[Pair]:
    """Adapters that exist one at a time, as if read from disk."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        yield rng.standard_normal((width, RANK)), rng.standard_normal((RANK, width))


def _peak(action: Callable[[], Array]) -> tuple[int, Array]:
    """Bytes that an action allocates at its peak (NumPy's arrays included), and what it returned."""
    tracemalloc.start()
    try:
        result = action()
        return tracemalloc.get_traced_memory()[1], result
    finally:
        tracemalloc.stop()


def _memory(most: int, rng: np.random.Generator) -> list[BoundCheck]:
    """Peak memory of many concepts against one full block; a list of dense updates must show the growth."""
    n, seed = REFERENCE_WIDTH, int(rng.integers(2**32))
    weight = rng.standard_normal((n, n))
    one_adapter = 2 * RANK * n * weight.itemsize

    def merged(count: int) -> Array:
        return merge(weight, _stream(count, n, seed))

    def dense(count: int) -> Array:
        return np.sum([weight, *(B @ A for B, A in _stream(count, n, seed))], axis=0)

    few, many = (_peak(partial(merged, count))[0] for count in (BLOCK, most))
    dense_few, dense_many = (_peak(partial(dense, count))[0] for count in (2, 8))
    on = f"{n} x {n}"
    # The next adapter may be read while a block is held: one adapter of slack.
    return [
        BoundCheck(
            f"memory: T={most} against T={BLOCK}", float(many), float(few), tolerance=float(one_adapter), layer=on
        ),
        BoundCheck(
            "memory: dense updates, T=8 against T=2",
            float(dense_many),
            float(dense_few),
            tolerance=float(one_adapter),
            layer=on,
            control=True,
        ),
    ]


def _seconds(action: Callable[[], object], repetitions: int) -> float:
    """Fastest of several runs."""
    best = np.inf
    for _ in range(repetitions):
        start = time.perf_counter()
        action()
        best = min(best, time.perf_counter() - start)
    return float(best)


def _timing(timed: Sequence[int], repetitions: int, rng: np.random.Generator) -> list[Row]:
    """Merge of T adapters against one copy of the weight, in one process; reported, never judged."""
    n = REFERENCE_WIDTH
    weight = rng.standard_normal((n, n))
    copy = _seconds(weight.copy, 3 * repetitions)
    rows: list[Row] = []
    for concepts in timed:
        pairs = list(_stream(concepts, n, int(rng.integers(2**32))))
        action = partial(merge, weight, pairs)
        rows.append(_row(f"{n} x {n}", concepts, "sum", _seconds(action, repetitions), copy, _peak(action)[0]))
    return rows


def _row(
    layer: str, concepts: int, method: str, seconds: float, copy: float, peak: int, error: float | None = None
) -> Row:
    return {
        "layer": layer,
        "concepts": concepts,
        "method": method,
        "seconds": seconds,
        "relative_to_copy": seconds / copy,
        "peak_bytes": peak,
        "error": error,
    }


def _no_leak(task: LinearTask) -> list[BoundCheck]:
    """In orthogonal subspaces the sum leaves fusion nothing to gain; where concepts share one it does."""
    total = task.moments.sum(0)
    T = task.concepts
    # Concept i keeps its moment on every T-th eigenvector of the common moment only; the control gives all the same.
    _, U = np.linalg.eigh(total)
    projectors = [U[:, i::T] @ U[:, i::T].T for i in range(T)]
    apart = np.stack([P @ S @ P for P, S in zip(projectors, task.moments, strict=True)])
    checks = []
    for label, moments in (("", apart), (", shared moments", np.repeat(total[None], T, axis=0))):
        updates = learn(LinearTask(task.layer, moments, task.targets), RANK, ridge_share=0.0).updates
        # Each of the T (T - 1) terms tr(ΔW_i Σ_j ΔW_i^T) is a product of length n of numbers that cancel to zero.
        largest = max(float(np.linalg.norm(U)) ** 2 for U in updates) * max(float(np.trace(S)) for S in moments)
        value, tolerance = fusion_objective(updates.sum(0), updates, moments), matmul(2 * task.width, T**2 * largest)
        name = f"no leak: fusion objective of the sum{label}"
        checks.append(BoundCheck(name, value, 0.0, tolerance, layer=task.layer, control=bool(label)))
    return checks


def _quality(task: LinearTask, weight: Array, repetitions: int, rows: list[Row]) -> list[BoundCheck]:
    """Merged relative error of SeqLoRA's sums against fusion of independently trained adapters, with times."""
    alone = learn(task, RANK, sequential=False, orthogonal=False)
    updates, ridge = alone.updates, task.ridge(1e-6)
    copy = _seconds(weight.copy, 10 * repetitions)
    sums = {
        "sum, plain": alone,
        "sum, SeqLoRA": learn(task, RANK),
        "sum, SeqLoRA gamma=1": learn(task, RANK, forgetting_weight=1.0),
    }
    actions: dict[str, Callable[[], Array]] = {
        **{name: partial(merge, np.zeros_like(weight), _pairs(adapters)) for name, adapters in sums.items()},
        "fusion, exact": partial(fuse_exact, updates, task.moments, ridge),
        "fusion, L-BFGS": partial(fuse_lbfgs, updates, task.moments),
    }
    errors = {}
    for name, action in actions.items():
        # L-BFGS takes long enough to be timed once, while its memory is traced.
        start = time.perf_counter()
        peak, delta = _peak(action)
        seconds = time.perf_counter() - start if "L-BFGS" in name else _seconds(action, repetitions)
        errors[name] = task.relative_error(delta)
        rows.append(_row(task.layer, task.concepts, name, seconds, copy, peak, errors[name]))
    return [
        BoundCheck(f"quality: {name} against exact fusion", errors[name], errors["fusion, exact"], layer=task.layer)
        for name in ("sum, SeqLoRA", "sum, SeqLoRA gamma=1")
    ]


def _verdict(checks: Sequence[BoundCheck]) -> Verdict:
    """The mechanics decide first; where fusion has the lower error, that is the condition."""
    mechanics = [check for check in checks if not check.name.startswith("quality")]
    verdict = judge(mechanics)
    worse = [check for check in checks if check.name.startswith("quality") and not check.holds]
    if verdict.kind != "holds" or not worse:
        return verdict
    parts = []
    for label, method in (("without", "sum, SeqLoRA against"), ("with", "gamma=1 against")):
        compared = [check for check in checks if check.name.startswith("quality") and method in check.name]
        behind, ratio = sum(not check.holds for check in compared), [check.lhs / check.rhs for check in compared]
        parts.append(f"{span(ratio, '.2f')} {label} the penalty (higher on {behind} of {len(ratio)} layers)")
    return Verdict(
        "holds when", f"fusion's accuracy is not needed: the sum's error over exact fusion's is {', '.join(parts)}"
    )


def _evidence(rows: Sequence[Row], used: int, available: int) -> str:
    reference = [row for row in rows if row["method"] == "sum"]
    first, last = reference[0], reference[-1]

    def spread(method: str, key: str) -> str:
        return span(float(row[key] or 0) for row in rows if row["method"] == method)

    one, many = float(first["relative_to_copy"] or 0), float(last["relative_to_copy"] or 0)
    return (
        f"Order-free to rounding on {used} of {available} layers. At {first['layer']}, merging one adapter takes "
        f"{one:.1f} times as long as copying the weight, {last['concepts']} take {many:.0f} times: past a few concepts "
        f"it is arithmetic that limits, not memory. Merged relative error: SeqLoRA {spread('sum, SeqLoRA', 'error')}, "
        f"with gamma = 1 {spread('sum, SeqLoRA gamma=1', 'error')}, plain sum {spread('sum, plain', 'error')}, exact "
        f"fusion of plain adapters {spread('fusion, exact', 'error')}, L-BFGS {spread('fusion, L-BFGS', 'error')}. "
        f"Time in copies: sum {spread('sum, SeqLoRA', 'relative_to_copy')}, exact fusion "
        f"{spread('fusion, exact', 'relative_to_copy')}, L-BFGS {spread('fusion, L-BFGS', 'relative_to_copy')}."
    )
