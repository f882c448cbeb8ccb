"""Words with an embedding for every cross-attention layer (P+, Voynov et al. 2023; ED-LoRA of Mix-of-Show).

While a concept's words are layer-wise, a text has L embeddings and the text encoder runs on all of them at once:

    states = [T(e_1(text)), ..., T(e_L(text))]  side by side, (b, L·length, d);   layer l attends to the l-th part.

Side by side, because pipelines then pass them on as they pass ordinary states: training, drawing, guidance and regional
prompts need to know nothing of it. Layers are counted in the direction of the data: down, middle, up.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from seqlora.errors import BadInputError


def cross_attention_layers(unet: Any) -> list[str]:
    """Names of the UNet's cross-attention layers, in the direction of the data."""
    found = []
    for part in ("down_blocks", "mid_block", "up_blocks"):
        names = (name for name, _ in unet.get_submodule(part).named_modules())
        found += [f"{part}.{name}" for name in names if name.endswith("attn2")]
    return found


class LayerwiseAttention:
    """A diffusers attention processor that takes its own part of the states.

    Args:
        inner: the processor that is replaced; it computes the attention.
        part: which of them is this layer's.
        parts: how many lie side by side.
    """

    def __init__(self, inner: Any, part: int, parts: int) -> None:
        self.inner, self.part, self.parts = inner, part, parts

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, *args: Any, **kwargs: Any
    ) -> Tensor:
        """See diffusers' attention processors."""
        own = encoder_hidden_states.chunk(self.parts, dim=1)[self.part]
        output: Tensor = self.inner(attn, hidden_states, own, *args, **kwargs)
        return output


@contextmanager
def layerwise(pipeline: Any, numbers: tuple[int, ...], vectors: Tensor) -> Iterator[None]:
    """While open, these tokens have an embedding a layer, and the pipeline's parts speak of L states side by side.

    A text is encoded once for all its copies in a batch. Memory and time of the text encoder grow by L, those of the
    UNet do not.

    Args:
        pipeline: a Stable Diffusion pipeline that knows the tokens.
        numbers: ids of the words.
        vectors: (words, L, d), may require gradients; L = 1 gives all layers the same.
    """
    unet, encoder, layers = pipeline.unet, pipeline.text_encoder, vectors.shape[1]
    texts = _Texts(numbers, vectors)
    before = dict(unet.attn_processors)
    if layers > 1:
        place = {f"{name}.processor": part for part, name in enumerate(cross_attention_layers(unet))}
        unet.set_attn_processor(
            {
                name: LayerwiseAttention(inner, place[name], layers) if name in place else inner
                for name, inner in before.items()
            }
        )
    handles = [
        encoder.register_forward_pre_hook(texts.spread, with_kwargs=True),
        encoder.get_input_embeddings().register_forward_hook(texts.embed),
        encoder.register_forward_hook(texts.gather),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        unet.set_attn_processor(before)


class _Texts:
    """The hooks of `layerwise` on the text encoder: L rows for each distinct text on the way in, one on the way out."""

    def __init__(self, numbers: tuple[int, ...], vectors: Tensor) -> None:
        self.numbers, self.vectors, self.layers = numbers, vectors, vectors.shape[1]
        self.copies = torch.empty(0, dtype=torch.long)

    def spread(self, encoder: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Rows (text 1, layer 1), (text 1, layer 2), ..."""
        ids = args[0] if args else kwargs["input_ids"]
        if kwargs.get("attention_mask") is not None:
            raise BadInputError("layer-wise words need a text encoder that takes no padding mask, as in SD 1.x")
        # pipelines pad a negative prompt to as many tokens as the prompt has states
        ids = ids[:, : encoder.config.max_position_embeddings]
        distinct, self.copies = torch.unique(ids, dim=0, return_inverse=True)
        return (), {**kwargs, "input_ids": distinct.repeat_interleave(self.layers, 0)}

    def embed(self, _: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Each row's words as its layer has them."""
        ids = arguments[0]
        for number, vectors in zip(self.numbers, self.vectors, strict=True):
            own = vectors.to(output).repeat(len(ids) // self.layers, 1)
            output = torch.where((ids == number)[..., None], own[:, None], output)
        return output

    def gather(self, _: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """Back to one row a text, its states side by side."""
        states = output.last_hidden_state
        output.last_hidden_state = states.unflatten(0, (-1, self.layers)).flatten(1, 2)[self.copies]
        output.pooler_output = output.pooler_output[:: self.layers][self.copies]
        return output
