"""A Stable Diffusion's own attention layers, recorded while it draws: by default the embedded world's.

A concept is what its prompts share, a person's hair and skin; clothes, colours, mouth and wall are drawn at random.
One image gives one window, taken at one noise level of the image's own trajectory, so that windows are independent:
16 positions of a layer that sees pixels, the last tokens of the prompt for a layer that sees text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from seqlora.errors import BadInputError, StoredFileError
from seqlora.files import read_json, sha256_of
from theory.layers import hf
from theory.layers.base import Array, Layer
from theory.layers.folders import load_pipeline

WORLD = Path(__file__).parents[2] / "bench" / "world" / "weights"  # its files only: theory imports nothing of bench
PEOPLE = (
    "blonde curly hair pale skin",
    "black short hair dark skin",
    "ginger long hair tan skin",
    "silver mohawk hair brown skin",
)
PROMPT = "a photo of a person with {} {} wearing a {} {} on a {} {} background"
CONTEXT: tuple[tuple[str, ...], ...] = (
    ("smiling", "serious", "grinning", "shouting"),
    ("red", "blue", "green", "yellow", "white", "black", "purple"),
    ("shirt", "hoodie", "overalls"),
    ("plain", "striped", "dotted"),
    ("red", "orange", "yellow", "green", "blue", "purple", "white", "gray"),
)
"""Words that the embedded model was trained on and any other knows; 2016 combinations, none is drawn twice."""

ROLES = ("attn1.to_q", "attn2.to_q", "attn2.to_k", "attn1.to_out.0", "attn2.to_out.0")
"""Every kind of input that an attention layer has: pixels before self- and cross-attention, text, what both put out."""

STEPS = 4  # of the sampler; an image is read at one of them
WINDOW = 16  # pixels of an image
TEXT_WINDOW = 11  # tokens of a prompt: from the first word that varies to the end token
BATCH = 16
WINDOWS = {"smoke": 24, "ci": 192, "full": 512}  # images a concept
READS_TEXT = re.compile(r"attn2\.to_[kv]$")


def record(
    suite: str, rng: np.random.Generator, folder: str | Path | None = None, pattern: str | None = None
) -> list[Layer]:
    """Record the inputs of attention layers while a pipeline draws people.

    Args:
        suite: how many images a concept: a key of `WINDOWS`.
        rng: draws prompts, noise, noise levels and the positions that are read.
        folder: of a Stable Diffusion pipeline in safetensors; the embedded world's if not given.
        pattern: regular expression for whole module names; one layer of each of `ROLES`, spread over the depth of the
            UNet, if not given.

    Raises:
        BadInputError: no such pipeline in the folder, or no such layer in the pipeline.
        StoredFileError: the embedded world's files are not those of its manifest.
    """
    pipeline = load_pipeline(verified_world() if folder is None else Path(folder))
    names = choose_layers(pipeline.unet) if pattern is None else hf.choose_layers(pipeline.unet, pattern)
    recorder = Recorder(pipeline, tuple(names), rng)
    windows = {person: recorder.record(prompts(person, WINDOWS[suite], rng)) for person in PEOPLE}
    return [_layer(pipeline.unet, name, {person: seen[name] for person, seen in windows.items()}) for name in names]


def prompts(person: str, count: int, rng: np.random.Generator) -> list[str]:
    """Prompts of one person, no context twice."""
    contexts = list(product(*CONTEXT))
    return [PROMPT.format(person, *contexts[k]) for k in rng.choice(len(contexts), count, replace=False)]


def verified_world(weights: Path = WORLD) -> Path:
    """The embedded world's pipeline folder, every file checked against the manifest beside it.

    Raises:
        StoredFileError: a file is missing or differs, or there is no manifest.
    """
    files = {
        name: entry for name, entry in read_json(weights / "manifest.json")["files"].items() if "pipeline/" in name
    }
    remedy = "restore it with `git checkout -- bench/world/weights`, or give a folder: diffusion:<folder>"
    for name, entry in files.items():
        path = weights / name
        if not path.is_file() or sha256_of(path) != entry["sha256"]:
            raise StoredFileError(f"{path} is not the file of the manifest; {remedy}")
    return weights / "pipeline"


def provenance(folder: str | Path | None = None) -> dict[str, str]:
    """SHA-256 of the pipeline's weights."""
    root = WORLD / "pipeline" if folder is None else Path(folder)
    return {str(path.relative_to(root)): sha256_of(path) for path in sorted(root.glob("*/*.safetensors"))}


