"""Let functions written for tensors also take and give NumPy arrays."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor


def to_numpy(value: Any) -> Any:
    """Tensors become arrays (sharing memory), containers keep their type; anything else is returned as it is."""
    if isinstance(value, Tensor):
        return value.detach().cpu().numpy()
    if isinstance(value, tuple) and hasattr(value, "_fields"):  # a NamedTuple
        return type(value)(*map(to_numpy, value))
    if isinstance(value, tuple):
        return tuple(map(to_numpy, value))
    return value


def array_friendly(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a tensor function: if any argument is an ndarray, the result comes back as ndarrays."""

    def convert(value: Any) -> Any:
        return torch.from_numpy(np.ascontiguousarray(value)) if isinstance(value, np.ndarray) else value

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        has_array = any(isinstance(value, np.ndarray) for value in (*args, *kwargs.values()))
        result = function(*map(convert, args), **{key: convert(value) for key, value in kwargs.items()})
        return to_numpy(result) if has_array else result

    return wrapper
