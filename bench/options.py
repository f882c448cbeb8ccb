"""Options in names: "linear-synthetic:decay=2" and "seqlora-penalty:gamma=0.2" are tasks and methods of their own."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import fields, replace
from typing import Any, TypeVar

from seqlora.errors import BadInputError

Options = TypeVar("Options")


def with_options(defaults: Options, text: str, what: str, allowed: Iterable[str] | None = None) -> Options:
    """A frozen dataclass with the fields named in "name=value,name=value" replaced.

    Args:
        defaults: the dataclass; a new value gets the type of the old one.
        text: what follows the colon of a name; nothing changes if it is empty.
        what: of what these are options, for the error message.
        allowed: fields that may be set; all if not given.

    Raises:
        BadInputError: an unknown field, or a value of the wrong type.
    """
    if not text:
        return defaults
    known = [name for name in _names(defaults) if allowed is None or name in set(allowed)]
    given: dict[str, Any] = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        if name not in known:
            raise BadInputError(f"{what} has no option {name!r}; known: {', '.join(known) or 'none'}")
        given[name] = _parse(value, getattr(defaults, name), f"{what}: {name}={value!r}")
    return replace(defaults, **given)  # type: ignore[type-var]


def split_name(name: str) -> tuple[str, str]:
    """Kind and options of a task's or method's name: "seqlora-penalty:gamma=0.2" gives both sides of the colon."""
    kind, _, options = name.partition(":")
    return kind, options


def labelled(label: str, name: str) -> str:
    """What people read of a name: its label, and in parentheses the options that were changed."""
    _, options = split_name(name)
    return f"{label} ({options})" if options else label


def canonical_name(name: str, options: Options, defaults: Options) -> str:
    """`name` with those options that differ from the defaults, in the order of the fields: one name for one thing."""
    if options == defaults:
        return name
    values = ((field, getattr(options, field), getattr(defaults, field)) for field in _names(options))
    changed = [f"{field}={value}" for field, value, default in values if value != default]
    return f"{name}:{','.join(changed)}"


def _names(options: object) -> list[str]:
    return [field.name for field in fields(options)]  # type: ignore[arg-type]


def _parse(text: str, default: Any, what: str) -> Any:
    """`text` as a value of the default's type."""
    kind = type(default)
    if kind is bool:
        if text not in ("True", "False"):
            raise BadInputError(f"{what} is neither True nor False")
        return text == "True"
    try:
        value = kind(text)
    except ValueError as error:
        raise BadInputError(f"{what} is no {kind.__name__}") from error
    if kind is float and not math.isfinite(value):
        raise BadInputError(f"{what} is not finite")
    return value
