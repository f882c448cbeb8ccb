"""A layer as the theory sees it: a frozen weight and the input activations of each concept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seqlora.errors import BadInputError, NonFiniteError

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Layer:
    """One linear layer with recorded (or generated) inputs.

    Attributes:
        name: where it comes from, e.g. "encoder.layer.2.attention.self.query".
        weight: the frozen weight W0, shape (m, n).
        activations: concept name -> X_i, shape (n, N_i); columns are tokens or pixels, in their original order.
        window: columns `[k*window, (k+1)*window)` belong together (one sentence, one image); 1 if independent.
    """

    name: str
    weight: Array
    activations: Mapping[str, Array]
    window: int = 1

    def __post_init__(self) -> None:
        if self.weight.ndim != 2 or self.window < 1 or not self.activations:
            raise BadInputError(f"layer {self.name}: needs a matrix, at least one concept and window >= 1")
        for concept, X in self.activations.items():
            if X.ndim != 2 or X.shape[0] != self.width or X.shape[1] < 1:
                raise BadInputError(
                    f"layer {self.name}, concept {concept}: activations have shape {X.shape}, "
                    f"expected ({self.width}, N)"
                )
            if not np.isfinite(X).all():
                raise NonFiniteError(f"layer {self.name}, concept {concept}: activations are not finite")

    @property
    def width(self) -> int:
        """Input width n."""
        return int(self.weight.shape[1])

    @property
    def concepts(self) -> tuple[str, ...]:
        """Names of the concepts, in order."""
        return tuple(self.activations)

    def second_moment(self, concept: str) -> Array:
        """Uncentred second moment X X^T / N of one concept, shape (n, n)."""
        X = self.activations[concept]
        return X @ X.T / X.shape[1]
