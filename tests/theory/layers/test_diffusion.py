"""What attention layers see while a pipeline draws, against diffusers' own sampling of the same image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from seqlora.errors import BadInputError, StoredFileError
from seqlora.files import sha256_of
from theory.layers import diffusion, load, provenance
from theory.layers.folders import load_pipeline

IN_TEXT = ["<end>", "<start>", *sorted({word for group in diffusion.CONTEXT for word in group})]
IN_TEXT += sorted({*" ".join(diffusion.PEOPLE).split(), *diffusion.PROMPT.replace("{}", "").split()} - {*IN_TEXT})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Stable Diffusion pipeline of a few thousand weights that knows the words of the prompts."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({word: index for index, word in enumerate(IN_TEXT)}, unk_token="<end>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 1), ("<end>", 0)]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<end>", model_max_length=28)
    path = tmp_path_factory.mktemp("pipeline")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=8, in_channels=4, out_channels=4, block_out_channels=(8, 16), layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=12, attention_head_dim=4, norm_num_groups=4,
        )  # fmt: skip
        encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(IN_TEXT), hidden_size=12, intermediate_size=16, num_hidden_layers=1,
                num_attention_heads=2, max_position_embeddings=28, eos_token_id=0, bos_token_id=1, pad_token_id=0,
            )
        )  # fmt: skip
    StableDiffusionPipeline(
        vae=None, unet=unet, text_encoder=encoder, tokenizer=tokenizer, scheduler=DDIMScheduler(clip_sample=False),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(path)  # fmt: skip
    return path


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> Any:
    return load_pipeline(folder)


def reference(pipeline: Any, name: str, prompt: str, noise: torch.Tensor, step: int) -> np.ndarray:
    """Input of one layer at one step, (positions, n), sampled by hand from diffusers' parts."""
    seen: list[torch.Tensor] = []
    handle = pipeline.unet.get_submodule(name).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    ids = pipeline.tokenizer([prompt], padding="max_length", max_length=28, return_tensors="pt").input_ids
    scheduler, latents = pipeline.scheduler, noise
    scheduler.set_timesteps(diffusion.STEPS)
    with torch.no_grad():
        for t in scheduler.timesteps:
            noise_part = pipeline.unet(latents, t, pipeline.text_encoder(ids)[0]).sample
            latents = scheduler.step(noise_part, t, latents).prev_sample
    handle.remove()
    return seen[step][0].double().numpy()


def test_a_window_is_what_the_layer_sees_at_the_image_s_own_noise_level(pipeline: Any) -> None:
    name = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    texts = diffusion.prompts(diffusion.PEOPLE[0], 5, np.random.default_rng(1))
    recorder = diffusion.Recorder(pipeline, (name,), np.random.default_rng(2))
    windows = recorder.record(texts)[name]
    replay = np.random.default_rng(2)
    steps = replay.integers(diffusion.STEPS, size=5)
    noise = torch.from_numpy(replay.standard_normal((5, 4, 8, 8))).float()
    assert len(set(steps)) > 1
    for i, step in enumerate(steps):
        at = recorder.positions[name]
        right = reference(pipeline, name, texts[i], noise[i : i + 1], step)[at].T
        # float32 through a few layers, in batches of another size
        np.testing.assert_allclose(windows[i], right, atol=1e-4 * np.abs(right).max())
        other = reference(pipeline, name, texts[i], noise[i : i + 1], (step + 1) % diffusion.STEPS)[at].T
        assert np.abs(windows[i] - other).max() > 1e-3 * np.abs(right).max()  # control: another noise level


def test_text_layers_are_read_at_the_last_tokens_of_the_prompt(pipeline: Any) -> None:
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    texts = diffusion.prompts(diffusion.PEOPLE[1], 3, np.random.default_rng(0))
    windows = diffusion.Recorder(pipeline, (name,), np.random.default_rng(0)).record(texts)[name]
    ids = pipeline.tokenizer(texts, return_tensors="pt").input_ids  # all prompts have as many words
    with torch.no_grad():
        states = pipeline.text_encoder(ids)[0][:, -diffusion.TEXT_WINDOW :].double().numpy()
    np.testing.assert_allclose(windows, states.transpose(0, 2, 1), atol=1e-5)
    first = pipeline.tokenizer.convert_ids_to_tokens(int(ids[0, -diffusion.TEXT_WINDOW]))
    assert first in diffusion.CONTEXT[0]  # nothing that all prompts of the concept share


def test_layers_of_every_role_with_a_window_an_image(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(diffusion.WINDOWS, "smoke", 4)
    layers, again, other = (load(f"diffusion:{folder}", "smoke", np.random.default_rng(s)) for s in (0, 0, 1))
    assert [layer.name.split("blocks.0.")[-1] for layer in layers] == list(diffusion.ROLES)
    for layer, same, different in zip(layers, again, other, strict=True):
        assert layer.concepts == diffusion.PEOPLE
        assert layer.window == (diffusion.TEXT_WINDOW if layer.name.endswith("attn2.to_k") else diffusion.WINDOW)
        X = layer.activations[diffusion.PEOPLE[0]]
        assert X.shape == (layer.width, 4 * layer.window)
        np.testing.assert_array_equal(X, same.activations[diffusion.PEOPLE[0]])
        assert not np.array_equal(X, different.activations[diffusion.PEOPLE[0]])
    picked = load(f"diffusion:{folder}#.*mid_block.*attn2\\.to_v", "smoke", np.random.default_rng(0))
    assert [layer.name.rsplit(".", 1)[1] for layer in picked] == ["to_v"]


def test_no_context_comes_twice() -> None:
    drawn = diffusion.prompts(diffusion.PEOPLE[0], 500, np.random.default_rng(0))
    assert len(set(drawn)) == 500


def test_provenance_names_the_weights_of_a_pipeline_and_the_texts_of_others(folder: Path) -> None:
    weights = provenance(f"diffusion:{folder}#x")["weights"]
    assert weights["unet/diffusion_pytorch_model.safetensors"] == sha256_of(
        folder / "unet" / "diffusion_pytorch_model.safetensors"
    )
    assert provenance("synthetic") == {"text": {}}
    assert "numpy" in provenance("minilm")["text"]


def test_released_files_are_checked_before_they_are_read(tmp_path: Path) -> None:
    weights = tmp_path / "pipeline" / "unet.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"released")
    manifest = {"files": {"pipeline/unet.safetensors": {"sha256": sha256_of(weights)}, "clip.bin": {"sha256": "0"}}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert diffusion.verified_world(tmp_path) == tmp_path / "pipeline"
    weights.write_bytes(b"something else")
    with pytest.raises(StoredFileError, match="is not the file of the manifest"):
        diffusion.verified_world(tmp_path)


def test_what_is_no_pipeline_says_so(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="holds no diffusers pipeline"):
        load(f"diffusion:{tmp_path}", "smoke", np.random.default_rng(0))
    with pytest.raises(BadInputError, match="no attention layers"):
        diffusion.choose_layers(nn.Sequential(nn.Linear(2, 2)))
