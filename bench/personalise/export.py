"""A learnt concept as files that plain diffusers reads: a LoRA, and a textual-inversion embedding.

pipeline.load_textual_inversion("<folder>/token.safetensors", token="<name>")
pipeline.load_lora_weights("<folder>")

Diffusers knows no words with an embedding a layer; they are written to a file that `load_words` reads:

numbers, vectors = load_words(pipeline, "<folder>", "<class word>")
with layerwise(pipeline, numbers, vectors): pipeline("a photo of <name> <name+class>")
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.personalise.shared import Learnt
from bench.personalise.tokens import add_token, style_of, words_of
from seqlora.adapters import pad_rank
from seqlora.errors import BadInputError
from seqlora.files import read_tensors, write_tensors

RESIDUAL_CONVOLUTION = re.compile(r"\.resnets\.\d+\.conv[12]$")  # always 3 x 3; factors are kept as matrices
TOKEN_FILE, LORA_FILE, WORDS_FILE = "token.safetensors", "pytorch_lora_weights.safetensors", "words.safetensors"


def export_concept(learnt: Learnt, folder: str | Path) -> Path:
    """Write one concept's LoRA (scale 1; smaller ranks are padded with zeros) and its words; returns the folder."""
    folder = Path(folder)
    state: dict[str, Tensor] = {}
    for layer, (A, B) in pad_rank(learnt.factors).items():
        if RESIDUAL_CONVOLUTION.search(layer):
            A, B = A.reshape(len(A), -1, 3, 3), B[:, :, None, None]
        state[f"{layer}.lora_A.weight"], state[f"{layer}.lora_B.weight"] = A, B
    if state:
        write_tensors(folder / LORA_FILE, state, {"format": "pt"})
    token = f"<{learnt.name}>"
    if learnt.token.ndim == 1:
        write_tensors(folder / TOKEN_FILE, {token: learnt.token}, {"format": "pt"})
    else:
        words = words_of(token, style_of(learnt.token))
        vectors = {word: own.contiguous() for word, own in zip(words, learnt.token, strict=True)}
        write_tensors(folder / WORDS_FILE, vectors, {"format": "pt"})
    return folder


def load_words(pipeline: Any, folder: str | Path, class_word: str) -> tuple[tuple[int, ...], Tensor]:
    """Add the words of an exported concept to a pipeline: their ids and embeddings (words, L, d), for `layerwise`.

    Raises:
        BadInputError: the concept was exported as a plain token.
    """
    path = Path(folder) / WORDS_FILE
    if not path.is_file():
        raise BadInputError(f"{path} is missing; a concept of one plain word is read by load_textual_inversion")
    words = read_tensors(path)
    numbers = tuple(add_token(pipeline.tokenizer, pipeline.text_encoder, word, class_word) for word in sorted(words))
    return numbers, torch.stack([words[word] for word in sorted(words)])
