"""Words with an embedding a layer: ordinary words if all layers agree, else each layer hears its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from bench.personalise.batches import token_ids
from bench.personalise.denoiser import Batch, Denoiser, diffusion_loss
from bench.personalise.export import export_concept, load_words
from bench.personalise.layerwise import cross_attention_layers, layerwise
from bench.personalise.learner import TEXT_ENCODER, UNET_ATTENTION
from bench.personalise.shared import Learnt, Training
from bench.personalise.studio import Studio
from bench.personalise.tokens import ED_LORA, WordStyle, add_token, add_words, first_embeddings, replaced, subject_of
from bench.regional import Region
from seqlora import SeqLoRAConfig
from seqlora.errors import BadInputError

PLAIN = SeqLoRAConfig(
    rank=2, target_modules=UNET_ATTENTION, basis="free", orthogonal=False, start="random", inner_steps=0,
    train_on="base", start_batches=2, coefficient_learning_rate=0.05,
)  # fmt: skip
TEXT = "a photo of <ann> person"


def random_batch(pipe: Any, texts: list[str]) -> Batch:
    rng = torch.Generator().manual_seed(0)
    x, noise = (torch.randn(len(texts), 4, 4, 4, generator=rng) for _ in range(2))
    return Batch(x, noise, torch.arange(len(texts)) * 200 + 100, token_ids(pipe, texts))


def test_layers_are_counted_in_the_order_in_which_they_run(load: Callable[[], Any]) -> None:
    pipe = load()
    ran: list[str] = []
    for name in cross_attention_layers(pipe.unet):
        pipe.unet.get_submodule(name).register_forward_hook(lambda *_, name=name: ran.append(name))
    Denoiser(pipe)(random_batch(pipe, ["a person"]))
    assert ran == cross_attention_layers(pipe.unet)
    assert len(ran) == sum(name.endswith("attn2") for name, _ in pipe.unet.named_modules()) == 4


def test_equal_embeddings_in_all_layers_are_an_ordinary_word(load: Callable[[], Any]) -> None:
    pipe = load()
    model = Denoiser(pipe)
    number = add_token(pipe.tokenizer, pipe.text_encoder, "<ann>", "person")
    layers = len(cross_attention_layers(pipe.unet))
    vector = torch.randn(32, generator=torch.Generator().manual_seed(1))
    batch = random_batch(pipe, [TEXT, "<ann> person with pink hair", TEXT])
    with torch.no_grad():
        with replaced(pipe.text_encoder, {number: vector}):
            ordinary = model(batch)
        with layerwise(pipe, (number,), vector.expand(1, layers, -1)):
            same = model(batch)
        with layerwise(pipe, (number,), vector.expand(1, 1, -1)):
            single = model(batch)
        apart = vector.repeat(1, layers, 1)
        apart[0, 1] *= -1
        with layerwise(pipe, (number,), apart):
            different = model(batch)
    torch.testing.assert_close(same, ordinary, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(single, ordinary, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(different, ordinary, atol=1e-4)


def test_each_layer_hears_its_own_embedding_and_nothing_stays_behind(load: Callable[[], Any]) -> None:
    pipe = load()
    number = add_token(pipe.tokenizer, pipe.text_encoder, "<ann>", "person")
    names = cross_attention_layers(pipe.unet)
    vectors = torch.randn(1, len(names), 32, generator=torch.Generator().manual_seed(2))
    batch = random_batch(pipe, [TEXT, "a photo of a person"])
    heard: dict[str, torch.Tensor] = {}
    for name in names:
        layer = pipe.unet.get_submodule(f"{name}.to_k")
        layer.register_forward_pre_hook(lambda _, inputs, name=name: heard.update({name: inputs[0]}))
    before = dict(pipe.unet.attn_processors)
    with torch.no_grad():
        with layerwise(pipe, (number,), vectors):
            Denoiser(pipe)(batch)
        got = dict(heard)
        for part, name in enumerate(names):
            with replaced(pipe.text_encoder, {number: vectors[0, part]}):
                expected = pipe.text_encoder(batch.ids).last_hidden_state
            torch.testing.assert_close(got[name], expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(got[names[0]][0], got[names[1]][0], atol=1e-3)
    torch.testing.assert_close(got[names[0]][1], got[names[1]][1])  # a text without the word is the same in all layers
    assert dict(pipe.unet.attn_processors) == before
    assert pipe.text_encoder(batch.ids).last_hidden_state.shape == (2, 32, 32)


def test_every_layer_of_every_word_learns(load: Callable[[], Any]) -> None:
    pipe = load()
    pipe.unet.requires_grad_(False)
    pipe.text_encoder.requires_grad_(False)
    numbers = add_words(pipe.tokenizer, pipe.text_encoder, "<ann>", "person", ED_LORA)
    start = first_embeddings(pipe.text_encoder, numbers, ED_LORA, 4, np.random.default_rng(0))
    assert start.shape == (2, 4, 32)
    word = pipe.tokenizer("person", add_special_tokens=False).input_ids
    table = pipe.text_encoder.get_input_embeddings().weight
    torch.testing.assert_close(start[1], table[word].mean(0).expand(4, -1))
    assert float(start[0].std() / table.std()) == pytest.approx(1, abs=0.5)
    vectors = torch.nn.Parameter(start)
    model = Denoiser(pipe)
    with layerwise(pipe, numbers, vectors):
        for _ in range(2):  # a second backward pass must not find a freed graph
            diffusion_loss(
                model, random_batch(pipe, [f"a photo of {subject_of('<ann>', 'person', ED_LORA)}"])
            ).backward()
    assert vectors.grad is not None
    assert bool((vectors.grad.abs().sum(-1) > 0).all())


def test_padding_masks_are_refused(load: Callable[[], Any]) -> None:
    pipe = load()
    ids = token_ids(pipe, ["a person"])
    with layerwise(pipe, (5,), torch.zeros(1, 2, 32)), pytest.raises(BadInputError, match="padding mask"):
        pipe.text_encoder(ids, attention_mask=torch.ones_like(ids))


def test_ed_lora_is_trained_stored_and_read_back_and_draws_alike(
    training: Training, load: Callable[[], Any], tmp_path: Any
) -> None:
    first = training.run(PLAIN, load, style=ED_LORA)

    def never() -> Any:
        raise AssertionError("trained twice")

    second = training.run(PLAIN, never, style=ED_LORA)
    assert all(torch.equal(a.token, b.token) for a, b in zip(first, second, strict=True))
    assert first[0].token.shape == (2, 4, 32)
    moved = (first[0].token - first[0].token.mean(1, keepdim=True)).abs().amax((0, 2))
    assert bool((moved > 0).all())  # the layers have parted
    assert training.folder(PLAIN.to_json()) not in set((tmp_path / "trainings").iterdir())

    studio = Studio(load(), 16, steps=2, guidance=2.0)
    subject = studio.know("<ann>", "person", first[0].token)
    assert subject == "<ann> <ann+class>"
    studio.show({layer: B @ A for layer, (A, B) in first[0].factors.items()})
    ours = studio.draw([f"a photo of {subject}"], np.random.SeedSequence(3), "<ann>")

    folder = export_concept(first[0], tmp_path / "ann")
    plain = load()
    numbers, vectors = load_words(plain, folder, "person")
    plain.load_lora_weights(str(folder))
    state = int(np.random.SeedSequence(3).generate_state(1, np.uint64)[0])
    with layerwise(plain, numbers, vectors):
        theirs = plain(
            [f"a photo of {subject}"], height=16, width=16, num_inference_steps=2, guidance_scale=2.0,
            generator=[torch.Generator().manual_seed(state >> 1)], output_type="np",
        ).images  # fmt: skip
    assert np.abs(np.rint(theirs * 255) - ours).max() <= 1  # 8-bit rounding may fall on either side


def test_plain_words_are_drawn_bit_for_bit_alike_after_layerwise_ones_of_the_same_name(load: Callable[[], Any]) -> None:
    vector = torch.ones(32)
    fresh, used = (Studio(load(), 16, steps=2, guidance=2.0) for _ in range(2))
    used.know("<ann>", "person", torch.randn(2, 4, 32, generator=torch.Generator().manual_seed(0)))
    for studio in (fresh, used):
        assert studio.know("<ann>", "person", vector) == "<ann> person"
    a, b = (studio.draw([TEXT], np.random.SeedSequence(1), "<ann>") for studio in (fresh, used))
    assert np.array_equal(a, b)


def test_one_region_with_layerwise_words_is_ordinary_drawing_with_them(load: Callable[[], Any]) -> None:
    studio = Studio(load(), 16, steps=2, guidance=2.0)
    subject = studio.know("<ann>", "person", torch.randn(2, 4, 32, generator=torch.Generator().manual_seed(0)))
    prompt = f"a photo of {subject}"
    ordinary = studio.draw([prompt] * 2, np.random.SeedSequence(1), width=32)
    region = studio.draw(
        ["two people"] * 2, np.random.SeedSequence(1), width=32, regions=[Region((0, 0, 1, 1), prompt)]
    )
    assert ordinary.shape == (2, 16, 32, 3)
    assert np.abs(region.astype(int) - ordinary).max() <= 1


def test_ed_lora_with_the_text_encoder_adapted(training: Training, load: Callable[[], Any]) -> None:
    config = SeqLoRAConfig.from_json({**PLAIN.to_json(), "target_modules": f"{UNET_ATTENTION}|{TEXT_ENCODER}"})
    learnt = training.run(config, load, style=ED_LORA)[0]
    assert isinstance(learnt, Learnt)
    text = [layer for layer in learnt.factors if layer.startswith("text_encoder.")]
    assert any(bool(learnt.factors[layer][1].abs().sum() > 0) for layer in text)


def test_pair_without_layers_and_layers_without_pair_are_learnt_too(
    training: Training, load: Callable[[], Any]
) -> None:
    for style, shape in ((WordStyle(pair=True), (2, 1, 32)), (WordStyle(layerwise=True), (1, 4, 32))):
        assert training.run(PLAIN, load, style=style)[1].token.shape == shape
