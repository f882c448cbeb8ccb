"""A small model and small tasks that several test files use."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from seqlora import ConceptSequence, SeqLoRAConfig

Batch = tuple[Tensor, Tensor]


def squared_loss(model: nn.Module, batch: Batch) -> Tensor:
    return (model(batch[0]) - batch[1]).square().mean()


def make_model(width: int = 12, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 6)).to(dtype)


def make_batches(concept: int, count: int = 10, width: int = 12, dtype: torch.dtype = torch.float32) -> list[Batch]:
    generator = torch.Generator().manual_seed(concept)
    W = torch.randn(width, 6, generator=generator)
    inputs = [torch.randn(16, width, generator=generator) for _ in range(count)]
    return [(X.to(dtype), (X @ W).to(dtype)) for X in inputs]


def make_config(**changes: Any) -> SeqLoRAConfig:
    values = {"rank": 2, "target_modules": ("0", "2"), "start_batches": 2, "coefficient_learning_rate": 1e-2}
    return SeqLoRAConfig(**{**values, **changes})


def learn(sequence: ConceptSequence, name: str, concept: int = 0, count: int = 10) -> list[Any]:
    return list(sequence.learn(name, make_batches(concept, count), squared_loss))


@pytest.fixture
def mlp() -> SimpleNamespace:
    """A two-layer network, its data, a configuration that fits it, and how to learn one concept to the end."""
    return SimpleNamespace(model=make_model, batches=make_batches, config=make_config, loss=squared_loss, learn=learn)
