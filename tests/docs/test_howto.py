"""The examples of the how-to pages are complete: each runs as it stands, and leaves no trace in the registries."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from bench.methods.linear import METHODS
from bench.metrics import METRICS
from bench.tasks import TASKS, load_task
from theory.api import CLAIMS


@pytest.fixture(autouse=True)
def _registries(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a page registers is gone after its test."""
    for registry in (METHODS, METRICS, TASKS):
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    claims = dict(CLAIMS)
    yield
    CLAIMS.clear()
    CLAIMS.update(claims)
    load_task.cache_clear()


@pytest.mark.parametrize("page", ["claim", "method", "metric", "task", "figure"])
def test_the_example_runs_and_prints_what_the_page_shows(page: str, run_page: Callable[..., int]) -> None:
    assert run_page(f"howto/{page}.md") >= 1


@pytest.mark.parametrize("page", ["problem", "c4"])
def test_a_theory_page_runs(page: str, run_page: Callable[..., int]) -> None:
    assert run_page(f"theory/{page}.md") >= 1
