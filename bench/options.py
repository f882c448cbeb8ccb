"""Options in names: "linear-synthetic:decay=2" and "seqlora-penalty:gamma=0.2" are tasks and methods of their own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, replace
from typing import Any, TypeVar

from seqlora.errors import BadInputError

Options = TypeVar("Options")


def with_options(defaults: Options, text: str, what: str, allowed: Iterable[str] | None = None) -> Options:
    """A frozen dataclass with the fields named in "name=value,name=value" replaced.

    Args:
        defaults: the dataclass; a new value gets the type of the old one.
        text: what follows the colon of a name, may be empty.
        what: of what these are options, for the error message.
        allowed: fields that may be set; all if not given.

    Raises:
        BadInputError: an unknown field, or a value of the wrong type.
    """
    known = sorted({field.name for field in fields(defaults)} & set(allowed)) if allowed is not None else [
        field.name for field in fields(defaults)  # type: ignore[arg-type]
    ]  # fmt: skip
    given: dict[str, Any] = {}
    for part in filter(None, text.split(",")):
        name, _, value = part.partition("=")
        if name not in known:
            raise BadInputError(f"{what} has no option {name!r}; known: {', '.join(known) or 'none'}")
        kind = type(getattr(defaults, name))
        try:
            given[name] = kind(value)
        except ValueError as error:
            raise BadInputError(f"{what}: {name}={value!r} is no {kind.__name__}") from error
    return replace(defaults, **given)  # type: ignore[type-var]


def canonical_name(name: str, options: Options, defaults: Options) -> str:
    """`name` with those options that differ from the defaults, in the order of the fields: one name for one thing."""
    values = ((field.name, getattr(options, field.name), getattr(defaults, field.name)) for field in fields(options))  # type: ignore[arg-type]
    changed = [f"{name}={value}" for name, value, default in values if value != default]
    return f"{name}:{','.join(changed)}" if changed else name
