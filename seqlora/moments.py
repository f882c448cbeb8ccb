"""Streaming second moments of a layer's inputs: exact, or as a frequent-directions sketch.

The forgetting penalty needs of the past only `S = X X^T / N` of every layer, never images or activations.
"""

from __future__ import annotations

import torch
from torch import Tensor

from seqlora.errors import BadInputError, NonFiniteError


class ExactMoment:
    """Weighted sum of second moments, kept as an n x n matrix. Memory O(n^2), update O(N n^2)."""

    def __init__(self, width: int, dtype: torch.dtype = torch.float64) -> None:
        self.total = torch.zeros(width, width, dtype=dtype)
        self.count = 0

    def update(self, rows: Tensor) -> None:
        """Add activations, shape (N, n)."""
        rows = _checked(rows, self.total.shape[-1]).to(self.total)
        self.total += rows.mT @ rows
        self.count += len(rows)

    def matrix(self) -> Tensor:
        """X X^T / N, shape (n, n)."""
        return self.total / max(self.count, 1)

    def factor(self) -> Tensor:
        """Rows F with F^T F = X X^T / N, shape (n, n)."""
        values, U = torch.linalg.eigh(self.matrix())
        return (U * values.clamp_min(0).sqrt()).mT


class SketchedMoment:
    """Frequent-directions sketch of a second moment (Liberty 2013; Ghashami, Liberty, Phillips & Woodruff 2016).

    With l rows it keeps F of shape (l, n) such that, for every k < l,

        0 <= S - F^T F <= error_bound I,     error_bound <= (tr S - sum of its k largest eigenvalues) / (l - k).

    Memory O(l n); update O(N l n) amortised.
    """

    def __init__(self, width: int, size: int, dtype: torch.dtype = torch.float64) -> None:
        if size < 1:
            raise BadInputError(f"a sketch needs at least one row, not {size}")
        self.size = min(size, width)
        self.buffer = torch.zeros(0, width, dtype=dtype)
        self.removed = 0.0
        self.count = 0

    def update(self, rows: Tensor) -> None:
        """Add activations, shape (N, n)."""
        rows = _checked(rows, self.buffer.shape[-1]).to(self.buffer)
        self.count += len(rows)
        for block in rows.split(self.size):
            self.buffer = torch.cat([self.buffer, block])
            if len(self.buffer) > 2 * self.size:
                self._shrink()

    def _shrink(self) -> None:
        # Subtract the squared l-th singular value from all: each shrink takes at least l times as much energy
        # from the trace as it adds to the operator-norm error.
        _, s, Vh = torch.linalg.svd(self.buffer, full_matrices=False)
        if len(s) < self.size:
            self.buffer = s.unsqueeze(-1) * Vh
            return
        cut = s[self.size - 1] ** 2 if self.size < self.buffer.shape[-1] else s.new_zeros(())
        kept = (s**2 - cut).clamp_min(0).sqrt()[: self.size]
        self.buffer = kept.unsqueeze(-1) * Vh[: self.size]
        self.removed += float(cut)

    @property
    def error_bound(self) -> float:
        """Largest possible eigenvalue of S - F^T F, accumulated while sketching."""
        return self.removed / max(self.count, 1)

    def factor(self) -> Tensor:
        """Rows F with F^T F close to X X^T / N, shape (l, n); zero rows where fewer directions were seen."""
        if len(self.buffer) > self.size:
            self._shrink()
        rows = self.buffer[: self.size] / max(self.count, 1) ** 0.5
        missing = self.size - len(rows)
        return torch.cat([rows, rows.new_zeros(missing, rows.shape[-1])]) if missing else rows

    def matrix(self) -> Tensor:
        """F^T F, shape (n, n)."""
        F = self.factor()
        return F.mT @ F


def merge_factors(F_1: Tensor, F_2: Tensor, size: int) -> Tensor:
    """Rows F, at most `size`, with F^T F = F_1^T F_1 + F_2^T F_2: exact for size >= n, else a frequent-directions step.

    Sketches are mergeable: the error of the result is at most the sum of both errors plus what this step removes.
    """
    rows = torch.cat([F_1, F_2])
    if size >= min(rows.shape):  # nothing is cut, and F = R with rows = Q R will do, in a fifth of the time
        return torch.linalg.qr(rows, mode="r").R
    _, s, Vh = torch.linalg.svd(rows, full_matrices=False)
    return (s**2 - s[size - 1] ** 2).clamp_min(0).sqrt()[:size].unsqueeze(-1) * Vh[:size]


Moment = ExactMoment | SketchedMoment


def _checked(rows: Tensor, width: int) -> Tensor:
    if rows.ndim != 2 or rows.shape[-1] != width:
        raise BadInputError(f"activations have shape {tuple(rows.shape)}, expected (N, {width})")
    if not bool(torch.isfinite(rows).all()):
        raise NonFiniteError("activations hold NaN or infinite values; check the data and the learning rate")
    return rows.detach()
