from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqlora.errors import BadInputError, CapacityError
from seqlora.linear import solve_moments
from seqlora.subspace import capacity, overlap, spread, welch_floor
from theory.capacity import (
    STABLE_DIFFUSION_1,
    account,
    expected_random_overlap,
    random_bases,
    tight_frame_exists,
    total_overlap,
)
from theory.stattest import check_mean
from theory.tolerance import matmul


def test_stable_diffusion_widths_agree_with_its_parameter_count() -> None:
    # UNet attention layers have 199,296 r LoRA parameters, r (inputs + outputs); of the input side 768 is the text.
    blocks = {320: 5, 640: 5, 1280: 6}
    parameters = sum(count * (6 * 2 * width + 2 * (768 + width)) for width, count in blocks.items())
    assert parameters == 199_296
    assert sum(STABLE_DIFFUSION_1.values()) == 128 + 48


def test_account_of_stable_diffusion_at_the_scale_of_the_abstract() -> None:
    entries = account(STABLE_DIFFUSION_1, rank=4, concepts=101)
    assert [entry.width for entry in entries] == [320, 640, 768, 1280]
    assert [entry.capacity for entry in entries] == [80, 160, 192, 320]
    assert [entry.fits for entry in entries] == [False, True, True, True]
    assert entries[0].shrunk_rank == 3
    assert 101 * entries[0].shrunk_rank <= 320 < 101 * (entries[0].shrunk_rank + 1)
    assert entries[0].least_overlap == pytest.approx(404**2 / 320 - 404)
    assert entries[1].least_overlap == 0


@given(n=st.integers(1, 10), concepts=st.integers(1, 8), seed=st.integers(0, 2**32 - 1), data=st.data())
@settings(max_examples=60, deadline=None)
def test_floor_binds_every_choice_of_bases(n: int, concepts: int, seed: int, data: st.DataObject) -> None:
    rank = data.draw(st.integers(1, n))
    bases = random_bases(n, rank, concepts, np.random.default_rng(seed))
    pairs = sum(overlap(bases[i], bases[j]) ** 2 for i in range(concepts) for j in range(concepts) if i != j)
    tolerance = matmul(4 * n * concepts, (concepts * rank) ** 2)
    assert total_overlap(bases) == pytest.approx(pairs, abs=tolerance)
    assert pairs >= welch_floor(n, rank, concepts) - tolerance
    # Everybody on the same subspace is the worst there is.
    assert total_overlap(np.repeat(bases[:1], concepts, 0)) >= pairs - tolerance


@pytest.mark.parametrize(("n", "rank", "concepts"), [(32, 4, 8), (32, 4, 12), (32, 4, 24), (12, 5, 9)])
def test_spread_bases_reach_the_floor(n: int, rank: int, concepts: int) -> None:
    bases = spread(n, rank, concepts, np.random.default_rng(0))
    potential = max((concepts * rank) ** 2 / n, concepts * rank)
    floor = welch_floor(n, rank, concepts)
    assert total_overlap(bases) == pytest.approx(floor, abs=(1e-13 + matmul(2 * n, 1.0)) * potential)
    assert np.allclose(bases @ bases.swapaxes(1, 2), np.eye(rank), atol=1e-13)


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6])
def test_spread_reaches_the_floor_exactly_where_a_tight_frame_exists(n: int) -> None:
    rng = np.random.default_rng(n)
    for rank in range(1, n + 1):
        for concepts in range(2, 7):
            if concepts * rank <= n:
                continue
            excess = total_overlap(spread(n, rank, concepts, rng, max_iterations=4000)) - welch_floor(n, rank, concepts)
            reached = excess <= 1e-8 * concepts * rank
            assert reached == tight_frame_exists(n, rank, concepts), (n, rank, concepts, excess)


def test_shapes_without_a_tight_frame() -> None:
    assert not tight_frame_exists(3, 2, 2)  # two planes in space share a line
    assert not tight_frame_exists(5, 4, 3)  # the complements are 3 lines, which cannot fill 5 dimensions
    assert tight_frame_exists(5, 4, 5)
    assert not tight_frame_exists(8, 2, 3)  # within capacity, orthogonal but not filling the space
    assert all(tight_frame_exists(width, 4, width // 4 + extra) for width in STABLE_DIFFUSION_1 for extra in (0, 1, 7))


def test_independent_bases_overlap_as_expected() -> None:
    rng = np.random.default_rng(1)
    samples = np.array([total_overlap(random_bases(16, 3, 5, rng)) for _ in range(2000)])
    assert check_mean("haar", samples, expected_random_overlap(16, 3, 5)).holds
    assert not check_mean("wrong", samples, 1.1 * expected_random_overlap(16, 3, 5)).holds


def test_one_concept_past_capacity_is_refused_by_the_solver_and_overlaps_when_spread() -> None:
    n, rank = 12, 4
    full = spread(n, rank, capacity(n, rank), np.random.default_rng(2))
    assert total_overlap(full) == pytest.approx(0, abs=1e-13)
    with pytest.raises(CapacityError, match="does not fit"):
        solve_moments(np.eye(n), np.eye(n), rank, past_bases=full.reshape(-1, n))
    assert total_overlap(spread(n, rank, capacity(n, rank) + 1, np.random.default_rng(2))) > 1


def test_bad_input_is_refused() -> None:
    with pytest.raises(BadInputError, match="at least one"):
        account({}, 4, 3)
    with pytest.raises(BadInputError, match="rank 5"):
        random_bases(4, 5, 2, np.random.default_rng(0))
    with pytest.raises(BadInputError, match="rank 0"):
        tight_frame_exists(4, 0, 2)
