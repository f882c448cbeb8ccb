"""What a comparison says of cells that are equal, worse, better, noisy, missing, failed, new or too few."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bench.regression.comparison import compare
from bench.regression.margins import NO_PILOT, MarginsFile, RoundOff
from bench.regression.snapshot import NotComparableError, Snapshot
from bench.regression.summary import benchmark_json, headline, markdown, notes

FINAL = "relative_error.final"
RNG = np.random.default_rng(2)
BEFORE = RNG.normal(0.5, 0.1, 8)
NOISE = RNG.normal(0, 0.004, 8)


def values(shift: float = 0.0, noise: float = 1.0, seeds: int = 8) -> dict[str, Any]:
    return {FINAL: list(BEFORE[:seeds] + shift + noise * NOISE[:seeds])}


def base(make: SimpleNamespace, **changes: Any) -> Snapshot:
    return make.made_up({FINAL: list(BEFORE)}, **changes)


def test_equal_cells_are_equal(make: SimpleNamespace) -> None:
    found = compare(base(make), base(make), NO_PILOT)
    assert [gate.verdict for gate in found.gates] == ["equal"]
    assert found.exit_code == 0
    assert headline(found) == "no regression in 1 gates"


def test_on_the_same_machine_any_change_must_be_explained(make: SimpleNamespace) -> None:
    found = compare(base(make), make.made_up(values(shift=-0.3, noise=0)), NO_PILOT)
    assert len(found.different) == 8
    assert found.exit_code == 1  # even though it is better
    assert "8 numbers of 8 cells changed on the same machine" in headline(found)
    assert "was 0.5" in str(found.different[0]) or "is 0." in str(found.different[0])


def test_round_off_that_the_pilot_measured_is_no_change(make: SimpleNamespace) -> None:
    group = ("linear-synthetic:width=8", "seqlora", 2)
    axes = dict(zip(("task", "method", "n_concepts"), group, strict=True))
    margins: MarginsFile = NO_PILOT.model_copy(update={"round_off": [RoundOff(**axes, numbers={FINAL: 1e-9})]})
    within, beyond = (make.made_up(values(shift=size, noise=0)) for size in (1.9e-9, 2.1e-9))
    assert compare(base(make), within, margins).exit_code == 0
    assert compare(base(make), beyond, margins).exit_code == 1
    assert compare(base(make), within, NO_PILOT).exit_code == 1  # without a pilot: bit for bit


@pytest.mark.parametrize(
    ("shift", "noise", "verdict", "code"),
    [
        (0.05, 1.0, "regression", 1),
        (0.0, 1.0, "unchanged", 0),
        (0.01, 0.1, "unchanged", 0),  # as significant as can be, and below the margin of 0.02
        (0.05, 40.0, "inconclusive", 0),
        (-0.05, 1.0, "inconclusive", 0),
    ],
)
def test_elsewhere_the_statistics_decide(
    make: SimpleNamespace, shift: float, noise: float, verdict: str, code: int
) -> None:
    found = compare(base(make), make.made_up(values(shift, noise), "there"), NO_PILOT)
    (gate,) = found.gates
    assert gate.verdict == verdict
    assert found.exit_code == code
    assert gate.better == (shift < 0)
    assert gate.margin == 0.02  # the metric's own, where there was no pilot
    assert not found.different


def test_more_is_better_where_the_metric_says_so(make: SimpleNamespace) -> None:
    before = make.made_up({"identity.final": list(BEFORE)})
    down, up = (make.made_up({"identity.final": list(BEFORE + s + NOISE)}, "there") for s in (-0.05, 0.05))
    assert compare(before, down, NO_PILOT).exit_code == 1
    assert compare(before, up, NO_PILOT).exit_code == 0


def test_missing_and_failed_cells_fail(make: SimpleNamespace) -> None:
    fewer = compare(base(make), make.made_up(values(noise=0, seeds=7)), NO_PILOT)
    assert fewer.exit_code == 3
    assert fewer.missing == ["linear-synthetic:width=8 seqlora T=2 order=0 seed=7: missing"]
    whole = base(make)
    failed = whole.cells[0].model_copy(update={"status": "failed", "reason": "no luck", "numbers": {}})
    broken = compare(whole, whole.model_copy(update={"cells": [failed, *whole.cells[1:]]}), NO_PILOT)
    assert broken.exit_code == 3
    assert broken.missing[0].endswith("seed=0: failed (no luck)")
    # what failed before is asked of nobody
    assert compare(whole.model_copy(update={"cells": [failed, *whole.cells[1:]]}), whole, NO_PILOT).exit_code == 0


def test_a_gated_number_that_is_gone_is_a_missing_one(make: SimpleNamespace) -> None:
    found = compare(base(make), make.made_up({"relative_error.forgetting": [0.0] * 8}, "there"), NO_PILOT)
    assert found.exit_code == 3
    assert "relative_error.final was not measured" in found.missing[0]


def test_new_cells_are_listed(make: SimpleNamespace) -> None:
    after = base(make)
    more = after.model_copy(update={"cells": [*after.cells, *base(make, method="new").cells]})
    found = compare(base(make), more, NO_PILOT)
    assert found.exit_code == 0
    assert len(found.new) == 8
    assert "New cells" in markdown(found)


def test_too_few_pairs_and_other_weights_cannot_be_compared(make: SimpleNamespace) -> None:
    few = make.made_up(values(noise=0, seeds=7))
    found = compare(few, make.made_up(values(seeds=7), "there"), NO_PILOT)
    assert found.exit_code == 4
    assert "7 pairs, at least 8 are needed" in found.gates[0].reason
    assert compare(few, few, NO_PILOT).exit_code == 0  # equal is equal, however few
    other = compare(base(make), make.made_up(values(), "there", weights="new"), NO_PILOT)
    assert other.exit_code == 4
    assert "bless again" in other.gates[0].reason


def test_nothing_in_common(make: SimpleNamespace) -> None:
    with pytest.raises(NotComparableError, match="no cell in common") as caught:
        compare(base(make), base(make, method="other"), NO_PILOT)
    assert caught.value.exit_code == 4


def test_a_changed_verdict_fails_and_slow_code_does_not(make: SimpleNamespace) -> None:
    assert compare(base(make), base(make), NO_PILOT, verdicts=["C1: was 'holds'"]).exit_code == 1
    assert compare(base(make), base(make), NO_PILOT, advice=["twice as slow"]).exit_code == 0


def test_holm_runs_over_all_gates_that_are_tested(make: SimpleNamespace) -> None:
    def several(count: int, fingerprint: str, **changes: Any) -> Snapshot:
        parts = [make.made_up(values(**changes), fingerprint, method=f"m{i}") for i in range(count)]
        return parts[0].model_copy(update={"cells": [cell for part in parts for cell in part.cells]})

    one, ten = (
        compare(several(count, "here", noise=0), several(count, "there", shift=0.012, noise=2.5), NO_PILOT)
        for count in (1, 10)
    )
    assert ten.gates[0].adjusted_p == pytest.approx(min(1.0, 10 * one.gates[0].adjusted_p))


def test_summaries(make: SimpleNamespace) -> None:
    found = compare(base(make), make.made_up(values(0.05), "there"), NO_PILOT, advice=["merge: 2 was, 3 is"])
    text = markdown(found)
    assert "❌ Regression check: 1 of 1 gates are worse" in text
    assert "| ❌ | linear-synthetic:width=8 | seqlora | 2 | merged relative error | 8 |" in text
    assert "merge: 2 was, 3 is" in text
    assert [title for title, _ in notes(found)] == ["Slower by more than a quarter (advice, no failure)"]
    (entry,) = benchmark_json(found)
    assert set(entry) == {"name", "unit", "value", "range", "extra"}  # the fields that the action knows
    assert entry["value"] == pytest.approx(BEFORE.mean() + 0.05 + NOISE.mean())
    before = make.made_up({"identity.final": list(BEFORE)})
    (negated,) = benchmark_json(compare(before, before, NO_PILOT))
    assert negated["value"] == pytest.approx(-BEFORE.mean())
    assert "minus final identity" in negated["name"]


def test_long_lists_are_cut(make: SimpleNamespace) -> None:
    many = {name: list(BEFORE) for name in (FINAL, "fit_error.final", "fit_error.single")}
    after = {name: list(BEFORE + 1) for name in many}
    found = compare(make.made_up(many), make.made_up(after), NO_PILOT)
    assert len(found.different) == 24
    assert "and 4 more" in markdown(found)
