"""Any module: a network of linear layers, convolutions, GPT-2's Conv1D, MiniLM, a diffusion UNet; any float type."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from transformers import AutoModel, GPT2Config, GPT2LMHeadModel

from seqlora import ConceptSequence, SeqLoRAConfig
from seqlora.errors import BadInputError
from theory.layers import minilm


def small_unet() -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=8,
        norm_num_groups=8,
    )


def unet_case() -> SimpleNamespace:
    def batches(concept: int) -> list[Any]:
        rng = torch.Generator().manual_seed(concept)
        shapes = ((2, 4, 8, 8), (2, 5, 16), (2, 4, 8, 8))
        batch = tuple(torch.randn(shape, generator=rng) for shape in shapes)
        return [batch] * 15

    def loss(model: nn.Module, batch: Any) -> Tensor:
        latents, prompt, noise = batch
        return (model(latents, torch.tensor([10, 500]), prompt).sample - noise).square().mean()

    return SimpleNamespace(model=small_unet(), targets=("to_q", "to_k", "to_v", "to_out.0"), batches=batches, loss=loss)


def minilm_case() -> SimpleNamespace:
    def batches(concept: int) -> list[Any]:
        rng = torch.Generator().manual_seed(concept)
        tokens = torch.randint(1000, 20000, (4, 12), generator=rng)
        return [(tokens, torch.randn(4, 384, generator=rng))] * 15

    def loss(model: nn.Module, batch: Any) -> Tensor:
        return (model(input_ids=batch[0]).last_hidden_state.mean(1) - batch[1]).square().mean()

    model = AutoModel.from_pretrained(minilm.folder(), dtype=torch.float32)
    return SimpleNamespace(
        model=model.eval(), targets=r"encoder\.layer\.[05]\.attention\.self\.query", batches=batches, loss=loss
    )


def gpt2_case() -> SimpleNamespace:
    """Its layers are `Conv1D`: the weight is stored as (n, m)."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=50, n_positions=16, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)

    def batches(concept: int) -> list[Any]:
        return [torch.randint(0, 50, (4, 10), generator=torch.Generator().manual_seed(concept))] * 15

    def loss(model: nn.Module, batch: Any) -> Tensor:
        return model(input_ids=batch, labels=batch).loss

    model = GPT2LMHeadModel(config).eval()
    return SimpleNamespace(model=model, targets=("c_attn", "mlp.c_fc"), batches=batches, loss=loss)


def convolution_case() -> SimpleNamespace:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, (3, 1), padding="same", dilation=2),
        nn.ReLU(),
        nn.Conv2d(8, 4, 1),
        nn.Flatten(),
        nn.Linear(64, 5),
    )

    def batches(concept: int) -> list[Any]:
        rng = torch.Generator().manual_seed(concept)
        return [(torch.randn(4, 3, 8, 8, generator=rng), torch.randn(4, 5, generator=rng))] * 15

    def loss(model: nn.Module, batch: Any) -> Tensor:
        return (model(batch[0]) - batch[1]).square().mean()

    return SimpleNamespace(model=model, targets=("0", "2", "4", "6"), batches=batches, loss=loss)


CASES = {"unet": unet_case, "minilm": minilm_case, "gpt2": gpt2_case, "convolutions": convolution_case}


@pytest.mark.parametrize("name", CASES)
def test_a_few_steps_reduce_the_loss_and_bases_are_orthogonal(name: str) -> None:
    case = CASES[name]()
    config = SeqLoRAConfig(
        rank=1,
        target_modules=case.targets,
        coefficient_learning_rate=1e-2,
        start_batches=1,
        inner_steps=1,
        forgetting_weight=0.01,
        planned_concepts=2,
    )
    sequence = ConceptSequence(case.model, config)
    for concept in (0, 1):
        steps = list(sequence.learn(f"c{concept}", case.batches(concept), case.loss))
        assert steps[-1].loss < 0.99 * steps[0].loss
    for layer in sequence.layers:
        (A_1, B_1), (A_2, B_2) = (c.factors[layer.name] for c in sequence.concepts.values())
        assert float((A_1 @ A_2.mT).abs().max()) <= 1e-6
        assert B_1.abs().max() > 0
        assert B_2.abs().max() > 0
    with torch.no_grad():  # the merged weights compute what the adapters did
        merged = float(case.loss(case.model, case.batches(1)[0]))
    assert merged < steps[-1].loss * 1.02


