"""The CLIP model: an open_clip model of its own shape, trained from scratch on portraits and their captions.

A caption is right for an image if every attribute it names is right, so several captions of a batch may fit one image:
the loss is the sigmoid loss (SigLIP, Zhai et al. 2023) over all pairs with exactly that truth table. Captions name few
or many attributes, and single-attribute captions are also compared within their attribute.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTokenizer

from bench.world.attributes import VALUES
from bench.world.autoencoder import to_tensor
from bench.world.captions import OPENINGS, caption, keep_some
from bench.world.data import FigurePool, labels
from bench.world.portraits import SIZE
from bench.world.tokens import LENGTH
from bench.world.training import LossFunction
from seqlora.files import write_json, write_tensors

EMBEDDING = 128
HEAD_SCALE = 12.0  # of the unit embedding under the training heads


def model_config(tokenizer: CLIPTokenizer) -> dict[str, Any]:
    """`model_cfg` of `open_clip_config.json`."""
    return {
        "embed_dim": EMBEDDING,
        "vision_cfg": {
            "image_size": SIZE,
            "timm_model_name": "test_resnet",  # timm's smallest residual network, 0.4 M parameters
            "timm_model_pretrained": False,
            "timm_pool": "avg",
            "timm_proj": "linear",
        },
        "text_cfg": {
            "context_length": LENGTH,
            "vocab_size": len(tokenizer),
            "hf_tokenizer_name": "tokenizer",
            "width": 96,
            "heads": 4,
            "layers": 2,
            "pool_type": "eos",
            "pad_id": tokenizer.pad_token_id,
            "eos_id": tokenizer.eos_token_id,
        },
    }


def build_clip(tokenizer: CLIPTokenizer) -> open_clip.CLIP:
    """An untrained model of the released shape."""
    return open_clip.CLIP(**model_config(tokenizer))


def save_clip(model: open_clip.CLIP, tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write the folder that `open_clip.create_model_and_transforms("local-dir:...")` reads; weights in float16."""
    half = [0.5, 0.5, 0.5]
    preprocess = {"size": SIZE, "mean": half, "std": half, "interpolation": "bicubic", "resize_mode": "squash"}
    write_json(folder / "open_clip_config.json", {"model_cfg": model_config(tokenizer), "preprocess_cfg": preprocess})
    write_tensors(folder / "open_clip_model.safetensors", {k: v.half() for k, v in model.state_dict().items()})
    tokenizer.save_pretrained(folder)


def single_attribute_captions(name: str) -> list[str]:
    """One caption a value of an attribute, e.g. "a photo of a person with red hair" for each hair colour."""
    return [caption({name: value}) for value in VALUES[name]]


class ClipTraining(nn.Module):
    """CLIP, the bias of its sigmoid loss, and linear heads that read every attribute off the image embedding.

    The heads are dropped after training: they only make the image tower learn small details early, while the text tower
    is still too young to ask for them.

    Args:
        tokenizer: caption words to ids.
    """

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.clip = build_clip(tokenizer)
        self.bias = nn.Parameter(torch.tensor(-4.0))
        self.heads = nn.ModuleDict({name: nn.Linear(EMBEDDING, len(values)) for name, values in VALUES.items()})

    def texts(self, captions: list[str]) -> Tensor:
        """(n, 128) unit text embeddings."""
        ids = self.tokenizer(captions, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt")
        return self.clip.encode_text(ids.input_ids.to(self.bias.device), normalize=True).float()

    def forward(self, pixels: Tensor, captions: list[str], fits: Tensor, sets: list[str], classes: Tensor) -> Tensor:
        """Sigmoid loss over image-caption pairs, plus cross-entropy within single attributes.

        Args:
            pixels: (n, 3, 64, 64).
            captions: m captions.
            fits: (n, m) truth table.
            sets: the attributes that are also compared alone.
            classes: (n, 11) class numbers, -1 where an attribute cannot be seen.
        """
        image = self.clip.encode_image(pixels, normalize=True).float()
        scale = self.clip.logit_scale.float().exp()
        alone = [single_attribute_captions(name) for name in sets]
        text = self.texts([*captions, *(c for group in alone for c in group)])
        cosine = image @ text.T
        logits = scale * cosine[:, : len(captions)] + self.bias.float()
        loss = F.binary_cross_entropy_with_logits(logits, fits, reduction="sum") / len(pixels)
        start = len(captions)
        columns = dict(zip(VALUES, classes.T, strict=True))
        for name, group in zip(sets, alone, strict=True):
            part = cosine[:, start : start + len(group)]
            loss = loss + F.cross_entropy(scale * part, columns[name], ignore_index=-1)
            start += len(group)
        for name, head in self.heads.items():
            loss = loss + F.cross_entropy(head(HEAD_SCALE * image), columns[name], ignore_index=-1)
        return loss


def clip_loss(model: ClipTraining, pool: FigurePool, batch: int, n_sets: int = 5) -> LossFunction:
    """Loss of a step: half of the captions name about two attributes, half about eight; `n_sets` attributes alone."""
    names = list(VALUES)

    def loss(step: int, rng: np.random.Generator, noise: torch.Generator) -> Tensor:
        images, shown = pool.portraits(rng.integers(len(pool), size=batch), rng)
        classes = labels(shown)
        captions, fits = [], np.empty((batch, batch), np.float32)
        for column, attributes in enumerate(shown):
            named = keep_some(attributes, rng, keep=0.2 if column % 2 else 0.75)
            captions.append(caption(named, opening=OPENINGS[rng.integers(len(OPENINGS))]))
            wanted = labels([named])[0]
            fits[:, column] = ((classes == wanted) | (wanted < 0)).all(1)
        chosen = rng.choice(len(names), n_sets, replace=False)
        pixels = to_tensor(images)
        amount = 0.1 * torch.rand(batch, 1, 1, 1, generator=noise)
        pixels = pixels + amount * torch.randn(pixels.shape, generator=noise)
        device, dtype = model.bias.device, next(model.clip.visual.parameters()).dtype
        truth, target = torch.from_numpy(fits).to(device), torch.from_numpy(classes).to(device)
        return model(pixels.to(device, dtype), captions, truth, [names[i] for i in chosen], target)

    return loss


@torch.no_grad()
def zero_shot(model: Any, tokenize: Any, pixels: Tensor, name: str, chunk: int = 256) -> np.ndarray:
    """Class numbers of an attribute by the most similar single-attribute caption.

    Args:
        model: any open_clip model.
        tokenize: its tokenizer, texts to ids.
        pixels: (n, 3, H, W), preprocessed for that model.
        name: attribute.
        chunk: images a forward pass.
    """
    text = model.encode_text(tokenize(single_attribute_captions(name)).to(pixels.device), normalize=True)
    parts = [(model.encode_image(part, normalize=True) @ text.T).argmax(1) for part in pixels.split(chunk)]
    return torch.cat(parts).cpu().numpy()
