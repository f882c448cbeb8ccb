"""What every adapted layer sees of a concept, streamed into second moments: what gradient fusion is fitted to.

As in the published code: the text encoder's layers see two short prompts; keys and values of cross-attention see the
text states of the concept's words and of the end token; all others see one drawing of the concept, 20 steps, no
guidance, every step. Prompts are not padded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from bench.personalise.layerwise import cross_attention_layers
from bench.personalise.studio import Studio
from seqlora.adapters import input_rows
from seqlora.moments import ExactMoment

KINDS = ("encoder", "text", "spatial")  # in the order in which Mix-of-Show fuses them
KEYS_AND_VALUES = re.compile(r"attn2\.to_[kv]$")
DRAWING_STEPS = 20
TEXTS = ("photo of a {}", "{}")


def kind_of(layer: str) -> str:
    """Which of `KINDS` a layer is: part of the text encoder, fed by its states, or fed by the image."""
    if layer.startswith("text_encoder."):
        return "encoder"
    return "text" if KEYS_AND_VALUES.search(layer) else "spatial"


@torch.no_grad()
def activations(studio: Studio, subject: str, layers: Mapping[str, int], seed: int) -> dict[str, ExactMoment]:
    """Sum of x xᵀ over what each layer sees of a concept, with the weights that the studio shows.

    Args:
        studio: knows the concept's words.
        subject: what stands for the concept in a prompt.
        layers: name -> input width n; only the passes that these need are run.
        seed: of the drawing's noise.
    """
    moments = {layer: ExactMoment(n) for layer, n in layers.items()}
    part = {kind: {k: m for k, m in moments.items() if kind_of(k) == kind} for kind in KINDS}
    if part["encoder"] or part["text"]:
        with _watched(studio, part["encoder"]):
            states = text_states(studio, [text.format(subject) for text in TEXTS])
        place = {f"unet.{name}": number for number, name in enumerate(cross_attention_layers(studio.pipeline.unet))}
        for layer, moment in part["text"].items():
            own = place[layer.rpartition(".")[0]]
            moment.update(states[min(own, len(states) - 1)])
    if part["spatial"]:
        with _watched(studio, part["spatial"]):
            _draw(studio, TEXTS[0].format(subject), seed)
    return moments


def text_states(studio: Studio, texts: Sequence[str]) -> Tensor:
    """States of new words and end tokens, (L, rows, d): for each cross-attention layer its own, or one for all."""
    tokenizer, encoder = studio.pipeline.tokenizer, studio.pipeline.text_encoder
    rows = []
    for text in texts:
        ids = tokenizer(text, return_tensors="pt").input_ids.to(encoder.device)
        with studio.speaking([text]):
            states = encoder(ids).last_hidden_state[0].unflatten(0, (-1, ids.shape[1]))
        rows.append(states[:, ids[0] >= tokenizer.eos_token_id])  # added words come after the end token
    return torch.cat(rows, dim=1)


def _draw(studio: Studio, prompt: str, seed: int) -> None:
    with studio.speaking([prompt]):
        studio.pipeline(
            prompt,
            height=studio.size,
            width=studio.size,
            num_inference_steps=DRAWING_STEPS,
            guidance_scale=1.0,
            generator=torch.Generator().manual_seed(seed),
            output_type="latent",
        )


@contextmanager
def _watched(studio: Studio, moments: Mapping[str, ExactMoment]) -> Iterator[None]:
    """While open, each layer's inputs are added to its moment."""
    handles = [
        studio.denoiser.get_submodule(layer).register_forward_pre_hook(_adder(moment))
        for layer, moment in moments.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _adder(moment: ExactMoment) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def hook(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        moment.update(input_rows(layer, inputs[0]))

    return hook
