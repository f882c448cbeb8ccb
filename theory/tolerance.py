"""Tolerances derived from the floating-point model, so that none is chosen by eye."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike


def unit_roundoff(dtype: DTypeLike = np.float64) -> float:
    """Unit roundoff u of a floating-point type: half the distance from 1 to the next number."""
    return float(np.finfo(np.dtype(dtype)).eps) / 2


def gamma(n: int, dtype: DTypeLike = np.float64) -> float:
    """Error constant gamma_n = n u / (1 - n u) of a length-n inner product (Higham 2002, eq. 3.5)."""
    nu = n * unit_roundoff(dtype)
    return nu / (1 - nu)


def matmul(n: int, norm: float, dtype: DTypeLike = np.float64) -> float:
    """Absolute tolerance of a product with inner dimension n, `norm` bounding the product of the factors' norms."""
    return gamma(n, dtype) * norm


def orthonormality(n: int, dtype: DTypeLike = np.float64, constant: float = 10.0) -> float:
    """Tolerance of ‖Q^T Q - I‖ for a QR or SVD factor of size n: c n u (Higham 2002, sec. 19.3; c = 10)."""
    return constant * n * unit_roundoff(dtype)


def eigenvalue(n: int, norm: float, dtype: DTypeLike = np.float64, constant: float = 10.0) -> float:
    """Absolute tolerance of a symmetric eigenvalue: c n u ‖S‖ (Weyl's inequality on the backward error)."""
    return constant * n * unit_roundoff(dtype) * norm
