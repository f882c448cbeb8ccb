"""Folders, tokens, batches, the loss, and trainings that are shared and resumed."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import chi2

from bench.personalise.batches import ConceptBatches, token_ids
from bench.personalise.denoiser import Batch, Denoiser, diffusion_loss, sampled_loss, scaled_prediction
from bench.personalise.export import TOKEN_FILE, export_concept
from bench.personalise.images import ConceptImages, load_folder
from bench.personalise.learner import LAYERS, TEXT_ENCODER, UNET_ATTENTION, layers_of
from bench.personalise.shared import Training
from bench.personalise.studio import Studio
from bench.personalise.tokens import add_token, replaced
from seqlora import SeqLoRAConfig
from seqlora.errors import BadInputError

PLAIN = SeqLoRAConfig(
    rank=2, target_modules=UNET_ATTENTION, basis="free", orthogonal=False, start="random", inner_steps=0,
    train_on="base", start_batches=2, coefficient_learning_rate=0.05,
)  # fmt: skip


def test_folder_is_read_with_captions_and_the_last_images_held_out(tmp_path: Path) -> None:
    folder = tmp_path / "cat"
    folder.mkdir()
    for number in range(4):
        Image.new("RGB", (30, 20), (number, 0, 0)).save(folder / f"{number}.png")
    (folder / "0.txt").write_text("{} on a table")
    concept = load_folder(folder, 8, "cat", held_out=1)
    assert concept.training.shape == (3, 8, 8, 3)
    assert concept.references[0, 0, 0, 0] == 3
    assert concept.templates[0] == ("{} on a table",)
    assert concept.subject == "<cat> cat"


def test_folders_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="is no folder"):
        load_folder(tmp_path / "nothing", 8, "cat", 1)
    with pytest.raises(BadInputError, match="holds 0 images"):
        load_folder(tmp_path, 8, "cat", 1)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"not an image")
    with pytest.raises(BadInputError, match="does not decode"):
        load_folder(tmp_path, 8, "cat", 1)


def test_caption_without_a_place_for_the_token_is_refused(concepts: tuple[ConceptImages, ...]) -> None:
    with pytest.raises(BadInputError, match=r"lacks \{\}"):
        replace(concepts[0], templates=(("a photo",),) * 3)


def test_new_token_starts_as_its_class_word_and_leaves_the_others(load: Callable[[], Any]) -> None:
    pipe = load()
    before = pipe.text_encoder.get_input_embeddings().weight.clone()
    number = add_token(pipe.tokenizer, pipe.text_encoder, "<ann>", "person")
    after = pipe.text_encoder.get_input_embeddings().weight
    word = pipe.tokenizer("person", add_special_tokens=False).input_ids
    assert torch.equal(after[: len(before)], before)
    assert torch.equal(after[number], before[word].mean(0))
    assert number in token_ids(pipe, ["a photo of <ann> person"])[0]


def test_replaced_row_is_the_only_thing_that_learns(load: Callable[[], Any]) -> None:
    pipe = load()
    pipe.text_encoder.requires_grad_(False)
    number = add_token(pipe.tokenizer, pipe.text_encoder, "<ann>", "person")
    vector = torch.nn.Parameter(torch.ones(32))
    ids = token_ids(pipe, ["<ann> person"])
    with replaced(pipe.text_encoder, {number: vector}):
        inside = pipe.text_encoder(ids).last_hidden_state
        inside.square().sum().backward()
    assert vector.grad is not None
    assert bool(vector.grad.abs().sum() > 0)
    outside = pipe.text_encoder(ids).last_hidden_state
    assert not torch.allclose(inside, outside)


def test_batches_repeat_and_show_every_image_before_any_again(
    load: Callable[[], Any], concepts: tuple[ConceptImages, ...]
) -> None:
    pipe = load()
    add_token(pipe.tokenizer, pipe.text_encoder, "<ann>", "person")
    batches = ConceptBatches(pipe, concepts[0], 4, 3, np.random.SeedSequence(1))
    first, second = list(batches), list(batches)
    assert all(torch.equal(a.noise, b.noise) and torch.equal(a.ids, b.ids) for a, b in zip(first, second, strict=True))
    for batch in first:
        assert len(torch.unique(batch.latents, dim=0)) == 3


def test_loss_is_zero_for_a_perfect_prediction_and_counts_under_the_mask_only(
    load: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Denoiser(load())
    rng = torch.Generator().manual_seed(0)
    x, noise = (torch.randn(2, 4, 4, 4, generator=rng) for _ in range(2))
    t = torch.tensor([100, 900])
    a, s = model.signal[t].view(2, 1, 1, 1), model.deviation[t].view(2, 1, 1, 1)
    error = torch.zeros_like(x)
    error[:, :, 0] = 1.0  # the first row of every image is wrong by one
    monkeypatch.setattr(Denoiser, "forward", lambda self, batch: a * noise - s * x + error)
    mask = torch.zeros(2, 1, 4, 4)
    mask[:, :, 1:] = 1.0
    batch = Batch(x, noise, t, torch.zeros(2, 32, dtype=torch.long))
    weight = ((20 + 1) * s.square()).clamp(max=1.0).mean()
    torch.testing.assert_close(diffusion_loss(model, batch), weight / 4)
    assert float(diffusion_loss(model, replace(batch, mask=mask))) == 0.0


def test_sampled_gradients_average_to_what_a_change_does_to_the_prediction(
    load: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, draws = Denoiser(load()), 400
    rng = torch.Generator().manual_seed(0)
    x, noise, direction = (torch.randn(2, 4, 4, 4, generator=rng) for _ in range(3))
    mask = (torch.rand(2, 1, 4, 4, generator=rng) < 0.7).float()
    batch = Batch(x, noise, torch.tensor([30, 900]), torch.zeros(2, 32, dtype=torch.long), mask)
    a, s = model._levels(batch.t)
    along = torch.zeros((), requires_grad=True)  # at 0 the prediction is perfect
    monkeypatch.setattr(Denoiser, "forward", lambda self, batch: a * noise - s * x + along * direction)
    with torch.no_grad():
        weighted = scaled_prediction(model, batch, a * noise - s * x + direction)
        change = float((weighted - scaled_prediction(model, batch, a * noise - s * x)).square().mean())
        monkeypatch.setattr(Denoiser, "forward", lambda self, batch: a * noise - s * x + direction)
        assert change == pytest.approx(float(diffusion_loss(model, batch)), rel=1e-6)
    monkeypatch.setattr(Denoiser, "forward", lambda self, batch: a * noise - s * x + along * direction)
    torch.manual_seed(0)
    squares = [float(torch.autograd.grad(sampled_loss(model, batch), along)[0]) ** 2 for _ in range(draws)]
    # each is change times the square of a standard normal number
    low, high = chi2.ppf([5e-7, 1 - 5e-7], draws)
    assert low < sum(squares) / change < high
    # the loss itself says, where it is least, that no change matters
    assert float(torch.autograd.grad(diffusion_loss(model, batch), along)[0]) == pytest.approx(0.0, abs=1e-6)


def test_training_is_shared_read_back_equal_and_addressed_by_content(
    training: Training, load: Callable[[], Any]
) -> None:
    first = training.run(PLAIN, load)

    def never() -> Any:
        raise AssertionError("trained twice")

    second = training.run(PLAIN, never)
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one.token, other.token)
        assert all(torch.equal(one.factors[k][1], other.factors[k][1]) for k in one.factors)
        assert any(bool(B.abs().sum() > 0) for _, B in one.factors.values())
    assert training.folder({"a": 1}) != training.folder({"a": 2})
    assert replace(training, base="other").folder({}) != training.folder({})


def test_exported_concept_draws_the_same_image_in_plain_diffusers(
    training: Training, load: Callable[[], Any], tmp_path: Path
) -> None:
    learnt = training.run(PLAIN, load)[0]
    studio = Studio(load(), 16, steps=3, guidance=2.0)
    studio.know("<ann>", "person", learnt.token)
    update = {layer: B @ A for layer, (A, B) in learnt.factors.items()}
    base = studio.draw(["a photo of <ann> person"], np.random.SeedSequence(3), "<ann>")
    studio.show(update)
    ours = studio.draw(["a photo of <ann> person"], np.random.SeedSequence(3), "<ann>")

    folder = export_concept(learnt, tmp_path / "ann")
    plain = load()
    plain.load_textual_inversion(str(folder / TOKEN_FILE), token="<ann>")
    plain.load_lora_weights(str(folder))
    state = int(np.random.SeedSequence(3).generate_state(1, np.uint64)[0])
    theirs = plain(
        ["a photo of <ann> person"], height=16, width=16, num_inference_steps=3, guidance_scale=2.0,
        generator=[torch.Generator().manual_seed(state >> 1)], output_type="np",
    ).images  # fmt: skip
    # 8-bit rounding may fall on either side
    assert np.abs(np.rint(theirs * 255) - ours).max() <= 1
    assert np.abs(base.astype(int) - ours).max() > 1


def test_studio_goes_back_to_the_base_and_refuses_prompts_without_the_token(load: Callable[[], Any]) -> None:
    pipe = load()
    studio = Studio(pipe, 16, steps=2, guidance=1.0)
    layer = next(name for name, m in studio.denoiser.named_modules() if name.endswith("attn1.to_q"))
    W0 = studio.base(layer).clone()
    studio.show({layer: torch.ones_like(W0)})
    assert torch.equal(studio.denoiser.get_submodule(layer).weight.data, W0 + 1)
    studio.show({})
    assert torch.equal(studio.denoiser.get_submodule(layer).weight.data, W0)
    with pytest.raises(BadInputError, match="lacks the concept token"):
        studio.draw(["a photo of a person"], np.random.SeedSequence(0), "<ann>")


def test_images_do_not_depend_on_the_batch(load: Callable[[], Any]) -> None:
    studio = Studio(load(), 16, steps=2, guidance=2.0)
    prompts = ["a photo of a person", "a picture of a person", "a portrait of a person"]
    together = studio.draw(prompts, np.random.SeedSequence(5))
    apart = studio.draw(prompts, np.random.SeedSequence(5), batch=1)
    assert np.abs(together.astype(int) - apart).max() <= 1


def test_text_encoder_can_be_adapted_too_and_is_exported(
    training: Training, load: Callable[[], Any], tmp_path: Path
) -> None:
    learnt = training.run(replace(PLAIN, target_modules=f"{UNET_ATTENTION}|{TEXT_ENCODER}"), load)[0]
    text = [layer for layer in learnt.factors if layer.startswith("text_encoder.")]
    assert len(text) == 8  # q, k, v, out of two layers
    assert any(bool(learnt.factors[layer][1].abs().sum() > 0) for layer in text)
    folder = export_concept(learnt, tmp_path / "ann")
    plain = load()
    before = plain.text_encoder(token_ids(plain, ["a photo of a person"])).last_hidden_state
    plain.load_lora_weights(str(folder))
    after = plain.text_encoder(token_ids(plain, ["a photo of a person"])).last_hidden_state
    studio = Studio(load(), 16, steps=1, guidance=1.0)
    studio.show({layer: B @ A for layer, (A, B) in learnt.factors.items()})
    ours = studio.pipeline.text_encoder(token_ids(plain, ["a photo of a person"])).last_hidden_state
    torch.testing.assert_close(after, ours, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(before, after, atol=1e-4)


RESIDUAL = {f"unet.{block}.conv2" for block in ("down_blocks.0.resnets.0", "up_blocks.1.resnets.0",
                                                "up_blocks.1.resnets.1")}  # fmt: skip


@pytest.mark.parametrize(
    ("widths", "blocks"),
    [
        ((64,), set()),
        ((64, 128), {"down_blocks.0", "up_blocks.1"}),
        ((64, 128, 160), {"down_blocks.0", "down_blocks.1", "up_blocks.1", "up_blocks.2"}),
        # Stable Diffusion 1.x: not the 1280 wide ones, whose convolutions have 11,520 inputs
        ((320, 640, 1280, 1280), {"down_blocks.0", "down_blocks.1", "up_blocks.2", "up_blocks.3"}),
    ],
)
def test_convolutions_of_the_two_finest_levels_are_adapted(widths: tuple[int, ...], blocks: set[str]) -> None:
    pattern = layers_of("convolution", SimpleNamespace(config=SimpleNamespace(block_out_channels=widths)))
    sides = [f"{side}_blocks.{i}" for side in ("down", "up") for i in range(len(widths))]
    assert {block for block in sides if re.fullmatch(pattern, f"unet.{block}.resnets.0.conv2")} == blocks


@pytest.mark.parametrize(("fewer", "more"), list(itertools.pairwise(LAYERS)))
def test_more_layers_can_be_adapted_and_are_exported(
    training: Training, load: Callable[[], Any], tmp_path: Path, fewer: str, more: str
) -> None:
    patterns = [layers_of(name, load().unet) for name in (fewer, more)]
    few, all_ = (training.run(replace(PLAIN, target_modules=pattern), load)[0] for pattern in patterns)
    added = set(all_.factors) - set(few.factors)
    blocks = {layer.partition(".attn1")[0] for layer in few.factors if ".attn1.to_q" in layer}
    feed_forward = {f"{block}.ff.net.{part}" for block in blocks for part in ("0.proj", "2")}
    assert added == {"transformer": feed_forward, "convolution": RESIDUAL}[more]
    assert all(bool(all_.factors[layer][1].abs().sum() > 0) for layer in added)
    plain = load()
    plain.load_lora_weights(str(export_concept(all_, tmp_path / "ann")))
    studio = Studio(load(), 16, steps=1, guidance=1.0)
    studio.show({layer: B @ A for layer, (A, B) in all_.factors.items()})
    latents, states = torch.ones(1, 4, 8, 8), torch.ones(1, 3, plain.unet.config.cross_attention_dim)
    drawn = [pipe.unet(latents, 3, states).sample for pipe in (plain, studio.pipeline)]
    torch.testing.assert_close(*drawn, atol=1e-5, rtol=1e-4)


def test_masks_travel_with_their_images(load: Callable[[], Any], concepts: tuple[ConceptImages, ...]) -> None:
    pipe = load()
    add_token(pipe.tokenizer, pipe.text_encoder, "<ann>", "person")
    levels = np.array([0.0, 0.5, 1.0], np.float32)
    masks = np.broadcast_to(levels[:, None, None], (3, 16, 16)).copy()
    batches = ConceptBatches(pipe, replace(concepts[0], masks=masks), 2, 3, np.random.SeedSequence(1))
    for batch in batches:
        assert batch.mask is not None
        for latents, mask in zip(batch.latents, batch.mask, strict=True):
            image = next(i for i in range(3) if torch.equal(latents, batches.latents[i]))
            assert torch.allclose(mask, torch.full_like(mask, float(levels[image])))
