"""The tokenizer: a genuine `CLIPTokenizer` in which every word of the captions is one token.

The byte-pair merges are learnt on the caption words until each is whole; unknown words fall apart into letters.
`<new0>` ... `<new255>` are spare tokens for concepts; their embeddings start as that of the class word.
"""

from __future__ import annotations

import json
import string
from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.trainers import BpeTrainer
from transformers import CLIPTokenizer

from bench.world.captions import vocabulary

LENGTH = 32  # positions of the text encoder, start and end token included
SPARE_TOKENS = 256
START, END = "<|startoftext|>", "<|endoftext|>"


def spare_token(number: int) -> str:
    """Name of a spare token: `<new0>`, `<new1>`, ..."""
    return f"<new{number}>"


def build_tokenizer() -> CLIPTokenizer:
    """Build the tokenizer from the caption vocabulary; deterministic."""
    words = vocabulary()
    learner = Tokenizer(BPE(end_of_word_suffix="</w>"))
    learner.pre_tokenizer = Whitespace()
    letters = list(string.ascii_lowercase + string.digits + ",.-'")
    # The learner numbers final letters in the order of a hash map, another one at each call, and breaks ties between
    # merges by number: naming them first fixes both.
    final_letters = [f"{letter}</w>" for letter in letters]
    trainer = BpeTrainer(
        vocab_size=100_000, min_frequency=1, show_progress=False, end_of_word_suffix="</w>", initial_alphabet=letters,
        special_tokens=final_letters,
    )  # fmt: skip
    learner.train_from_iterator([" ".join([*words, *letters])], trainer)
    vocab = learner.get_vocab()
    pieces = sorted(vocab, key=vocab.__getitem__)
    merges: Any = [tuple(pair) for pair in _merges(learner)]
    ids = {piece: number for number, piece in enumerate([*pieces, START, END])}
    tokenizer = CLIPTokenizer(vocab=ids, merges=merges, model_max_length=LENGTH)
    tokenizer.add_tokens([spare_token(i) for i in range(SPARE_TOKENS)])
    return tokenizer


def _merges(learner: Tokenizer) -> list[list[str]]:
    pairs = json.loads(learner.to_str())["model"]["merges"]
    return [pair.split(" ") if isinstance(pair, str) else pair for pair in pairs]
