"""Linear layers as a sequence of concepts: the test bed in which the best answer is known in closed form.

Concept j has activations X_j and wants the output shift `Y_j = D_j X_j`. A method fits the moments of one half of the
activations and is measured on the other half, which has the same law and none of the same columns (on real layers:
none of the same sentences).
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from bench.api import Array, Cell, CellResult, Context, MetricMatrix, Value
from bench.disturbance import OPTION, disturbance, disturbed_problem, stream
from bench.methods.linear.api import LinearMethod, LinearProblem, Stage
from bench.metrics.linear import change_matrix, error_matrix, layer_values
from bench.options import canonical_name, with_options
from bench.seeds import Seeds, concept_order
from seqlora.errors import BadInputError
from theory.api import SUITES
from theory.layers import load
from theory.layers.base import Layer
from theory.layers.minilm import SHA256
from theory.layers.synthetic import layer as synthetic_layer

TARGETS = ("random", "learned")


@dataclass(frozen=True)
class Halves:
    """A problem on the activations that are fitted, and the same concepts on held-out activations."""

    fitted: LinearProblem
    held_out: LinearProblem


@dataclass(frozen=True)
class SyntheticOptions:
    """Spectra and geometry of the synthetic layer."""

    decay: float = 1.5  # eigenvalue k of every second moment is proportional to k^-decay
    angle: float = 45.0  # degrees between the leading eigenvectors of two concepts; 0: the same second moment
    width: int = 64
    samples: int = 2048  # in each half
    rank: int = 4
    ridge: float = 1e-3  # relative to the mean eigenvalue of the second moments

    def __post_init__(self) -> None:
        if self.decay < 0 or not 0 <= self.angle <= 90 or self.width < 2 or self.samples < 1:
            raise BadInputError(f"{self}: needs decay >= 0, angle within 0..90, width >= 2, samples >= 1")
        _check_budget(self.rank, self.ridge)


@dataclass(frozen=True)
class MiniLMOptions:
    """Which real layers, and what the concepts want."""

    target: str = "random"  # or "learned": what the layer would give for the next token, by concept
    size: str = "ci"  # of the recording: smoke, ci, full
    max_width: int = 384  # leave wider layers out: the exact solutions cost n³
    rank: int = 8
    ridge: float = 1e-3

    def __post_init__(self) -> None:
        if self.target not in TARGETS or self.size not in SUITES:
            raise BadInputError(f"{self}: target is one of {', '.join(TARGETS)}, size one of {', '.join(SUITES)}")
        _check_budget(self.rank, self.ridge)


@dataclass(frozen=True)
class LinearTask(ABC):
    """A source of linear problems."""

    options: SyntheticOptions | MiniLMOptions
    family = "linear"

    @property
    @abstractmethod
    def name(self) -> str:
        """See `Task.name`."""

    @abstractmethod
    def max_concepts(self) -> int:
        """See `Task.max_concepts`."""

    @abstractmethod
    def problems(self, n_concepts: int, order: int, seeds: Seeds) -> tuple[tuple[str, ...], tuple[Halves, ...]]:
        """Names of the concepts, in order, and one problem a layer."""

    @abstractmethod
    def estimate(self, cell: Cell) -> float:
        """See `Task.estimate`."""

    def weights(self) -> dict[str, str]:
        """SHA-256 of the weight files behind the activations."""
        return {}

    def run(self, cell: Cell, method: LinearMethod, context: Context) -> CellResult:
        """See `Task.run`."""
        concepts, layers = _cached_problems(self, cell.n_concepts, cell.order, context.seeds)
        which = disturbance(context.options)
        if which:
            layers = _disturbed(layers, context.seeds, which)
        matrices: list[MetricMatrix] = []
        values: list[Value] = []
        seconds = 0.0
        for index, halves in enumerate(layers):
            seconds += halves.fitted.optima_seconds * method.starts_from_optima  # shared, so computed before the clock
            started = time.perf_counter()
            stages = list(method.learn(halves.fitted, context.seeds.rng("initialisation", index)))
            seconds += time.perf_counter() - started
            matrices += measured(stages, halves)
            values += layer_values(stages, halves.fitted)
        names = dict.fromkeys(matrix.metric for matrix in matrices)
        matrices += [mean_over_layers([m for m in matrices if m.metric == name]) for name in names]
        settings = {"rank": self.options.rank, "relative_ridge": self.options.ridge, "layers": len(layers)}
        settings |= {OPTION: which} if which else {}
        timing = {"learn_seconds": seconds, "learn_seconds_per_concept": seconds / cell.n_concepts}
        return CellResult(concepts, matrices, values, settings, timing=timing, weights=self.weights())


@dataclass(frozen=True)
class SyntheticTask(LinearTask):
    """One layer with power-law spectra."""

    options: SyntheticOptions

    @property
    def name(self) -> str:
        """See `Task.name`."""
        return canonical_name("linear-synthetic", self.options, SyntheticOptions())

    def max_concepts(self) -> int:
        """Any number can be drawn; past n / r orthogonal bases run out."""
        return 10_000

    def estimate(self, cell: Cell) -> float:
        """See `Task.estimate`."""
        return 0.02 * cell.n_concepts * (self.options.width / 64) ** 3

    def problems(self, n_concepts: int, order: int, seeds: Seeds) -> tuple[tuple[str, ...], tuple[Halves, ...]]:
        """See `LinearTask.problems`. Concepts are exchangeable, so an order is a fresh draw."""
        o = self.options
        rng = seeds.rng("data")
        drawn = synthetic_layer(o.width, n_concepts, 2 * o.samples, o.decay, rng, angle=np.radians(o.angle))
        targets = random_targets(n_concepts, o.width, o.width, rng)
        return drawn.concepts, (split(drawn, drawn.concepts, targets, o.rank, o.ridge, rng),)


@dataclass(frozen=True)
class MiniLMTask(LinearTask):
    """Recorded layers of MiniLM, topics of documentation text as concepts."""

    options: MiniLMOptions

    @property
    def name(self) -> str:
        """See `Task.name`."""
        return canonical_name("linear-minilm", self.options, MiniLMOptions())

    def max_concepts(self) -> int:
        """The number of topics."""
        from theory.layers.text import TOPICS

        return len(TOPICS)

    def estimate(self, cell: Cell) -> float:
        """See `Task.estimate`."""
        return 1.5 * cell.n_concepts

    def weights(self) -> dict[str, str]:
        """See `LinearTask.weights`."""
        return {f"minilm/{name}": digest for name, digest in SHA256.items()}

    def problems(self, n_concepts: int, order: int, seeds: Seeds) -> tuple[tuple[str, ...], tuple[Halves, ...]]:
        """See `LinearTask.problems`. All seeds read the same text; they draw targets and halves."""
        o = self.options
        recorded = _recording(o.size, o.max_width)
        if not recorded:
            raise BadInputError(f"task {self.name}: no layer is at most {o.max_width} wide; raise max_width")
        topics = recorded[0].concepts
        chosen = tuple(topics[i] for i in concept_order(self.name, len(topics), n_concepts, order))
        problems = []
        for index, layer in enumerate(recorded):
            rng = seeds.rng("data", index)
            if o.target == "learned":
                targets = learned_targets(layer, chosen, o.ridge)
            else:
                targets = random_targets(n_concepts, layer.weight.shape[0], layer.width, rng)
            problems.append(split(layer, chosen, targets, o.rank, o.ridge, rng))
        return chosen, tuple(problems)


def synthetic(options: str) -> SyntheticTask:
    """The task "linear-synthetic", with options as in `SyntheticOptions`."""
    return SyntheticTask(with_options(SyntheticOptions(), options, "task linear-synthetic"))


def minilm(options: str) -> MiniLMTask:
    """The task "linear-minilm", with options as in `MiniLMOptions`."""
    return MiniLMTask(with_options(MiniLMOptions(), options, "task linear-minilm"))


def random_targets(concepts: int, outputs: int, width: int, rng: np.random.Generator) -> Array:
    """Full-rank Gaussian D_j, shape (T, m, n), entries of variance 1/n."""
    return rng.standard_normal((concepts, outputs, width)) / np.sqrt(width)


def learned_targets(layer: Layer, concepts: Sequence[str], ridge: float) -> Array:
    """What the layer's output would have to be to foretell the next token, where a concept differs from the rest.

    `W_j` regresses the next column of a window on the present one by ridge; the shift is `D_j = W0 (W_j - W)`, W being
    the regression on all concepts together. Unlike random targets they live where the activations do.

    Returns:
        D_j, shape (T, m, n).
    """
    present, following = {}, {}
    for name in concepts:
        windows = layer.activations[name].reshape(layer.width, -1, layer.window)
        present[name] = windows[:, :, :-1].reshape(layer.width, -1)
        following[name] = windows[:, :, 1:].reshape(layer.width, -1)

    def regression(names: Sequence[str]) -> Array:
        X, Y = (np.hstack([part[name] for name in names]) for part in (present, following))
        gram = X @ X.T / X.shape[1]
        penalty = ridge * np.trace(gram) / layer.width * np.eye(layer.width)
        return np.linalg.solve(gram + penalty, X @ Y.T / X.shape[1]).T

    pooled = regression(list(layer.concepts))
    return np.stack([layer.weight @ (regression([name]) - pooled) for name in concepts])


def split(
    layer: Layer, concepts: Sequence[str], targets: Array, rank: int, ridge: float, rng: np.random.Generator
) -> Halves:
    """Draw which half of each concept's windows is fitted, and make a problem of each half.

    The ridge is `ridge` times the mean eigenvalue of the concepts' second moments: one number a layer, for all methods.
    """
    pairs = [_half_moments(layer.activations[name], layer.window, rng) for name in concepts]
    fitted, held_out = (np.stack(part) for part in zip(*pairs, strict=True))
    scale = float(np.trace(fitted.mean(axis=0))) / layer.width

    def problem(moments: Array) -> LinearProblem:
        cross = targets @ moments  # K_j = D_j Σ_j
        energies = np.einsum("jmn,jmn->j", cross, targets)  # ‖D_j X_j‖²/N = <K_j, D_j>
        return LinearProblem(layer.name, moments, cross, energies, rank, ridge * scale)

    return Halves(problem(fitted), problem(held_out))


def measured(stages: Sequence[Stage], halves: Halves) -> list[MetricMatrix]:
    """The R matrices of one layer."""
    return [
        error_matrix("relative_error", stages, halves.held_out),
        error_matrix("fit_error", stages, halves.fitted),
        change_matrix(stages, halves.fitted),
    ]


def mean_over_layers(matrices: Sequence[MetricMatrix]) -> MetricMatrix:
    """The whole model's matrix: every layer counts alike."""
    parts = ((m.values, m.single, m.base) for m in matrices)
    R, single, base = (np.mean(part, axis=0) for part in zip(*parts, strict=True))
    return replace(matrices[0], values=R, single=single, base=base, layer="")


