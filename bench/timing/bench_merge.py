"""Merging T concepts against copying the weights once."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bench.timing.models import sequence_with
from bench.timing.pairs import compare


@pytest.mark.parametrize("concepts", [1, 60])
def test_merge_against_copy(benchmark: Any, concepts: int) -> None:
    sequence = sequence_with(concepts)
    copies = {layer.name: torch.empty_like(layer.weight) for layer in sequence.layers}

    def copy() -> None:
        for layer in sequence.layers:
            copies[layer.name].copy_(sequence.base[layer.name])

    compare(
        benchmark,
        sequence.activate,
        copy,
        name=f"merge of {concepts} concepts / one copy of the weights",
        goal=1.5,
        smaller_is_better=True,
        rounds=15,
        repeats=20,
    )
