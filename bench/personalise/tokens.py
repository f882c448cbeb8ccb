"""New words: a token added to tokenizer and text encoder, trained as a parameter of its own, then written in.

All other rows of the embedding stay as they are, because the new row is a separate parameter that a hook puts in the
place of the row while the concept is learnt. A concept is one word in front of its class word, or two words (ED-LoRA).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from seqlora.errors import BadInputError


@dataclass(frozen=True)
class WordStyle:
    """How a concept is written.

    Attributes:
        layerwise: an embedding for every cross-attention layer (P+) in place of one for all.
        pair: two new words, one of random start and one that starts as the class word and stands in its place.
    """

    layerwise: bool = False
    pair: bool = False


PLAIN_WORD = WordStyle()
ED_LORA = WordStyle(layerwise=True, pair=True)  # Mix-of-Show, section 3.2


def words_of(token: str, style: WordStyle) -> tuple[str, ...]:
    """The new words of a concept: its token, then the one in place of the class word ("+" is in no concept's name)."""
    return (token, f"{token[:-1]}+class>") if style.pair else (token,)


def subject_of(token: str, class_word: str, style: WordStyle) -> str:
    """What takes the place of `{}` in a template: two words in either style."""
    return " ".join(words_of(token, style)) if style.pair else f"{token} {class_word}"


def style_of(vectors: Tensor) -> WordStyle:
    """The style in which stored embeddings were learnt: (d,) is one plain word, else (words, layers, d)."""
    return PLAIN_WORD if vectors.ndim == 1 else WordStyle(vectors.shape[1] > 1, vectors.shape[0] > 1)


def add_words(tokenizer: Any, text_encoder: Any, token: str, class_word: str, style: WordStyle) -> tuple[int, ...]:
    """Add all words of a concept, see `add_token`; returns their ids."""
    return tuple(add_token(tokenizer, text_encoder, word, class_word) for word in words_of(token, style))


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


def first_embeddings(
    text_encoder: Any, numbers: tuple[int, ...], style: WordStyle, layers: int, rng: np.random.Generator
) -> Tensor:
    """Where training starts: (d,) for a plain word, else (words, layers, d), every layer alike.

    Of a pair, the first word is N(0, s²) with s the standard deviation of all known embeddings (Mix-of-Show's 0.013 in
    Stable Diffusion 1.x), the second is the class word.
    """
    weight = text_encoder.get_input_embeddings().weight.detach().float()
    if style == PLAIN_WORD:
        return weight[numbers[0]].clone()
    start = weight[list(numbers)]
    if style.pair:
        known = weight[: min(numbers)]
        start[0] = torch.from_numpy(rng.standard_normal(weight.shape[1])).to(weight) * known.std()
    return start[:, None].repeat(1, layers if style.layerwise else 1, 1)


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
