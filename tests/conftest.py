"""Guards for every test: one thread, global random state and default dtype restored, the same examples in every run."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

settings.register_profile(
    "deterministic",
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("deterministic")


@pytest.fixture(autouse=True)
def _global_state() -> Iterator[None]:
    """No test depends on, or leaves behind, torch's or NumPy's global generator, threads or default dtype."""
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    state = np.random.get_state()  # noqa: NPY002 (what a careless library may have moved)
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
    torch.set_num_threads(threads)
    torch.set_default_dtype(dtype)
    np.random.set_state(state)  # noqa: NPY002
