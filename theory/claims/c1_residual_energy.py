"""C1: bases learned from data miss the least energy — against frozen bases, within the complement of earlier ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from seqlora.subspace import complement, project_out, retract_qr
from theory import energy, sample_size
from theory.api import BoundCheck, Claim, ClaimResult, Suite, register
from theory.haar import haar_reads
from theory.layers.base import Array, Layer
from theory.layers.synthetic import layer as synthetic_layer
from theory.learned import as_columns, split_windows
from theory.stattest import check_mean
from theory.task import within
from theory.tolerance import eigenvalue
from theory.verdicts import judge

RANKS = (1, 2, 4, 8, 16, 32)
RANK = 8  # of a sequence; half of it in layers of less than WIDE inputs
WIDE = 256
CANTELLI = float(np.sqrt(99.0))  # a frozen basis is below mean - √99 s with probability at most 0.01
SMALL_SHAPES = ((3, 1), (4, 2), (6, 2), (6, 5))  # (d, r) at which the frozen law is checked with exact intervals
CONCEPTS = 8  # learned in sequence, at most; 3 in layers of more than DENSE_WIDTH inputs
DENSE_WIDTH = 768  # spectra are compared whole up to this width; wider layers take part in everything else


Tables = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True)
class Effort:
    """How much a suite spends."""

    trials: int  # Haar bases a layer
    small_trials: int  # Haar bases a small shape
    draws: int  # data sets a sample size
    bounded: int  # of them with the excess bound
    entries: int  # n^2 of all layers together


EFFORT = {
    "smoke": Effort(trials=400, small_trials=50_000, draws=100, bounded=3, entries=2 * 384**2),
    "ci": Effort(trials=1_000, small_trials=400_000, draws=100, bounded=5, entries=16 * 1536**2),
    "full": Effort(trials=20_000, small_trials=4_000_000, draws=1_000, bounded=25, entries=100 * 4096**2),
}


@register
class ResidualEnergy(Claim):
    """Learned bases minimise residual energy; a frozen basis misses its exact Haar mean."""

    id = "C1"
    title = "Data-driven bases minimise residual energy"
    statement = (
        r"\min_{A\perp A_{<t}} \rho(A) = \operatorname{tr}\Sigma - \sum_{k\le r}\lambda_k(Q^\top\Sigma Q) \le "
        r"\mathbb{E}\,\rho(A_{\rm Haar}) = \operatorname{tr}\Sigma - \tfrac{r}{n-p}\operatorname{tr}(Q^\top\Sigma Q),"
        r"\qquad \rho(\hat A)-\rho^* \le 2r\,\|\hat\Sigma-\Sigma\|_{\rm op}"
    )
    assumptions = (
        "the basis is orthogonal to all earlier ones",
        "the spectrum inside the complement is not flat (else learned and frozen tie)",
    )
    source = "abstract"

    def check(self, layers: Sequence[Layer], source: str, suite: Suite, rng: np.random.Generator) -> ClaimResult:
        """Attack the optimum, compare held-out energies with frozen ones, and sample the frozen law itself."""
        effort = EFFORT[suite]
        tables: Tables = {"residual_energy": [], "sample_size": []}
        checks = _frozen_law(effort, rng)
        chosen = within(layers, effort.entries)
        for layer in chosen:
            study = LayerStudy.of(layer, rng)
            checks += study.optimum(rng) + study.held_out(tables) + study.frozen(effort, tables, rng)
            checks += study.interlacing() + _sample_size(layer, study.rank, effort, tables, rng)
        checks += _controls(rng)
        return ClaimResult(
            self.id,
            source,
            judge(checks),
            f"{len(chosen)} of {len(layers)} layers. {_evidence(tables)}",
            tuple(checks),
            tables,
        )


@dataclass(frozen=True)
class LayerStudy:
    """One layer with its windows halved: bases learned in sequence on one half, energies measured on the other."""

    layer: Layer
    rank: int
    fitted: tuple[Array, ...]  # second moments of the learning half
    held: tuple[Array, ...]  # second moments of the other half
    bases: Array  # (T, r, n), learned from `fitted`

    @classmethod
    def of(cls, layer: Layer, rng: np.random.Generator) -> LayerStudy:
        """Split, take moments, learn."""
        rank = max(1, min(RANK if layer.width >= WIDE else RANK // 2, layer.width // 4))
        most = CONCEPTS if layer.width <= DENSE_WIDTH else 3
        concepts = layer.concepts[: max(1, min(most, layer.width // (2 * rank)))]
        halves = split_windows(
            Layer(layer.name, layer.weight, {c: layer.activations[c] for c in concepts}, layer.window), rng
        )
        fitted, held = ([moment(as_columns(windows)) for windows in half.values()] for half in halves)
        return cls(layer, rank, tuple(fitted), tuple(held), energy.learned_bases(fitted, rank))

    def past(self, index: int) -> Array:
        """Bases of the concepts before `index`, stacked, shape (p, n)."""
        return self.bases[:index].reshape(-1, self.layer.width)

    def optimum(self, rng: np.random.Generator) -> list[BoundCheck]:
        """No basis in the complement may lie below the optimum: near it, far from it, or learned elsewhere."""
        checks = []
        for index, (concept, S) in enumerate(zip(self.layer.concepts, self.held, strict=False)):
            past, n = self.past(index), self.layer.width
            best = energy.optimal_basis(S, self.rank, past)
            near = [best + scale * rng.standard_normal(best.shape) / np.sqrt(n) for scale in (1e-3, 0.1)]
            other = energy.optimal_basis(self.held[index - 1], self.rank, past)
            random = rng.standard_normal(best.shape)
            candidates = [*near, random, other, self.bases[index], _climbed(random, S, past)]
            energies = [energy.residual_energy(S, retract_qr(project_out(A, past))) for A in candidates]
            total = float(np.trace(S))
            optimal = energy.residual_energy(S, best)
            checks.append(
                BoundCheck(f"optimum: {concept}", optimal, min(energies), eigenvalue(n, total), self.layer.name)
            )
        return checks

    def held_out(self, tables: Tables) -> list[BoundCheck]:
        """Learned on one half, measured on the other: below what a frozen basis reaches with probability 0.01."""
        checks = []
        ranks = sorted({rank for rank in RANKS if rank <= self.layer.width // 4} | {self.rank})
        for index, (concept, S) in enumerate(zip(self.layer.concepts, self.held, strict=False)):
            past, total = self.past(index), float(np.trace(S))
            # optimal bases are nested, so one of the largest rank gives the energy of every rank
            best, learned = (
                energy.optimal_basis(moments[index], ranks[-1], past) for moments in (self.held, self.fitted)
            )
            read_best, read_learned = (np.cumsum(np.sum((A @ S) * A, axis=1)) for A in (best, learned))
            for rank in ranks:
                mean, variance = energy.frozen_residual_energy(S, rank, past)
                row = {
                    "layer": self.layer.name,
                    "concept": concept,
                    "rank": rank,
                    "optimal": total - float(read_best[rank - 1]),
                    "learned": total - float(read_learned[rank - 1]),
                    "frozen_mean": mean,
                    "frozen_std": float(np.sqrt(variance)),
                    "frozen_measured": None,
                    "total": total,
                    "earlier_directions": len(past),
                    "sequence_rank": self.rank,
                }
                tables["residual_energy"].append(row)
                if rank == self.rank:
                    checks.append(
                        beats_frozen(concept, total - float(read_learned[rank - 1]), mean, variance, self.layer.name)
                    )
        return checks

    def frozen(self, effort: Effort, tables: Tables, rng: np.random.Generator) -> list[BoundCheck]:
        """The Haar mean and variance of the last concept (most directions taken), by Monte Carlo on the layer."""
        index = len(self.held) - 1
        S, past, concept = self.held[index], self.past(index), self.layer.concepts[index]
        taken = len(past)
        # the p zeros of the past are not part of the complement
        eigenvalues: Array = np.sort(np.linalg.eigvalsh(energy.restricted(S, past)))[taken:]
        measured = float(np.trace(S)) - haar_reads(eigenvalues, self.rank, effort.trials, rng)
        mean, variance = energy.frozen_residual_energy(S, self.rank, past)
        for row in tables["residual_energy"]:
            if (row["layer"], row["concept"], row["rank"]) == (self.layer.name, concept, self.rank):
                row["frozen_measured"] = float(measured.mean())
        return [
            check_mean("frozen mean: on the layer", measured, mean, layer=self.layer.name),
            check_mean("frozen variance: on the layer", (measured - mean) ** 2, variance, layer=self.layer.name),
        ]

    def interlacing(self) -> list[BoundCheck]:
        """`λ_{k+p}(Σ) <= λ_k(QᵀΣQ) <= λ_k(Σ)`, and the optimum equals its formula, with Q from a QR of the past."""
        n, index = self.layer.width, len(self.held) - 1
        if n > DENSE_WIDTH:
            return []
        S, past = self.held[index], self.past(index)
        Q = complement(past)
        whole, inside = (np.linalg.eigvalsh(H)[::-1] for H in (S, Q.T @ S @ Q))
        tolerance = eigenvalue(n, float(whole[0]))
        formula = float(np.trace(S)) - float(inside[: self.rank].sum())
        gap = abs(formula - energy.optimal_residual_energy(S, self.rank, past))
        above, below = float(np.max(inside - whole[: len(inside)])), float(np.max(whole[len(past) :] - inside))
        return [
            BoundCheck("interlacing: from above", above, 0.0, tolerance, self.layer.name),
            BoundCheck("interlacing: from below", below, 0.0, tolerance, self.layer.name),
            BoundCheck("optimum formula: last concept", gap, 0.0, eigenvalue(n, float(np.trace(S))), self.layer.name),
        ]


def _climbed(A: Array, S: Array, past: Array, steps: int = 20) -> Array:
    """Orthogonal iteration `A <- A S` inside the complement: an attack that knows nothing of eigenvectors."""
    for _ in range(steps):
        A = retract_qr(project_out(A, past)) @ S
    return A


def moment(X: Array) -> Array:
    """Second moment `X Xᵀ / N`, shape (n, n)."""
    return X @ X.T / X.shape[1]


def beats_frozen(
    concept: str, learned: float, mean: float, variance: float, layer: str, control: bool = False
) -> BoundCheck:
    """`ρ(learned) <= mean - √99 s`: by Cantelli's inequality a frozen basis gets there with probability <= 0.01."""
    threshold = mean - CANTELLI * float(np.sqrt(variance))
    return BoundCheck(f"learned below frozen: {concept}", learned, threshold, 0.0, layer, control)


