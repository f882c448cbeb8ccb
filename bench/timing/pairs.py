"""Time two functions in turn, so that a drifting machine slows both alike, and report their ratio."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np


def compare(
    benchmark: Any,
    candidate: Callable[[], object],
    reference: Callable[[], object],
    *,
    name: str,
    goal: float,
    smaller_is_better: bool,
    rounds: int = 9,
    repeats: int = 1,
    share: float = 1.0,
) -> float:
    """Benchmark `candidate`, with one run of `reference` before each of its rounds; returns the median ratio.

    Args:
        benchmark: pytest-benchmark's fixture; it times the candidate and carries the ratio in `extra_info`.
        candidate: what is ours.
        reference: what it is measured against.
        name: what the ratio says, for the table.
        goal: the ratio to reach.
        smaller_is_better: True for cost (candidate / reference), False for speed-up (reference / candidate).
        rounds: pairs that count; one more is run first as a warm-up.
        repeats: calls of each within one round, for functions too fast to time alone.
        share: what part of the candidate's work the reference does; its seconds are divided by it.
    """
    reference_seconds: list[float] = []
    candidate_seconds: list[float] = []

    def timed(function: Callable[[], object], seconds: list[float]) -> None:
        start = time.perf_counter()
        for _ in range(repeats):
            function()
        seconds.append((time.perf_counter() - start) / repeats)

    timed(candidate, [])
    benchmark.pedantic(
        timed,
        args=(candidate, candidate_seconds),
        setup=lambda: timed(reference, reference_seconds),
        rounds=rounds,
        iterations=1,
    )
    # Pair by pair, the first pair being the warm-up of the reference.
    ours, theirs = np.array(candidate_seconds[1:]), np.array(reference_seconds[1:]) / share
    ratios = ours / theirs if smaller_is_better else theirs / ours
    ratio = float(np.median(ratios))
    benchmark.extra_info.update(
        name=name,
        ratio=ratio,
        low=float(ratios.min()),
        high=float(ratios.max()),
        goal=goal,
        smaller_is_better=smaller_is_better,
        candidate_seconds=float(np.median(ours)),
        reference_seconds=float(np.median(theirs)),
    )
    return ratio