def _check_budget(rank: int, ridge: float) -> None:
    """A zero ridge is refused: with it, held-out error is undefined where the data do not determine B."""
    if rank < 1 or ridge <= 0:
        raise BadInputError(f"rank {rank} and ridge {ridge:g} must be positive")


def _half_moments(X: Array, window: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Second moments of two random halves of the windows."""
    windows = X.shape[1] // window
    order = rng.permutation(windows)
    columns = X.reshape(X.shape[0], windows, window)
    halves = (columns[:, part].reshape(X.shape[0], -1) for part in (order[: windows // 2], order[windows // 2 :]))
    first, second = (half @ half.T / half.shape[1] for half in halves)
    return first, second


def _disturbed(layers: Sequence[Halves], seeds: Seeds, which: int) -> tuple[Halves, ...]:
    """The same layers on hardware that rounds differently."""
    return tuple(
        Halves(*(disturbed_problem(half, stream(seeds, which, i)) for half in (halves.fitted, halves.held_out)))
        for i, halves in enumerate(layers)
    )


@lru_cache(maxsize=1)
def _recording(size: str, max_width: int) -> tuple[Layer, ...]:
    """The MiniLM layers, recorded once a process (about 15 s), from a stream that belongs to no cell."""
    rng = Seeds.of("linear-minilm recording", 0, 0, 0).rng("data")
    return tuple(layer for layer in load("minilm", size, rng) if layer.width <= max_width)


@lru_cache(maxsize=2)
def _cached_problems(
    task: LinearTask, n_concepts: int, order: int, seeds: Seeds
) -> tuple[tuple[str, ...], tuple[Halves, ...]]:
    """Neighbouring cells differ in their method only: their data is built once."""
    return task.problems(n_concepts, order, seeds)
