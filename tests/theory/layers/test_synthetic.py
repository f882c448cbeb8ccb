"""Synthetic layers have the spectrum, the angle and the moments that they promise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqlora.errors import BadInputError
from theory.layers import load, synthetic
from theory.stattest import check_mean
from theory.tolerance import orthonormality


@given(width=st.integers(1, 40), decay=st.floats(0, 4))
def test_the_spectrum_is_a_power_law_of_unit_mean(width: int, decay: float) -> None:
    eigenvalues = synthetic.spectrum(width, decay)
    assert eigenvalues.mean() == pytest.approx(1, rel=width * 1e-15)
    assert (np.diff(eigenvalues) <= 0).all()
    if width > 1:
        assert np.log(eigenvalues[0] / eigenvalues[-1]) == pytest.approx(decay * np.log(width), abs=1e-12)


@given(width=st.integers(2, 24), concepts=st.integers(1, 4), angle=st.floats(0, np.pi / 2), seed=st.integers(0, 99))
def test_frames_are_orthonormal_and_turned_by_the_angle(width: int, concepts: int, angle: float, seed: int) -> None:
    frames = synthetic.frames(width, concepts, angle, np.random.default_rng(seed))
    gram = np.swapaxes(frames, 1, 2) @ frames
    assert np.abs(gram - np.eye(width)).max() <= 4 * orthonormality(width)
    half = width // 2
    reference = synthetic.frames(width, 1, 0.0, np.random.default_rng(seed))[0]  # the shared frame is drawn first
    for frame in frames:
        cosines = np.sum(reference[:, :half] * frame[:, :half], axis=0)
        assert np.abs(cosines - np.cos(angle)).max() <= 4 * orthonormality(width)


def test_angle_zero_is_one_second_moment_and_an_angle_is_not() -> None:
    rng = np.random.default_rng(0)
    same = synthetic.frames(16, 3, 0.0, rng)
    turned = synthetic.frames(16, 3, 0.5, rng)
    w = synthetic.spectrum(16, 1.5)
    moments = [[(U * w) @ U.T for U in frames] for frames in (same, turned)]
    assert np.allclose(moments[0][0], moments[0][1], atol=1e-12)
    assert np.linalg.norm(moments[1][0] - moments[1][1]) > 0.1 * np.linalg.norm(moments[1][0])


@pytest.mark.parametrize("family", sorted(synthetic.FAMILIES))
def test_entries_have_mean_zero_and_variance_one(family: str) -> None:
    entries = synthetic.draw(family, (400_000,), np.random.default_rng(3))
    assert check_mean("mean", entries, 0.0).holds
    if family != "student":  # its fourth moment is infinite: no interval for the variance exists
        assert check_mean("variance", entries**2, 1.0).holds
        assert not check_mean("variance", (1.1 * entries) ** 2, 1.0).holds
    else:
        # |t(3)| / sqrt 3 has median t_{.75}(3) / sqrt 3 = 0.4416; half of the entries lie below it
        assert check_mean("median", (np.abs(entries) < 0.441613).astype(float), 0.5, range_width=1.0).holds


def test_layers_have_the_second_moment_of_their_spectrum() -> None:
    layer = synthetic.layer(8, 2, 200_000, 1.5, np.random.default_rng(1), angle=0.0)
    S = layer.second_moment("concept0")
    assert np.linalg.eigvalsh(S)[::-1] == pytest.approx(synthetic.spectrum(8, 1.5), rel=0.03)  # 8 sigma: √(2/N) = .0032


def test_every_suite_has_every_family_and_three_decays() -> None:
    layers = load("synthetic", "smoke", np.random.default_rng(0))
    assert {layer.name.split()[0] for layer in layers} == set(synthetic.FAMILIES)
    assert len({layer.name for layer in layers}) == len(layers)
    assert all(layer.window == 1 and len(layer.concepts) == 4 for layer in layers)


def test_a_stream_gives_the_same_layers_again() -> None:
    first, second = (load("synthetic", "smoke", np.random.default_rng(5)) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert all(np.array_equal(a.activations[concept], b.activations[concept]) for concept in a.concepts)


def test_bad_input_is_named() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(BadInputError, match="unknown family 'cauchy'"):
        synthetic.draw("cauchy", (2,), rng)
    with pytest.raises(BadInputError, match="overlap angle"):
        synthetic.frames(8, 2, 2.0, rng)
    with pytest.raises(BadInputError, match="unknown layer source 'minlim'"):
        load("minlim", "smoke", rng)
    with pytest.raises(BadInputError, match="unknown suite 'huge'"):
        load("synthetic", "huge", rng)
