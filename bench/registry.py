"""Names to things: unique, imported only when asked for, and helpful about typing errors."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Generic, TypeVar, cast

from seqlora.errors import BadInputError

Thing = TypeVar("Thing")


class Registry(Generic[Thing]):
    """Things of one kind under unique names, in the order in which they were added.

    Args:
        kind: what the things are, for error messages ("task", "linear method").
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, Thing | str] = {}  # a string is a target "module:attribute", not imported yet

    def add(self, name: str, thing: Thing) -> Thing:
        """Register `thing` and return it, so that a module-level constant is importable and registered.

        Raises:
            BadInputError: the name is taken.
        """
        self._claim(name)
        self._entries[name] = thing
        return thing

    def lazy(self, name: str, target: str) -> None:
        """Register what the import of "module:attribute" will give.

        Raises:
            BadInputError: the name is taken.
        """
        self._claim(name)
        self._entries[name] = target

    def __getitem__(self, name: str) -> Thing:
        """The thing called `name`, imported now if it was lazy.

        Raises:
            BadInputError: no such name; the message says which names are near.
        """
        if name not in self._entries:
            raise BadInputError(self._unknown(name))
        entry = self._entries[name]
        if isinstance(entry, str):
            entry = cast(Thing, load(entry))
            self._entries[name] = entry
        return entry

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def _claim(self, name: str) -> None:
        if name in self._entries:
            raise BadInputError(f"{self.kind} {name!r} is registered twice; names are unique")

    def _unknown(self, name: str) -> str:
        near = get_close_matches(name, self._entries, n=3, cutoff=0.6)
        hint = f"did you mean {' or '.join(repr(other) for other in near)}?" if near else f"known: {', '.join(self)}"
        return f"unknown {self.kind} {name!r}; {hint}"


def load(target: str) -> object:
    """Import "module:attribute".

    Raises:
        BadInputError: the module or the attribute does not exist.
    """
    module, _, attribute = target.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise BadInputError(f"cannot load {target} ({error}); install the extra 'bench'") from error
