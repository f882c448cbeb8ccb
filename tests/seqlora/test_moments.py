"""Streaming moments: exact against dense, sketches against their error bound, broken sketches against both."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seqlora.errors import BadInputError, NonFiniteError
from seqlora.moments import ExactMoment, SketchedMoment, merge_factors
from theory.tolerance import eigenvalue


def decaying(n: int, N: int, seed: int, decay: float = 1.0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    Q = np.linalg.qr(rng.standard_normal((n, n)))[0]
    return torch.from_numpy(rng.standard_normal((N, n)) * np.arange(1, n + 1) ** -decay @ Q)


def error_range(S: torch.Tensor, sketch: SketchedMoment) -> tuple[float, float]:
    values = torch.linalg.eigvalsh(S - sketch.matrix())
    return float(values[0]), float(values[-1])


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(1, 12), st.integers(0, 999))
def test_exact_moment_is_the_dense_one(chunks: list[int], n: int, seed: int) -> None:
    rows = decaying(n, sum(chunks), seed)
    moment = ExactMoment(n)
    for block in rows.split(chunks):
        moment.update(block)
    S = (rows.mT @ rows / len(rows)).numpy()
    tolerance = eigenvalue(n + len(rows), np.linalg.norm(S))
    np.testing.assert_allclose(moment.matrix(), S, atol=tolerance)
    F = moment.factor().numpy()
    np.testing.assert_allclose(F.T @ F, S, atol=tolerance)


@given(
    st.integers(2, 24), st.integers(1, 30), st.integers(1, 200), st.sampled_from([0.0, 0.5, 1.5]), st.integers(0, 999)
)
def test_sketch_keeps_its_bounds(n: int, size: int, N: int, decay: float, seed: int) -> None:
    rows = decaying(n, N, seed, decay)
    sketch = SketchedMoment(n, size)
    for block in rows.split(7):
        sketch.update(block)
    S = rows.mT @ rows / N
    low, high = error_range(S, sketch)
    rounding = eigenvalue(n + N, float(torch.linalg.matrix_norm(S)))
    assert sketch.factor().shape == (min(size, n), n)
    assert low >= -rounding  # never more energy than there was
    assert high <= sketch.error_bound + rounding
    spectrum = torch.linalg.eigvalsh(S).flip(0)
    length = min(size, n)
    for k in range(length):
        assert sketch.error_bound <= float(spectrum[k:].sum()) / (length - k) + rounding


def test_the_bound_is_not_vacuous() -> None:
    """On a decaying spectrum the bound is far below the norm of the moment, and the error is a good part of it."""
    rows = decaying(64, 2000, 0)
    sketch = SketchedMoment(64, 24)
    sketch.update(rows)
    S = rows.mT @ rows / len(rows)
    _, error = error_range(S, sketch)
    assert 0.2 * sketch.error_bound < error <= sketch.error_bound < 0.1 * float(torch.linalg.matrix_norm(S, 2))


def test_a_sketch_as_wide_as_the_layer_is_exact() -> None:
    rows = decaying(8, 100, 0)
    sketch = SketchedMoment(8, 20)
    sketch.update(rows)
    assert sketch.error_bound == 0
    np.testing.assert_allclose(sketch.matrix(), rows.mT @ rows / 100, atol=1e-13)


def _keep_without_shrinking(sketch: SketchedMoment) -> None:
    """Truncated SVD: forgets the shrink and the record of what it drops."""
    _, s, Vh = torch.linalg.svd(sketch.buffer, full_matrices=False)
    sketch.buffer = (s.unsqueeze(-1) * Vh)[: sketch.size]


def _shrink_singular_values(sketch: SketchedMoment) -> None:
    """Subtracts singular values where their squares must be."""
    _, s, Vh = torch.linalg.svd(sketch.buffer, full_matrices=False)
    cut = s[sketch.size - 1]
    sketch.buffer = ((s - cut).clamp_min(0).unsqueeze(-1) * Vh)[: sketch.size]
    sketch.removed += float(cut**2)


@pytest.mark.parametrize("broken", [_keep_without_shrinking, _shrink_singular_values])
def test_a_broken_shrink_is_caught(monkeypatch: pytest.MonkeyPatch, broken: object) -> None:
    monkeypatch.setattr(SketchedMoment, "_shrink", broken)
    rows = decaying(24, 400, 0)
    sketch = SketchedMoment(24, 8)
    sketch.update(rows)
    assert error_range(rows.mT @ rows / 400, sketch)[1] > 1.5 * sketch.error_bound + 1e-9


@given(st.integers(1, 10), st.integers(0, 12), st.integers(0, 12), st.integers(1, 14), st.integers(0, 999))
def test_merged_factors_add_up(n: int, first: int, second: int, size: int, seed: int) -> None:
    F_1, F_2 = decaying(n, first, seed), decaying(n, second, seed + 1)
    merged = merge_factors(F_1, F_2, size)
    assert len(merged) <= size
    gap = F_1.mT @ F_1 + F_2.mT @ F_2 - merged.mT @ merged
    values = torch.linalg.eigvalsh(gap)
    scale = float((F_1**2).sum() + (F_2**2).sum())
    rounding = eigenvalue(n + first + second, scale)
    limit = 0.0 if size >= min(n, first + second) else scale / size
    assert -rounding <= float(values[0])
    assert float(values[-1]) <= limit + rounding


def test_bad_activations_are_named() -> None:
    for moment in (ExactMoment(3), SketchedMoment(3, 2)):
        with pytest.raises(NonFiniteError, match="NaN or infinite"):
            moment.update(torch.tensor([[1.0, torch.inf, 0.0]]))
        with pytest.raises(BadInputError, match=r"expected \(N, 3\)"):
            moment.update(torch.ones(2, 4))
        assert moment.count == 0
    with pytest.raises(BadInputError, match="at least one row"):
        SketchedMoment(3, 0)


def test_half_precision_rows_are_summed_in_double() -> None:
    rows = decaying(6, 50, 0).to(torch.bfloat16)
    moment = ExactMoment(6)
    moment.update(rows)
    np.testing.assert_allclose(moment.matrix(), rows.double().mT @ rows.double() / 50, rtol=1e-12, atol=1e-14)
