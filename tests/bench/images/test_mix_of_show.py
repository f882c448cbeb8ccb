"""Mix-of-Show end to end on the tiny pipeline: order of fusion, both solvers, one concept fused to itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.methods.images import METHODS
from bench.methods.images.activations import activations, kind_of, text_states
from bench.methods.images.api import weighted_sum
from bench.methods.images.fusion import LayerSums, solve_by_lbfgs, solve_exactly
from bench.methods.images.mix_of_show import MixOfShow
from bench.personalise.layerwise import cross_attention_layers
from bench.personalise.shared import Training
from bench.personalise.studio import Studio
from bench.tasks.images import ImageWorkshop, Judges

from .conftest import products


@pytest.fixture
def workshop(training: Training, load: Callable[[], Any]) -> ImageWorkshop:
    noise = tuple(np.random.SeedSequence(9, spawn_key=(j,)) for j in range(4))
    return ImageWorkshop(training, load, Studio(load(), 16, 2, 2.0), Judges(), ("{}",), noise, rank=2, seed=3)


@dataclass(frozen=True)
class Spy(MixOfShow):
    """Solves exactly and keeps the sums."""

    def solve(self, layer: str, sums: LayerSums) -> Tensor:
        seen.append((layer, sums))
        return solve_exactly(sums)


seen: list[tuple[str, LayerSums]] = []


def test_fusion_goes_from_text_to_image_and_exact_is_never_worse_than_the_published_descent(
    workshop: ImageWorkshop,
) -> None:
    seen.clear()
    method = Spy(text_encoder=True)
    learnt = method.train(workshop)
    single = method.fuse(learnt[:1], workshop)
    kinds = [kind_of(layer) for layer, _ in seen]
    assert list(dict.fromkeys(kinds)) == ["encoder", "text", "spatial"]
    assert len(kinds) == len(single) == len(learnt[0].factors)
    own = weighted_sum(learnt[:1], [1.0])
    for layer, sums in seen:  # one concept is its own minimiser
        assert float(sums.objective(single[layer].double())) <= 1e-6 * sums.energy / (sums.rows * len(sums.N)) + 1e-18
        assert sums.G.shape == (own[layer].shape[1],) * 2
    seen.clear()
    method.fuse(learnt, workshop)
    for _, sums in seen[:: len(seen) // 8]:
        exact = float(sums.objective(solve_exactly(sums)))
        descent = float(sums.objective(solve_by_lbfgs(sums, 10)))
        assert exact <= descent + 1e-9 * sums.energy / (sums.rows * len(sums.N))


def test_keys_and_values_are_fitted_to_words_and_end_token_of_their_own_layer(workshop: ImageWorkshop) -> None:
    learnt = METHODS["mix-of-show"].train(workshop)[0]
    studio = workshop.studio
    subject = workshop.know(learnt)
    states = text_states(studio, [f"photo of a {subject}", subject])
    assert states.shape == (4, 6, 32)  # four layers; two words and an end token in each of two prompts
    names = cross_attention_layers(studio.pipeline.unet)
    layer = f"unet.{names[2]}.to_v"
    moment = activations(studio, subject, {layer: 32}, 0)[layer]
    torch.testing.assert_close(moment.total, (states[2].double().mT @ states[2].double()))
    assert not torch.allclose(states[1], states[2], atol=1e-4)


def test_convolutions_are_fitted_to_the_patches_that_they_multiply(workshop: ImageWorkshop) -> None:
    layer = "unet.up_blocks.1.resnets.0.conv2"
    convolution: Any = workshop.studio.denoiser.get_submodule(layer)
    with products(convolution) as outputs:
        moment = activations(workshop.studio, "a person", {layer: 288}, 0)[layer]
    W = convolution.weight.flatten(1).double()
    rows = torch.cat(outputs).mT.flatten(0, 1)
    # what W gives on the patches is what the module put out, up to float32 sums of 288 terms
    torch.testing.assert_close(
        W @ moment.total @ W.mT, rows.mT @ rows, rtol=1e-4, atol=1e-4 * float(rows.square().sum())
    )


def test_stages_of_both_solvers_and_the_average(workshop: ImageWorkshop) -> None:
    exact, average = METHODS["mix-of-show-exact"], METHODS["ed-lora-average"]
    learnt = exact.train(workshop)
    stages = list(exact.stages(learnt, workshop))
    assert len(stages) == 3
    assert set(stages[0]) == set(stages[2]) == set(learnt[0].factors)
    assert all(bool(torch.isfinite(update).all()) for update in stages[2].values())
    own = [weighted_sum([concept], [1.0]) for concept in learnt]
    for layer, update in average.merge(learnt, workshop).items():
        torch.testing.assert_close(update, sum(single[layer] for single in own) / 3)


def test_methods_print_their_settings(workshop: ImageWorkshop) -> None:
    assert dict(METHODS["orthogonal-adaptation"].settings) == {"weight": 0.6, "rank": 20}
    assert set(METHODS["mix-of-show"].settings) == {"text_encoder"}
    assert set(METHODS["mix-of-show-exact"].settings) == {"text_encoder", "ridge"}
    learnt = METHODS["orthogonal-adaptation"].train(workshop)
    assert learnt[0].token.shape == (2, 4, 32)
    assert all(A.shape[0] == 20 for A, _ in learnt[0].factors.values())
    merged = METHODS["orthogonal-adaptation"].merge(learnt, workshop)
    layer = next(iter(merged))
    torch.testing.assert_close(merged[layer], 0.6 * weighted_sum(learnt, [1.0] * 3)[layer])
