"""Exported folders give the merged model's output in PEFT and diffusers, and add up as our sum does."""

from __future__ import annotations

import copy
import json
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from peft import PeftModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, GPT2Config, GPT2LMHeadModel

from seqlora import ConceptSequence, SeqLoRAConfig
from seqlora.errors import BadInputError


def mlp_sequence(mlp: SimpleNamespace, folder: Path, **changes: Any) -> ConceptSequence:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 40), nn.Tanh(), nn.Linear(40, 6))
    sequence = ConceptSequence(model, mlp.config(coefficient_learning_rate=0.05, **changes))
    for concept in range(2):
        mlp.learn(sequence, f"c{concept}", concept, 20)
        sequence.export(folder / f"c{concept}", f"c{concept}")
    return sequence


def fresh_mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 40), nn.Tanh(), nn.Linear(40, 6))


def attach(base: nn.Module, folder: Path, name: str = "c0") -> PeftModel:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT: no model card for a bare module; fan_in_fan_out of Conv1D
        return PeftModel.from_pretrained(base, folder, adapter_name=name).eval()


@pytest.mark.parametrize("policy", [{}, {"rank": 4, "capacity": "shrink", "planned_concepts": 6}])
def test_peft_loads_the_folder(mlp: SimpleNamespace, tmp_path: Path, policy: dict[str, Any]) -> None:
    sequence = mlp_sequence(mlp, tmp_path, **policy)
    ranks = {A.shape[0] for A, _ in sequence.concepts["c0"].factors.values()}
    assert len(ranks) == (2 if policy else 1)  # shrink: unequal ranks in one export
    X = torch.randn(20, 12)
    untouched = fresh_mlp()(X)
    for name in ("c0", "c1"):
        sequence.activate([name])
        expected = sequence.model(X)
        loaded = attach(fresh_mlp(), tmp_path / name)
        torch.testing.assert_close(loaded(X), expected, rtol=1e-5, atol=1e-5)
        assert (expected - untouched).abs().max() > 1e-2


def test_concatenated_adapters_are_our_sum_and_added_ones_are_not(mlp: SimpleNamespace, tmp_path: Path) -> None:
    sequence = mlp_sequence(mlp, tmp_path)
    X = torch.randn(20, 12)
    expected = sequence.model(X)
    loaded = attach(fresh_mlp(), tmp_path / "c0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded.load_adapter(str(tmp_path / "c1"), "c1")
    for kind in ("cat", "linear"):
        loaded.add_weighted_adapter(["c0", "c1"], [1.0, 1.0], kind, combination_type=kind)
    loaded.set_adapter("cat")
    torch.testing.assert_close(loaded(X), expected, rtol=1e-5, atol=1e-5)
    loaded.set_adapter("linear")  # (B_1 + B_2)(A_1 + A_2) has cross terms
    assert (loaded(X) - expected).abs().max() > 1e-2


def test_transposed_layers_load_in_peft(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=50, n_positions=16, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)
    base = GPT2LMHeadModel(config).eval()
    sequence = ConceptSequence(
        copy.deepcopy(base), SeqLoRAConfig(rank=2, target_modules=("c_attn",), coefficient_learning_rate=0.05)
    )
    tokens = torch.randint(0, 50, (4, 10))
    list(sequence.learn("c", [tokens] * 15, lambda m, b: m(input_ids=b, labels=b).loss))
    sequence.export(tmp_path, "c")
    expected, untouched = sequence.model(tokens).logits, base(tokens).logits
    loaded = attach(base, tmp_path)
    torch.testing.assert_close(loaded(tokens).logits, expected, rtol=1e-4, atol=1e-5)
    assert (expected - untouched).abs().max() > 1e-3


def small_pipeline() -> StableDiffusionPipeline:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=8,
        norm_num_groups=8,
    )
    text = CLIPTextConfig(
        vocab_size=99,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=8,
        eos_token_id=98,
    )
    return StableDiffusionPipeline(
        vae=AutoencoderKL(block_out_channels=(8,), norm_num_groups=8, latent_channels=4),
        text_encoder=CLIPTextModel(text),
        tokenizer=None,
        unet=unet,
        scheduler=DDIMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def unet_output(unet: nn.Module, latents: Tensor, prompt: Tensor) -> Tensor:
    with torch.no_grad():
        return unet(latents, 10, prompt).sample


@pytest.mark.parametrize(
    "changes",
    [
        {"rank": 2},
        {"rank": 4, "capacity": "shrink", "planned_concepts": 8},
        {"rank": 2, "target_modules": ("to_q", "conv1")},
    ],
    ids=["plain", "shrink", "convolutions"],
)
def test_diffusers_loads_the_folder(tmp_path: Path, changes: dict[str, Any]) -> None:
    latents, prompt = torch.randn(2, 4, 8, 8), torch.randn(2, 5, 16)
    pipeline = small_pipeline()
    sequence = ConceptSequence(
        copy.deepcopy(pipeline.unet), SeqLoRAConfig(coefficient_learning_rate=0.05, start_batches=1, **changes)
    )

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        return (model(latents, 10, prompt).sample - batch).square().mean()

    list(sequence.learn("c", [torch.randn(2, 4, 8, 8)] * 10, loss))
    sequence.export(tmp_path, "c")
    untouched = unet_output(pipeline.unet, latents, prompt)
    expected = unet_output(sequence.model, latents, prompt)
    pipeline.load_lora_weights(str(tmp_path))
    torch.testing.assert_close(unet_output(pipeline.unet, latents, prompt), expected, rtol=1e-4, atol=1e-4)
    assert (expected - untouched).abs().max() > 1e-2


def test_the_folder_is_whole_and_plain(mlp: SimpleNamespace, tmp_path: Path) -> None:
    sequence = mlp_sequence(mlp, tmp_path)
    names = sorted(path.name for path in (tmp_path / "c0").iterdir())
    assert names == ["adapter_config.json", "adapter_model.safetensors", "pytorch_lora_weights.safetensors"]
    config = json.loads((tmp_path / "c0" / "adapter_config.json").read_text())
    assert config["lora_alpha"] == config["r"] == 2
    with pytest.raises(BadInputError, match="unknown concept 'x'; learnt so far: c0, c1"):
        sequence.export(tmp_path / "x", "x")


def test_names_that_end_alike_stay_apart_in_peft(tmp_path: Path) -> None:
    def build() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 6), nn.Sequential(nn.Linear(6, 6)))

    sequence = ConceptSequence(build(), SeqLoRAConfig(rank=1, target_modules="0", start_batches=1))
    X = torch.randn(8, 6)
    list(sequence.learn("c", [X] * 5, lambda m, b: m(b).square().mean()))
    sequence.export(tmp_path, "c")
    loaded = attach(build(), tmp_path)
    assert isinstance(loaded.base_model.model[1][0], nn.Linear)
    torch.testing.assert_close(loaded(X), sequence.model(X), rtol=1e-5, atol=1e-6)
