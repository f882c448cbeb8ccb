from __future__ import annotations

from theory.api import BoundCheck
from theory.verdicts import judge, kind, span

HOLDS = BoundCheck("rate: start 1", 0.5, 1.0, layer="a")
BREAKS = BoundCheck("rate: start 2", 2.0, 1.0, layer="b")
BROKEN_CONTROL = BoundCheck("rate: wrong constant", 3.0, 1.0, layer="a", control=True)
IDLE_CONTROL = BoundCheck("gap: control", 0.0, 1.0, layer="a", control=True)


def test_holds_needs_every_check_and_every_control_broken() -> None:
    assert judge([HOLDS, BROKEN_CONTROL]).kind == "holds"
    assert judge([HOLDS]).kind == "fails when"
    assert judge([HOLDS, BROKEN_CONTROL, IDLE_CONTROL]).kind == "fails when"
    assert judge([HOLDS, BREAKS, BROKEN_CONTROL]).kind == "fails when"


def test_condition_says_what_where_and_by_how_much() -> None:
    condition = judge([HOLDS, BREAKS, BROKEN_CONTROL]).condition
    assert "rate (1 of 2 layers; 2 against 1)" in condition
    assert "gap" in judge([HOLDS, BROKEN_CONTROL, IDLE_CONTROL]).condition
    assert kind(BREAKS) == "rate"


def test_ranges_print_once_where_both_ends_are_alike() -> None:
    assert span([0.34, 0.12, 0.2]) == "0.12 to 0.34"
    assert span([1.0, 1.001], ".2f") == "1.00"
