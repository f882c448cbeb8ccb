"""Generative replay: what is noted is what the network says, holding it holds, and a restart changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.personalise import generic
from bench.personalise import replay as replaying
from bench.personalise.denoiser import diffusion_loss
from bench.personalise.images import ConceptImages
from bench.personalise.learner import UNET_ATTENTION, Budget, Learner
from bench.personalise.shared import Learnt
from bench.personalise.tokens import ED_LORA, PLAIN_WORD, WordStyle
from seqlora import SeqLoRAConfig

CONFIG = SeqLoRAConfig(
    target_modules=UNET_ATTENTION, rank=2, coefficient_learning_rate=2e-2, extra_learning_rate=1e-3, start_batches=2
)
SEEDS = tuple(np.random.SeedSequence(7, spawn_key=(j,)) for j in range(3))


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generic, "DRAWING_STEPS", 2)
    monkeypatch.setattr(replaying, "DRAWN", 2)
    monkeypatch.setattr(replaying, "LEVELS", 2)


def learner(
    load: Callable[[], Any], replay: float, folder: Path | None = None, style: WordStyle = ED_LORA, steps: int = 10
) -> Learner:
    return Learner(load(), CONFIG, Budget(steps=steps, batch=2), folder, style, replay=replay)


def learn(who: Learner, concepts: tuple[ConceptImages, ...]) -> None:
    for concept, seed in zip(concepts, SEEDS, strict=False):
        for _ in who.learn(concept, seed):
            pass


@pytest.mark.parametrize("style", [PLAIN_WORD, ED_LORA])
@pytest.mark.parametrize("past", [0, 2])
def test_nothing_is_lost_until_the_weights_change(
    load: Callable[[], Any], concepts: tuple[ConceptImages, ...], style: WordStyle, past: int
) -> None:
    who = learner(load, 5.0, style=style, steps=4)
    learn(who, concepts[:past])
    concept = concepts[past]
    batches = who._with_replay(who.batches(concept, SEEDS[past]), concept, SEEDS[past])
    assert len(batches) == 4
    assert len(batches.noted.t) == 2 * 2 * 2  # whatever the number of concepts
    first, second = list(batches), list(batches)
    assert [batch.replayed is None for batch in first] == [True, True, False, False]
    own, same = first[3].replayed, second[3].replayed
    assert own is not None
    assert same is not None
    assert torch.equal(own.noisy, same.noisy)
    with who.speaking_of(concepts[past - 1]) if past else replaying.speaking_of_all(who.pipeline, [], style):
        alone = diffusion_loss(who.denoiser, replace(first[3], replayed=None))
        torch.testing.assert_close(diffusion_loss(who.denoiser, first[3]), alone)
        with torch.no_grad():
            who.sequence.layers[0].weight.mul_(3.0)
        alone = diffusion_loss(who.denoiser, replace(first[3], replayed=None))
        more = (diffusion_loss(who.denoiser, first[3]) - alone).item()
        assert more > 1e-4
        half = replace(first[3], replayed=replace(own, factor=2.5))
        assert (diffusion_loss(who.denoiser, half) - alone).item() == pytest.approx(more / 2, rel=1e-3)


def test_what_is_replayed_changes_less(load: Callable[[], Any], concepts: tuple[ConceptImages, ...]) -> None:
    def change(replay: float) -> float:
        who = learner(load, 0.0)
        learn(who, concepts[:1])
        batches = list(islice(who.batches(concepts[0], SEEDS[0]), 8))

        def predictions() -> torch.Tensor:
            with torch.no_grad(), who.speaking_of(concepts[0]):
                return torch.cat([who.denoiser(batch) for batch in batches])

        before, who.replay = predictions(), replay
        for _ in who.learn(concepts[1], SEEDS[1]):
            pass
        return float((predictions() - before).square().mean())

    assert change(300.0) < 0.7 * change(0.0)


def test_an_interrupted_training_replays_the_same(
    load: Callable[[], Any], concepts: tuple[ConceptImages, ...], tmp_path: Path
) -> None:
    def factors(folder: Path, stop: int) -> Learnt | Any:
        who = learner(load, 5.0, folder)
        who.sequence.checkpoint_every = 2
        learn(who, concepts[:1])
        stream = who.learn(concepts[1], SEEDS[1])
        for _ in islice(stream, stop):
            pass
        stream.close()
        return who.sequence.concepts.get(concepts[1].name)

    whole = factors(tmp_path / "a", 100)
    assert factors(tmp_path / "b", 7) is None
    again = factors(tmp_path / "b", 100)
    for layer, (A, B) in whole.factors.items():
        assert torch.equal(A, again.factors[layer][0])
        assert torch.equal(B, again.factors[layer][1])