def _frozen_law(effort: Effort, rng: np.random.Generator) -> list[BoundCheck]:
    """Mean and variance of the frozen energy in few dimensions, where the range is short and Hoeffding is sharp."""
    checks = []
    for d, rank in SMALL_SHAPES:
        S = np.diag(np.arange(d, dtype=float) ** 2 / (d - 1) ** 2)
        energies = np.trace(S) - haar_reads(np.diag(S), rank, effort.small_trials, rng)
        mean, variance = energy.frozen_residual_energy(S, rank)
        ordered = np.sort(np.diag(S))
        low, high = ordered[: d - rank].sum(), ordered[rank:].sum()
        reach = max(mean - low, high - mean) ** 2
        shape = f"d={d}, r={rank}"
        checks += [
            check_mean(f"frozen mean: {shape}", energies, mean, range_width=high - low),
            check_mean(f"frozen variance: {shape}", (energies - mean) ** 2, variance, range_width=reach),
        ]
    return checks


def _sample_size(layer: Layer, rank: int, effort: Effort, tables: Tables, rng: np.random.Generator) -> list[BoundCheck]:
    """Excess bound at every sample size; the measured size of 99 % wins against the sufficient one."""
    X = layer.activations[layer.concepts[0]]
    count = X.shape[1] // layer.window
    windows = X[:, : count * layer.window].reshape(layer.width, count, layer.window).transpose(1, 0, 2)
    S = moment(as_columns(windows))
    rows = sample_size.measure(windows, S, rank, effort.draws, effort.bounded, rng)
    sufficient = sample_size.sufficient_windows(windows, S, rank)
    needed = sample_size.windows_needed(rows)
    for row in rows:
        tables["sample_size"].append(
            {
                "layer": layer.name,
                "n_samples": row.n_windows * layer.window,
                "probability_learned_beats_frozen": row.probability,
                "excess": row.excess,
                "excess_bound": row.excess_bound,
                "sufficient": sufficient * layer.window if np.isfinite(sufficient) else None,
                "needed": None if needed is None else needed * layer.window,
                "rank": rank,
            }
        )
    checks = [BoundCheck("excess: worst draw", max(row.worst_ratio for row in rows), 1.0, 0.0, layer.name)]
    if needed is not None and np.isfinite(sufficient):
        name = "sample size: measured against sufficient"
        # the smallest size tried is an upper limit of what is needed, and no theory asks for less
        checks.append(BoundCheck(name, needed, max(sufficient, float(rows[0].n_windows)), 0.0, layer.name))
    return checks


