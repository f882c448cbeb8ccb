"""The methods that are compared, one package a family of tasks and one file a method."""

from __future__ import annotations

from typing import Any

from bench.options import canonical_name, split_name, with_options
from bench.registry import Registry

# family -> the registry of its methods, imported when a task of the family is used.
FAMILIES: Registry[Registry[Any]] = Registry("family of methods")
FAMILIES.lazy("linear", "bench.methods.linear:METHODS")
FAMILIES.lazy("trained", "bench.methods.trained:METHODS")
FAMILIES.lazy("images", "bench.methods.images:METHODS")


def methods(family: str) -> Registry[Any]:
    """The methods that tasks of `family` accept.

    Raises:
        BadInputError: no such family.
    """
    return FAMILIES[family]


def load_method(family: str, name: str) -> tuple[str, Any]:
    """A method and its canonical name; "seqlora-penalty:gamma=0.2" is "seqlora-penalty" with a setting changed.

    Raises:
        BadInputError: no such method, or no such setting.
    """
    kind, options = split_name(name)
    default = methods(family)[kind]
    method = with_options(default, options, f"method {kind}", allowed=default.settings)
    return canonical_name(kind, method, default), method
