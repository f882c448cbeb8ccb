"""Teaches the text encoder its captions before any image is seen, as CLIP does for Stable Diffusion.

Linear heads read every attribute off the states at and after a caption's end, where cross-attention finds them; "not
mentioned" is a class of its own. Without this stage the denoiser learns large attributes only, and the encoder lets the
small ones (pattern, clothing colour) merge. The heads are dropped afterwards and the encoder is frozen.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.world.attributes import VALUES
from bench.world.captions import OPENINGS, caption, choose, scene_caption
from bench.world.data import FigurePool
from bench.world.scenes import SCENE_FIELDS, choose_scene
from bench.world.tokens import LENGTH
from bench.world.training import LossFunction

SIDES = ("left", "right")
EMPTY = 0.05  # share of empty captions


class WordTraining(nn.Module):
    """Text encoder and the heads that question it.

    Args:
        tokenizer: captions to ids.
        text_encoder: a CLIP text model.
    """

    def __init__(self, tokenizer: Any, text_encoder: Any) -> None:
        super().__init__()
        self.tokenizer, self.text_encoder = tokenizer, text_encoder
        names = [*VALUES, *(f"{side}_{name}" for side in SIDES for name in SCENE_FIELDS)]
        width = text_encoder.config.hidden_size
        # one class more than there are values: the attribute is not mentioned
        self.heads = nn.ModuleDict({name: nn.Linear(width, len(VALUES[attribute_of(name)]) + 1) for name in names})

    def forward(self, captions: list[str], classes: dict[str, Tensor]) -> Tensor:
        """Cross-entropy summed over heads, averaged over captions and over the positions from the end token on."""
        ids = self.tokenizer(captions, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt")
        ids = ids.input_ids.to(self.text_encoder.device)
        states = self.text_encoder(ids).last_hidden_state
        after = ids == self.tokenizer.eos_token_id  # the end token also pads
        share = (after / after.sum(1, keepdim=True))[after]
        loss = torch.zeros((), device=ids.device)
        for name, target in classes.items():
            logits = self.heads[name](states[after]).float()
            target = target[:, None].expand_as(after)[after]
            loss = loss + (share * F.cross_entropy(logits, target, reduction="none")).sum() / len(captions)
        return loss


def attribute_of(head: str) -> str:
    """The attribute that a head asks about: `left_hair` asks about hair."""
    side, _, name = head.partition("_")
    return name if side in SIDES else head


def mentioned(chosen: list[dict[str, str]], name: str) -> Tensor:
    """(n,) class numbers of what captions say about an attribute; the last class where they say nothing."""
    values = VALUES[name]
    return torch.tensor([values.index(said[name]) if name in said else len(values) for said in chosen])


def word_loss(model: WordTraining, pool: FigurePool, batch: int) -> LossFunction:
    """Loss of a step: random captions of portraits, and on one step in four of scenes."""

    def loss(step: int, rng: np.random.Generator, noise: torch.Generator) -> Tensor:
        rows = rng.integers(len(pool), size=(batch, 2))
        walls = [{n: VALUES[n][rng.integers(len(VALUES[n]))] for n in ("background", "pattern")} for _ in rows]
        device = model.text_encoder.device
        if step % 4 != 3:
            said = [choose({**pool.shown[i], **wall}, rng) for (i, _), wall in zip(rows, walls, strict=True)]
            said = [{} if rng.random() < EMPTY else words for words in said]
            captions = [
                caption(words, opening=OPENINGS[rng.integers(len(OPENINGS))]) if words else "" for words in said
            ]
            return model(captions, {name: mentioned(said, name).to(device) for name in VALUES})
        scenes = [choose_scene(pool.shown[i], pool.shown[j], w, rng) for (i, j), w in zip(rows, walls, strict=True)]
        left, right, wall = (list(part) for part in zip(*scenes, strict=True))
        classes = {f"left_{name}": mentioned(left, name).to(device) for name in SCENE_FIELDS}
        classes |= {f"right_{name}": mentioned(right, name).to(device) for name in SCENE_FIELDS}
        classes |= {name: mentioned(wall, name).to(device) for name in ("background", "pattern")}
        return model([scene_caption(*scene) for scene in scenes], classes)

    return loss
