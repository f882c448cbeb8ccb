"""A SeqLoRA step against PEFT LoRA with AdamW, and concept 60 against concept 1."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model

from bench.timing.models import RANK, TARGETS, batch, loss, sequence_with, unet
from bench.timing.pairs import compare


def seqlora_step(past: int, **options: object) -> Callable[[], object]:
    sequence = sequence_with(past, start="random", **options)
    data = batch()
    steps = sequence.learn("timed", iter(lambda: data, None), loss)
    return lambda: next(steps)


def peft_step() -> Callable[[], object]:
    model = unet()
    inject_adapter_in_model(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=TARGETS), model)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    data = batch()

    def step() -> None:
        optimizer.zero_grad()
        loss(model, data).backward()
        optimizer.step()

    return step


@pytest.mark.parametrize("inner_steps", [4, 0])
def test_step_against_peft(benchmark: Any, inner_steps: int) -> None:
    cycle = max(inner_steps + 1, 1)  # a round holds a whole cycle: K lower steps and the upper one
    compare(
        benchmark,
        seqlora_step(0, inner_steps=inner_steps),
        peft_step(),
        name=f"step of SeqLoRA (K = {inner_steps}) / PEFT LoRA + AdamW",
        goal=1.05,
        smaller_is_better=True,
        repeats=cycle,
    )


def test_concept_60_against_concept_1(benchmark: Any) -> None:
    compare(
        benchmark,
        seqlora_step(59),
        seqlora_step(0),
        name="step in concept 60 / step in concept 1",
        goal=1.05,
        smaller_is_better=True,
        repeats=5,
    )


def test_penalised_step_against_peft(benchmark: Any) -> None:
    def penalised() -> Callable[[], object]:
        sequence = sequence_with(1, start="random", forgetting_weight=1.0)
        data = batch()
        sequence.remember([data], loss)
        steps = sequence.learn("timed", iter(lambda: data, None), loss)
        return lambda: next(steps)

    compare(
        benchmark,
        penalised(),
        peft_step(),
        name="step of SeqLoRA with forgetting penalty / PEFT LoRA + AdamW",
        goal=1.05,
        smaller_is_better=True,
        repeats=5,
    )