@pytest.mark.parametrize("name", ["gpt2", "convolutions"])
def test_rows_that_are_recorded_are_what_the_weight_multiplies(name: str) -> None:
    """y = W x for every recorded row, bias aside: the layout of patches and of transposed weights is right."""
    from seqlora.adapters import recording

    case = CASES[name]()
    sequence = ConceptSequence(case.model, SeqLoRAConfig(rank=1, target_modules=case.targets))
    rows: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}
    for layer in sequence.layers:
        layer.module.register_forward_hook(lambda m, i, out, layer=layer: outputs.update({layer.name: out.detach()}))
    with recording(sequence.layers, lambda layer, value: rows.update({layer.name: value})):
        case.loss(case.model, case.batches(0)[0])
    for layer in sequence.layers:
        bias = layer.module.get_base_layer().bias
        expected = layer.output_rows(outputs[layer.name]) - bias
        torch.testing.assert_close(rows[layer.name] @ layer.weight.mT, expected.detach(), rtol=1e-4, atol=1e-5)
    handles = [module for module in case.model.modules() if module._forward_hooks]
    assert len(handles) == len(sequence.layers)  # ours above; those of `recording` are gone


@pytest.mark.parametrize("name", CASES)
def test_gathered_weight_gradients_equal_autograd(name: str) -> None:
    from seqlora.start import gather_gradients

    case = CASES[name]()
    batch = case.batches(0)[0]
    sequence = ConceptSequence(case.model, SeqLoRAConfig(rank=1, target_modules=case.targets))
    _, gradients = gather_gradients(case.model, sequence.layers, [batch], case.loss)
    for layer in sequence.layers:
        layer.module.get_base_layer().weight.requires_grad_(True)
    case.loss(case.model, batch).backward()
    for layer in sequence.layers:
        gradient = layer.module.get_base_layer().weight.grad
        assert gradient is not None
        expected = gradient.mT if name == "gpt2" else gradient.flatten(1)
        scale = float(expected.abs().max())
        np.testing.assert_allclose(gradients[layer.name], expected.double(), atol=1e-4 * scale)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_any_float_type(mlp: SimpleNamespace, dtype: torch.dtype) -> None:
    """Factors of half-precision layers are float32, so that their bases are as orthogonal as any."""
    config = mlp.config(max_update_norm=5.0, forgetting_weight=0.1, inner_steps=1)
    sequence = ConceptSequence(mlp.model(dtype=dtype), config)

    def loss(model: nn.Module, batch: Any) -> Tensor:
        return (model(batch[0]) - batch[1]).float().square().mean()

    for concept in (0, 1):
        steps = list(sequence.learn(f"c{concept}", mlp.batches(concept, 1, dtype=dtype) * 30, loss))
        assert steps[-1].loss < steps[0].loss
    (A_1, B_1), (A_2, B_2) = (c.factors["0"] for c in sequence.concepts.values())
    assert A_1.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert float((A_1 @ A_2.mT).abs().max()) <= (1e-14 if dtype == torch.float64 else 1e-6)
    weight = sequence.layers[0].weight
    assert weight.dtype == dtype
    # rounded once, when the sum is added: not once a concept
    expected = (sequence.base["0"].to(A_1) + (B_1 @ A_1 + B_2 @ A_2)).to(dtype)
    torch.testing.assert_close(weight, expected, rtol=2 * torch.finfo(dtype).eps, atol=2 * torch.finfo(dtype).eps)


def test_layers_that_cannot_be_adapted_are_named() -> None:
    grouped = nn.Sequential(nn.Conv2d(4, 4, 3, groups=2))
    with pytest.raises(BadInputError, match=r"selects 0 \(Conv2d\)"):
        ConceptSequence(grouped, SeqLoRAConfig(rank=1, target_modules=("0",)))
    strided = nn.Sequential(nn.Conv2d(4, 4, 3)).to(memory_format=torch.channels_last)
    with pytest.raises(BadInputError, match="channels_last"):
        ConceptSequence(strided, SeqLoRAConfig(rank=1, target_modules=("0",)))
