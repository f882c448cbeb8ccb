"""Real activations: what the Linear layers of any local transformers or diffusers folder see on real text.

One forward pre-hook a layer keeps the inputs of the content tokens. One passage gives one window of 16 columns, no
passage is read twice, so columns within a window depend on each other and windows do not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from seqlora.errors import BadInputError
from theory.layers import text
from theory.layers.base import Array, Layer
from theory.layers.folders import TextModel, open_folder

WINDOW = 16  # tokens, or pixels, of one passage
WINDOWS = {"smoke": 48, "ci": 192, "full": 512}  # passages a concept; scipy.signal's text has about 500
LAYERS = 5  # read when no pattern is given


def record(
    folder: str | Path,
    suite: str,
    rng: np.random.Generator,
    pattern: str | None = None,
    texts: Mapping[str, Sequence[str]] | None = None,
) -> list[Layer]:
    """Record the inputs of chosen Linear layers on each concept's text.

    Args:
        folder: a local folder with a transformers model and tokenizer, or a diffusers pipeline.
        suite: how many windows a concept: a key of `WINDOWS`.
        rng: draws the passages, the pixels of spatial layers and the noise of a diffusion model.
        pattern: regular expression for whole module names, as in PEFT's `target_modules`; five layers spread over
            the depth of the model if not given.
        texts: concept -> passages; the topics of `text.TOPICS` if not given.

    Raises:
        BadInputError: no model in the folder, no Linear layer of that name, or a concept without a whole window.
    """
    model = open_folder(folder, rng)
    names = choose_layers(model.module, pattern)
    if texts is None:
        # a third more than needed: some passages are shorter than a window
        texts = {topic: text.passages(topic, WINDOWS[suite] * 4 // 3, rng) for topic in text.TOPICS}
    recorded = {
        concept: _record_concept(model, names, concept, passages, WINDOWS[suite], rng)
        for concept, passages in texts.items()
    }
    layers = [_layer(model.module, name, recorded) for name in names if all(name in seen for seen in recorded.values())]
    if not layers:
        raise BadInputError(f"none of the layers {', '.join(names[:3])} takes part in a forward pass; choose others")
    return layers


def choose_layers(module: nn.Module, pattern: str | None) -> list[str]:
    """Names of the Linear layers that match the pattern whole, or `LAYERS` of them spread over the depth.

    Raises:
        BadInputError: the pattern is no regular expression or matches no Linear layer.
    """
    linear = [name for name, child in module.named_modules() if isinstance(child, nn.Linear)]
    if pattern is None:
        # the numbered blocks of a transformer, without the one-vector-an-image time embeddings of a UNet
        blocks = [name for name in linear if re.search(r"\.\d+\.", name) and "time_emb" not in name] or linear
        if not blocks:
            raise BadInputError("the model has no Linear layer to read")
        picks = np.linspace(0, len(blocks) - 1, min(LAYERS, len(blocks))).round().astype(int)
        return [blocks[index] for index in picks]
    try:
        matching = [name for name in linear if re.fullmatch(pattern, name)]
    except re.error as error:
        raise BadInputError(f"the layer pattern {pattern!r} is no regular expression: {error}") from error
    if not matching:
        examples = ", ".join(linear[:3]) or "none"
        raise BadInputError(f"the layer pattern {pattern!r} matches no Linear layer; the model has e.g. {examples}")
    return matching


def _record_concept(
    model: TextModel, names: list[str], concept: str, texts: Sequence[str], windows: int, rng: np.random.Generator
) -> dict[str, Array]:
    """Layer name -> inputs on one concept's text, shape (windows, columns, n)."""
    tokens = model.tokenize(texts, WINDOW)
    if not len(tokens.ids):
        raise BadInputError(f"concept {concept!r} has no passage of {WINDOW} tokens; give it longer texts")
    kept: dict[str, list[Array]] = {}
    for ids in tokens.ids[:windows].split(model.batch):
        with torch.inference_mode(), watched(model.module, names) as inputs:
            model.forward(ids)
        for name, seen in inputs.items():
            kept.setdefault(name, []).append(_columns(seen, tokens.content, ids, rng))
    return {name: np.concatenate(parts) for name, parts in kept.items()}


@contextmanager
def watched(module: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """While open, collect the input of each named layer's latest call."""
    inputs: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, Any], None]:
        def hook(_: nn.Module, arguments: Any) -> None:
            inputs[name] = arguments[0].detach()

        return hook

    handles = [module.get_submodule(name).register_forward_pre_hook(keep(name)) for name in names]
    try:
        yield inputs
    finally:
        for handle in handles:
            handle.remove()


def _columns(seen: Tensor, content: NDArray[np.bool_], ids: Tensor, rng: np.random.Generator) -> Array:
    """The columns of one batch that are kept, shape (batch, columns, n): content tokens, or random pixels."""
    states = seen.reshape(len(ids), -1, seen.shape[-1]).double().cpu().numpy()
    if states.shape[1] == len(content):
        return states[:, content]
    picks = rng.choice(states.shape[1], min(WINDOW, states.shape[1]), replace=False)
    return states[:, np.sort(picks)]


def _layer(module: nn.Module, name: str, recorded: Mapping[str, Mapping[str, Array]]) -> Layer:
    """Put a layer's windows side by side as columns: X is n x (windows * columns)."""
    weight = module.get_submodule(name).get_parameter("weight").double().numpy()
    seen = {concept: inputs[name] for concept, inputs in recorded.items()}
    window = min(states.shape[1] for states in seen.values())
    # contiguous copies: every claim multiplies these matrices many times
    columns = {
        concept: np.ascontiguousarray(states.reshape(-1, states.shape[-1]).T) for concept, states in seen.items()
    }
    return Layer(name, weight, columns, window=window)
