"""A forgetting certificate as it is stored beside an adapter, and its later check against fresh activations.

`theory.certify` makes certificates; this file holds what they say, keeps them as JSON, and holds them to it: `verify`
first asks whether the later adapters kept the terms (directions, orthogonality, budget, norm bound), then counts how
many fresh windows lost more than was certified.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from seqlora.errors import BadInputError, StoredFileError
from seqlora.files import read_json, write_json
from theory.api import BoundCheck
from theory.stattest import FALSE_FAIL_RATE, allowed_violations, check_rate

Array = NDArray[np.float64]

SCHEMA = 1
FILE_NAME = "forgetting_certificate.json"


@dataclass(frozen=True)
class Certificate:
    """One certified bound of per-sample forgetting, with the terms under which it holds.

    Attributes:
        kind: "sub-gaussian" or "distribution-free".
        layer: name of the layer.
        concept: name of the concept.
        bound: certified F of one window, in squared output units.
        mean_bound: certified E F with confidence 1 - delta (distribution-free and bounded inputs only).
        delta: failure probability for one fresh window.
        directions: q, later directions in total.
        budget: beta, cap on ‖[B_{j+1} … B_T]‖_op.
        window: columns N of a window.
        width: input width n.
        calibration: windows that the certificate was estimated from.
        rank_statistic: order statistic used (distribution-free), 0 if the norm bound was.
        norm_bound: declared bound b of ‖x‖, if any; a fresh activation above it voids the certificate.
        kappa2: largest proxy factor met (sub-Gaussian only).
        psi_norm: ‖Psi‖_op (sub-Gaussian only).
        basis: this concept's basis A_j, shape (r, n); later bases must be orthogonal to it.
    """

    kind: Literal["sub-gaussian", "distribution-free"]
    layer: str
    concept: str
    bound: float
    mean_bound: float | None
    delta: float
    directions: int
    budget: float
    window: int
    width: int
    calibration: int
    rank_statistic: int
    norm_bound: float | None
    kappa2: float | None
    psi_norm: float | None
    basis: tuple[tuple[float, ...], ...]


def save(certificate: Certificate, folder: str | Path) -> Path:
    """Write a certificate beside an adapter, atomically, as `<kind>.forgetting_certificate.json`."""
    path = Path(folder) / f"{certificate.kind}.{FILE_NAME}"
    write_json(path, {"schema": SCHEMA, **asdict(certificate)})
    return path


def load(path: str | Path) -> Certificate:
    """Read a certificate.

    Raises:
        StoredFileError: not a certificate of this schema, or a field is missing or of the wrong type.
    """
    stored: Any = read_json(path)
    names = {field.name for field in fields(Certificate)}
    if not isinstance(stored, dict) or stored.get("schema") != SCHEMA or set(stored) != names | {"schema"}:
        raise StoredFileError(f"{path} is no forgetting certificate of schema {SCHEMA}; make it again")
    values = {name: stored[name] for name in names}
    try:
        values["basis"] = as_rows(np.array(values["basis"], dtype=np.float64).reshape(-1, int(values["width"])))
        certificate = Certificate(**values)
        numbers = (certificate.bound, certificate.delta, certificate.budget)
        if not all(np.isfinite(numbers)) or not 0 < certificate.delta < 1 or certificate.bound < 0:
            raise ValueError("bound, delta or budget is out of range")
    except (TypeError, ValueError) as error:
        raise StoredFileError(f"{path} holds no usable certificate ({error}); make it again") from error
    return certificate


def broken_terms(certificate: Certificate, bases: Array, coefficients: Array, windows: Array) -> list[str]:
    """Why a certificate says nothing about these later adapters and windows; empty if its terms are kept.

    Args:
        certificate: the certificate of concept j.
        bases: later bases stacked, shape (p, n).
        coefficients: [B_{j+1} … B_T], shape (m, p).
        windows: fresh windows, shape (K, n, N).
    """
    slack = 1e-6  # float32 adapters: orthogonality and norms are kept to 1e-6
    A_j = np.array(certificate.basis)
    broken = []
    if bases.shape[0] > certificate.directions:
        broken.append(f"{bases.shape[0]} later directions exceed the certified {certificate.directions}")
    if np.linalg.norm(bases @ bases.T - np.eye(len(bases)), 2) > slack * max(1, len(bases)):
        broken.append("later bases are not orthonormal")
    if np.linalg.norm(bases @ A_j.T, 2) > slack:
        broken.append("later bases overlap this concept's basis")
    norm = float(np.linalg.norm(coefficients, 2)) if coefficients.size else 0.0
    if norm > certificate.budget * (1 + slack):
        broken.append(f"‖[B …]‖ = {norm:.4g} exceeds the budget {certificate.budget:.4g}")
    if certificate.norm_bound is not None:
        largest = float(np.sqrt(np.square(windows).sum(1).max()))
        if largest > certificate.norm_bound:
            broken.append(f"an activation of norm {largest:.4g} exceeds the declared {certificate.norm_bound:.4g}")
    return broken


def verify(certificate: Certificate, bases: Array, coefficients: Array, windows: Array) -> BoundCheck:
    """Check a certificate against later adapters and fresh activations.

    The violation count of an order statistic of K calibration windows is beta-binomial, because all fresh windows are
    compared with the same one; its acceptance limit takes the place of the binomial one.

    Args:
        certificate: the certificate of concept j.
        bases: later bases stacked, shape (p, n).
        coefficients: [B_{j+1} … B_T], shape (m, p).
        windows: fresh windows of concept j, shape (K, n, N).

    Returns:
        A check of the violation rate; `details` has the largest realised forgetting.

    Raises:
        BadInputError: shapes that do not fit, or terms that are not kept: then nothing was certified.
    """
    if windows.ndim != 3 or windows.shape[1:] != (certificate.width, certificate.window) or not len(windows):
        raise BadInputError(
            f"fresh windows have shape {windows.shape}, expected (K, {certificate.width}, {certificate.window})"
        )
    if bases.shape != (coefficients.shape[1], certificate.width):
        raise BadInputError(f"later bases {bases.shape} and coefficients {coefficients.shape} do not fit together")
    broken = broken_terms(certificate, bases, coefficients, windows)
    if broken:
        raise BadInputError(f"certificate of {certificate.concept!r} is void: {'; '.join(broken)}")
    realised = np.square(coefficients @ (bases @ windows)).sum((1, 2)) / certificate.window
    violations = int(np.sum(realised > certificate.bound))
    check = check_rate(
        f"{certificate.kind} certificate, delta={certificate.delta:g}",
        violations,
        len(windows),
        certificate.delta,
        layer=certificate.layer,
        realised=float(realised.max()),
        certificate=certificate.bound,
    )
    if certificate.rank_statistic:
        above = certificate.calibration + 1 - certificate.rank_statistic
        law = stats.betabinom(len(windows), above, certificate.rank_statistic)
        limit = max(int(law.isf(FALSE_FAIL_RATE)), allowed_violations(len(windows), certificate.delta))
        check = replace(check, allowed_violations=limit)
    return check


def as_rows(basis: Array) -> tuple[tuple[float, ...], ...]:
    """A matrix as nested tuples, the form in which a certificate keeps its basis."""
    return tuple(tuple(float(value) for value in row) for row in np.asarray(basis))