def choose_layers(unet: nn.Module) -> list[str]:
    """One layer of each role, the first role from the first transformer block and the last from the last.

    Raises:
        BadInputError: the model has no attention layers of these names.
    """
    linear = [name for name, child in unet.named_modules() if isinstance(child, nn.Linear)]
    blocks = list(dict.fromkeys(name.split(".attn")[0] for name in linear if name.endswith(ROLES)))
    if not blocks:
        raise BadInputError(
            "the UNet has no attention layers; give the pattern of others: diffusion:<folder>#<pattern>"
        )
    # modules are listed down, up, middle; a forward pass takes the middle before the way up
    blocks.sort(key=lambda name: ("down", "mid", "up").index(name.split("_")[0]))
    picks = np.linspace(0, len(blocks) - 1, len(ROLES)).round().astype(int)
    chosen = [f"{blocks[k]}.{role}" for k, role in zip(picks, ROLES, strict=True)]
    return [name for name in chosen if name in linear]


@dataclass
class Recorder:
    """Draws with a pipeline and keeps what its layers see.

    Attributes:
        pipeline: of diffusers.
        names: of the layers, in the UNet.
        rng: source of noise, noise levels and positions.
    """

    pipeline: Any
    names: tuple[str, ...]
    rng: np.random.Generator

    def __post_init__(self) -> None:
        from diffusers import DDIMScheduler

        # DDIM whatever the folder uses: it keeps no history, so each image may stop at a step of its own
        self.scheduler: Any = DDIMScheduler.from_config(self.pipeline.scheduler.config)
        self.scheduler.set_timesteps(STEPS)
        self.positions: dict[str, NDArray[np.int64]] = {}

    @torch.inference_mode()
    def record(self, texts: list[str]) -> dict[str, Array]:
        """Layer name -> windows, (images, n, columns), in the order of the prompts."""
        ids, ends = self._tokens(texts)
        states = self.pipeline.text_encoder(ids)[0]
        last_steps = self.rng.integers(STEPS, size=len(texts))
        noise = torch.from_numpy(self.rng.standard_normal((len(texts), *self._shape()))).float()
        windows: dict[str, Array] = {}
        for last in range(STEPS):
            mine = np.flatnonzero(last_steps == last)
            for rows in torch.from_numpy(mine).split(BATCH) if len(mine) else ():
                with hf.watched(self.pipeline.unet, self.names) as inputs:
                    self._draw(noise[rows], states[rows], last)
                for name, seen in inputs.items():
                    part = self._columns(name, seen, ends[rows])
                    windows.setdefault(name, np.empty((len(texts), *part.shape[1:])))[rows.numpy()] = part
        return windows

    def _tokens(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """Token ids, (images, length), and the position after the end token of each."""
        encoded = self.pipeline.tokenizer(
            texts,
            padding="max_length",
            truncation=True,
            max_length=self.pipeline.tokenizer.model_max_length,
            return_tensors="pt",
        )
        return encoded.input_ids, encoded.attention_mask.sum(1)

    def _shape(self) -> tuple[int, int, int]:
        size, channels = self.pipeline.unet.config.sample_size, self.pipeline.unet.config.in_channels
        height, width = (size, size) if isinstance(size, int) else size
        return int(channels), int(height), int(width)

    def _draw(self, noise: Tensor, states: Tensor, last: int) -> None:
        """Denoise from pure noise up to and including step number `last`; no guidance."""
        latents = noise * float(self.scheduler.init_noise_sigma)
        for step in self.scheduler.timesteps[: last + 1]:
            predicted = self.pipeline.unet(latents, step, encoder_hidden_states=states).sample
            latents = self.scheduler.step(predicted, step, latents).prev_sample

    def _columns(self, name: str, seen: Tensor, ends: Tensor) -> Array:
        """(images, n, columns) of a layer's inputs, (images, positions, n)."""
        inputs = seen.reshape(len(ends), -1, seen.shape[-1]).double().numpy()
        if READS_TEXT.search(name):
            columns = ends[:, None].numpy() + np.arange(-min(TEXT_WINDOW, inputs.shape[1]), 0)
            return np.swapaxes(np.take_along_axis(inputs, np.maximum(columns, 0)[:, :, None], axis=1), 1, 2)
        if name not in self.positions:
            picked = self.rng.choice(inputs.shape[1], min(WINDOW, inputs.shape[1]), replace=False)
            self.positions[name] = np.sort(picked)
        return np.swapaxes(inputs[:, self.positions[name]], 1, 2)


def _layer(unet: nn.Module, name: str, windows: Mapping[str, Array]) -> Layer:
    """Put a layer's windows side by side as columns."""
    weight = unet.get_submodule(name).get_parameter("weight").double().numpy()
    columns = {
        person: np.ascontiguousarray(seen.transpose(1, 0, 2).reshape(seen.shape[1], -1))
        for person, seen in windows.items()
    }
    return Layer(name, weight, columns, window=next(iter(windows.values())).shape[2])