def _controls(rng: np.random.Generator) -> list[BoundCheck]:
    """Without a gap, or with the wrong concept's basis, a learned basis must not beat a frozen one."""
    flat = LayerStudy.of(synthetic_layer(64, 1, 4096, 0.0, rng), rng)
    steep = LayerStudy.of(synthetic_layer(64, 1, 4096, 1.5, rng), rng)
    # the concept whose strong directions are this one's weak ones: its second moment is c I - Σ
    S = steep.held[0]
    wrong = energy.optimal_basis(np.trace(S) * np.eye(len(S)) - S, steep.rank)
    cases = {"isotropic layer": (flat.held[0], flat.bases[0]), "basis of the wrong concept": (S, wrong)}
    return [
        beats_frozen(
            name,
            energy.residual_energy(H, A),
            *energy.frozen_residual_energy(H, len(A)),
            "synthetic n=64",
            control=True,
        )
        for name, (H, A) in cases.items()
    ]


def _evidence(tables: Tables) -> str:
    rows = [row for row in tables["residual_energy"] if row["rank"] == row["sequence_rank"]]
    share = {key: np.array([row[key] / row["total"] for row in rows]) for key in ("learned", "frozen_mean", "optimal")}
    sizes = {row["layer"]: row["needed"] for row in tables["sample_size"]}
    needed = [size for size in sizes.values() if size is not None]
    ranks = " and ".join(str(rank) for rank in sorted({row["rank"] for row in rows}))
    learned, frozen, optimal = share["learned"], share["frozen_mean"], share["optimal"]
    return (
        f"At rank {ranks} a learned basis leaves {learned.min():.2f}-{learned.max():.2f} of held-out energy, "
        f"a frozen one {frozen.min():.3f}-{frozen.max():.3f}, the optimum {optimal.min():.2f}-{optimal.max():.2f}. "
        f"Learned beats frozen with probability .99 from {min(needed, default=0)}-{max(needed, default=0)} samples on "
        f"({len(needed)} of {len(sizes)} layers reached it)."
    )
