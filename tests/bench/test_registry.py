"""Registries and options in names."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from bench.options import canonical_name, with_options
from bench.registry import Registry, load
from seqlora.errors import BadInputError


@pytest.fixture
def fruits() -> Registry[object]:
    registry: Registry[object] = Registry("fruit")
    registry.add("apple", 1)
    registry.lazy("banana", "math:pi")
    return registry


def test_names_are_unique(fruits: Registry[object]) -> None:
    with pytest.raises(BadInputError, match="fruit 'apple' is registered twice"):
        fruits.add("apple", 2)
    with pytest.raises(BadInputError, match="'banana' is registered twice"):
        fruits.lazy("banana", "math:e")
    assert fruits["apple"] == 1


def test_lazy_entries_are_imported_once_asked_for(fruits: Registry[object]) -> None:
    import math

    assert fruits["banana"] == math.pi
    assert list(fruits) == ["apple", "banana"]
    assert len(fruits) == 2
    assert "banana" in fruits


def test_a_typing_error_gets_the_near_names(fruits: Registry[object]) -> None:
    with pytest.raises(BadInputError, match="unknown fruit 'aple'; did you mean 'apple'"):
        fruits["aple"]
    with pytest.raises(BadInputError, match="unknown fruit 'xyz'; known: apple, banana"):
        fruits["xyz"]


@pytest.mark.parametrize("target", ["no.such.module:x", "math:no_such_name", "math"])
def test_a_target_that_does_not_exist_is_one_line(target: str) -> None:
    with pytest.raises(BadInputError, match="cannot load"):
        load(target)


def test_the_registry_stays_short() -> None:
    from pathlib import Path

    import bench.registry

    assert len(Path(bench.registry.__file__).read_text(encoding="utf-8").splitlines()) <= 100


@dataclass(frozen=True)
class Pie:
    slices: int = 8
    sugar: float = 0.5
    hot: bool = False
    topping: str = "none"


def test_options_take_the_type_of_their_default() -> None:
    pie = with_options(Pie(), "slices=6,sugar=1,hot=True,topping=cream", "pie")
    assert pie == Pie(6, 1.0, True, "cream")
    assert isinstance(pie.sugar, float)


def test_equal_options_have_one_name_whatever_their_order() -> None:
    first, second = (with_options(Pie(), text, "pie") for text in ("sugar=1,slices=6", "slices=6,sugar=1.0"))
    assert canonical_name("pie", first, Pie()) == canonical_name("pie", second, Pie()) == "pie:slices=6,sugar=1.0"
    assert canonical_name("pie", with_options(Pie(), "slices=8", "pie"), Pie()) == "pie"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("salt=1", "pie has no option 'salt'; known: slices, sugar, hot, topping"),
        ("slices=many", "pie: slices='many' is no int"),
        ("sugar=nan", "pie: sugar='nan' is not finite"),
        ("sugar=inf", "not finite"),
        ("hot=yes", "neither True nor False"),
        ("slices", "slices='' is no int"),
        (",", "no option ''"),
    ],
)
def test_bad_options_are_one_line(text: str, message: str) -> None:
    with pytest.raises(BadInputError, match=message) as caught:
        with_options(Pie(), text, "pie")
    assert "\n" not in str(caught.value)


def test_only_allowed_options_can_be_set() -> None:
    with pytest.raises(BadInputError, match="known: slices"):
        with_options(Pie(), "sugar=1", "pie", allowed=["slices"])
