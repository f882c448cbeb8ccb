"""Walking through data frames whose columns are known to us and not to a type checker."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd


def each(frame: pd.DataFrame) -> Iterator[Any]:
    """The rows as named tuples."""
    return iter(frame.itertuples())


def groups(frame: pd.DataFrame, by: str | Sequence[str]) -> Iterator[tuple[Any, pd.DataFrame]]:
    """Keys and sub-frames, in order of appearance; a missing key is a key."""
    return iter(frame.groupby(by if isinstance(by, str) else list(by), sort=False, dropna=False))


def distinct(frame: pd.DataFrame, columns: Sequence[str]) -> list[Any]:
    """Different values of some columns together, in order of appearance, as tuples."""
    return list(dict.fromkeys(zip(*(frame[name] for name in columns), strict=True)))
