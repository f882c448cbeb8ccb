"""New words: a token added to tokenizer and text encoder, trained as a parameter of its own, then written in.

All other rows of the embedding stay as they are, because the new row is a separate parameter that a hook puts in the
place of the row while the concept is learnt.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from seqlora.errors import BadInputError


def add_token(tokenizer: Any, text_encoder: Any, token: str, class_word: str) -> int:
    """Add `token`, its embedding a copy of the class word's mean; returns its id. A known token keeps its embedding.

    Raises:
        BadInputError: the class word means nothing to the tokenizer.
    """
    known = tokenizer.get_vocab()
    if token in known:
        return int(known[token])
    pieces = tokenizer(class_word, add_special_tokens=False).input_ids
    if not pieces:
        raise BadInputError(f"the class word {class_word!r} of {token} has no tokens; name the kind of thing it is")
    tokenizer.add_tokens([token])
    number = int(tokenizer.convert_tokens_to_ids(token))
    _grow(text_encoder, number + 1)
    weight = text_encoder.get_input_embeddings().weight
    with torch.no_grad():
        weight[number] = weight[pieces].mean(0)
    return number


@torch.no_grad()
def _grow(text_encoder: Any, rows: int) -> None:
    """Append rows to the token embedding; the old ones are kept bit for bit."""
    old = text_encoder.get_input_embeddings()
    if old.weight.shape[0] >= rows:
        return
    new = nn.Embedding(rows, old.weight.shape[1], dtype=old.weight.dtype, device=old.weight.device)
    new.weight.zero_()
    new.weight[: old.weight.shape[0]] = old.weight
    new.weight.requires_grad_(old.weight.requires_grad)
    text_encoder.set_input_embeddings(new)
    text_encoder.config.vocab_size = rows


@contextmanager
def replaced(text_encoder: Any, rows: Mapping[int, Tensor]) -> Iterator[None]:
    """While open, tokens with these ids are embedded as the given vectors (which may require gradients)."""

    def hook(_: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
        for number, vector in rows.items():
            output = torch.where((arguments[0] == number)[..., None], vector.to(output.dtype), output)
        return output

    handle = text_encoder.get_input_embeddings().register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def install(text_encoder: Any, rows: Mapping[int, Tensor]) -> None:
    """Write vectors into the embedding."""
    weight = text_encoder.get_input_embeddings().weight
    for number, vector in rows.items():
        weight[number] = vector.to(weight)


def require_token(prompt: str, token: str) -> None:
    """Refuse a prompt that does not name the concept.

    Raises:
        BadInputError: the token is not in it.
    """
    if token not in prompt:
        raise BadInputError(f"prompt {prompt!r} lacks the concept token {token}; write it where the concept belongs")
