"""How many concepts fit into a layer, and how much they must overlap once they do not.

Exact orthogonality needs sum_i r_i <= n in every adapted layer. Past that, T bases of rank r overlap by at least

    sum_{i != j} ‖A_i A_j^T‖_F^2 = ‖sum_i P_i‖_F^2 - T r >= (T r)^2 / n - T r          (Cauchy-Schwarz; Welch 1974),

with equality iff sum_i P_i = (T r / n) I, a tight fusion frame. Not every shape has one: two planes in space share a
line, so their overlap is 2 and not 4/3. Which shapes do is known (`tight_frame_exists`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seqlora.errors import BadInputError
from seqlora.subspace import capacity, retract_qr, welch_floor

Array = NDArray[np.float64]

# Input widths of the linear layers in the attention blocks of Stable Diffusion 1.x -> how many layers have them. UNet:
# 5, 5 and 6 blocks of width 320, 640 and 1280, each with q, k, v, out (self) and q, out (cross) of that width and k, v
# (cross) reading 768 text features; text encoder: q, k, v, out in 12 blocks.
STABLE_DIFFUSION_1: Mapping[int, int] = {320: 5 * 6, 640: 5 * 6, 768: 16 * 2 + 12 * 4, 1280: 6 * 6}


@dataclass(frozen=True)
class Account:
    """What one width can hold.

    Attributes:
        width: n.
        layers: adapted layers of this width.
        rank: directions r that each concept asks for.
        concepts: T.
        capacity: concepts that fit orthogonally, floor(n / r).
        shrunk_rank: largest rank at which all T fit, floor(n / T); 0 if not even rank 1 does.
        least_overlap: Welch floor of sum_{i != j} ‖A_i A_j^T‖_F^2; 0 within capacity.
        random_overlap: its expectation for independent Haar bases.
    """

    width: int
    layers: int
    rank: int
    concepts: int
    capacity: int
    shrunk_rank: int
    least_overlap: float
    random_overlap: float

    @property
    def fits(self) -> bool:
        """Whether all concepts can be mutually orthogonal."""
        return self.concepts <= self.capacity


def account(widths: Mapping[int, int], rank: int, concepts: int) -> list[Account]:
    """Account of every width of a model, narrowest first.

    Args:
        widths: input width -> number of adapted layers.
        rank: directions a concept.
        concepts: T >= 1.

    Raises:
        BadInputError: no layer, or a number that is not positive.
    """
    if not widths or concepts < 1:
        raise BadInputError(f"{len(widths)} widths and {concepts} concepts: at least one of each is needed")
    return [
        Account(
            width,
            layers,
            rank,
            concepts,
            capacity(width, rank),
            width // concepts,
            welch_floor(width, rank, concepts),
            expected_random_overlap(width, rank, concepts),
        )
        for width, layers in sorted(widths.items())
    ]


def total_overlap(bases: Array) -> float:
    """Total overlap sum_{i != j} ‖A_i A_j^T‖_F^2 = ‖sum_i P_i‖_F^2 - T r of bases of shape (T, r, n)."""
    rows = bases.reshape(-1, bases.shape[-1])
    moment = rows.T @ rows if len(rows) > rows.shape[1] else rows @ rows.T
    return float((moment**2).sum()) - len(rows)


def expected_random_overlap(n: int, rank: int, concepts: int) -> float:
    """Expected overlap T (T - 1) r^2 / n of independent Haar bases, as E P = (r / n) I."""
    return concepts * (concepts - 1) * rank**2 / n


def random_bases(n: int, rank: int, concepts: int, rng: np.random.Generator) -> Array:
    """Independent Haar bases, shape (T, r, n)."""
    if rank > n:
        raise BadInputError(f"rank {rank} is larger than width {n}")
    return retract_qr(rng.standard_normal((concepts, rank, n)))


def tight_frame_exists(n: int, rank: int, concepts: int) -> bool:
    """Whether T rank-r projectors in R^n can sum to a multiple of the identity, so that the Welch floor is reached.

    Casazza, Fickus, Mixon, Wang & Zhou (2011): for r <= n/2 they can if r divides n (and T r >= n), and else iff
    T >= ceil(n / r) + 2, save for T = ceil(n / r) + 1, which two complements decide. Spatial complement: T bases of
    rank r in R^n <-> of rank n - r. Naimark complement: in R^n <-> in R^(T r - n).
    """
    if not 1 <= rank <= n or concepts < 1:
        raise BadInputError(f"rank {rank}, width {n}, {concepts} concepts: use 1 <= rank <= width")
    if rank == n or concepts * rank == n:
        return True
    if concepts * rank < n:
        return False
    if 2 * rank > n:
        return tight_frame_exists(n, n - rank, concepts)
    if n % rank == 0:
        return True
    fewest = -(-n // rank)
    if concepts == fewest + 1:
        return tight_frame_exists(concepts * rank - n, rank, concepts)
    return concepts >= fewest + 2
