"""Any local transformers or diffusers folder, opened as one thing: a model that can be fed text.

`hf` reads activations through forward hooks and does not know which of the two it has. Weights are read from
safetensors only, and only from the folder: nothing is downloaded, no pickle is loaded, no code of the folder runs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from seqlora.errors import BadInputError
from seqlora.files import read_json
from seqlora.headers import check_folder

DENOISING_STEPS = 4  # of one trajectory; a diffusion model is read at one of them


@dataclass(frozen=True)
class Tokens:
    """Encoded passages of equal length: token ids and which of them are content (no CLS, SEP, padding)."""

    ids: Tensor  # (batch, length), int64
    content: np.ndarray  # (length,), bool; the same positions in every passage


@dataclass(frozen=True)
class TextModel:
    """A model that can be fed text, whatever it is made of.

    Attributes:
        module: holds the Linear layers that can be read.
        tokenize: passages -> tokens; passages with less than a whole window of content are dropped.
        forward: one forward pass of a batch of token ids (for a diffusion model: one trajectory up to a random
            noise level, so that the last call of every layer is the one to keep).
        batch: passages of one forward pass.
    """

    module: nn.Module
    tokenize: Callable[[Sequence[str], int], Tokens]
    forward: Callable[[Tensor], Any]
    batch: int = 64


def open_folder(folder: str | Path, rng: np.random.Generator) -> TextModel:
    """Open a folder that `save_pretrained` of transformers or diffusers wrote.

    Args:
        folder: has a `model_index.json` (diffusers pipeline) or a `config.json` (transformers model).
        rng: draws the starting noise of a diffusion model.

    Raises:
        BadInputError: the folder is missing, holds neither, or cannot be loaded offline.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise BadInputError(f"the model folder {folder} does not exist; give a local transformers or diffusers folder")
    check_folder(folder)
    if (folder / "model_index.json").is_file():
        return _diffusers(folder, rng)
    if (folder / "config.json").is_file():
        return _transformers(folder)
    raise BadInputError(
        f"{folder} holds no model: neither model_index.json (diffusers) nor config.json (transformers) is there"
    )


def _transformers(folder: Path) -> TextModel:
    from transformers import AutoModel, AutoTokenizer

    with _loading(folder):
        model = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    # The text half of a two-tower model, the encoder of an encoder-decoder: the part that takes token ids alone.
    module = getattr(model, "text_model", None) or (model.get_encoder() if model.config.is_encoder_decoder else model)
    module = module.float().eval().requires_grad_(False)  # half-precision folders too: CPU kernels want float32
    return TextModel(module, _tokenizer(tokenizer, pad=False), lambda ids: module(input_ids=ids))


def load_pipeline(folder: Path) -> Any:
    """A Stable Diffusion pipeline in float32, in inference mode, without the parts that draw pixels.

    Raises:
        BadInputError: the folder is missing, holds no such pipeline, or cannot be loaded offline.
    """
    if not (folder / "model_index.json").is_file():
        raise BadInputError(f"{folder} holds no diffusers pipeline: model_index.json is not there")
    from diffusers import DiffusionPipeline
    from diffusers.utils import logging as diffusers_logging

    index = read_json(folder / "model_index.json")
    needed = {"unet", "text_encoder", "tokenizer", "scheduler"}
    if not needed <= set(index):
        missing = ", ".join(sorted(needed - set(index)))
        raise BadInputError(f"{folder} lacks {missing}; only pipelines with a UNet and one text encoder can be read")
    unused = {name: None for name in ("vae", "safety_checker", "feature_extractor", "image_encoder") if name in index}
    with _loading(folder), _no_bars(diffusers_logging):
        pipeline = DiffusionPipeline.from_pretrained(folder, local_files_only=True, use_safetensors=True, **unused)
    for module in (pipeline.unet, pipeline.text_encoder):
        module.float().eval().requires_grad_(False)
    return pipeline


def _diffusers(folder: Path, rng: np.random.Generator) -> TextModel:
    pipeline = load_pipeline(folder)
    unet, encoder, scheduler = pipeline.unet, pipeline.text_encoder, pipeline.scheduler
    size = unet.config.sample_size
    height, width = (size, size) if isinstance(size, int) else size

    def denoise(ids: Tensor) -> None:
        # the inputs that generation really sees: a trajectory from noise, left at a noise level drawn for this batch
        states = encoder(input_ids=ids)[0]
        noise = rng.standard_normal((len(ids), unet.config.in_channels, height, width))
        scheduler.set_timesteps(DENOISING_STEPS)
        latents = torch.from_numpy(noise).float() * float(getattr(scheduler, "init_noise_sigma", 1.0))
        for step in scheduler.timesteps[: 1 + int(rng.integers(len(scheduler.timesteps)))]:
            scaled = scheduler.scale_model_input(latents, step)
            predicted = unet(scaled, step, encoder_hidden_states=states).sample
            latents = scheduler.step(predicted, step, latents).prev_sample

    return TextModel(unet, _tokenizer(pipeline.tokenizer, pad=True), denoise, batch=8)


def _tokenizer(tokenizer: Any, pad: bool) -> Callable[[Sequence[str], int], Tokens]:
    """Passages -> ids with exactly `window` content tokens each; `pad` to the model's fixed length (diffusers)."""

    def tokenize(texts: Sequence[str], window: int) -> Tokens:
        bare = tokenizer(list(texts), add_special_tokens=False, truncation=True, max_length=window)["input_ids"]
        whole = [text for text, ids in zip(texts, bare, strict=True) if len(ids) == window]
        if not whole:
            return Tokens(torch.zeros((0, 0), dtype=torch.int64), np.zeros(0, dtype=bool))
        encoded = tokenizer(
            whole,
            truncation=True,
            max_length=window + tokenizer.num_special_tokens_to_add(),
            return_special_tokens_mask=True,
        )
        content = np.array(encoded["special_tokens_mask"][0]) == 0
        ids = torch.tensor(encoded["input_ids"])
        missing = tokenizer.model_max_length - ids.shape[1] if pad else 0
        if missing > 0:
            ids = nn.functional.pad(ids, (0, missing), value=tokenizer.pad_token_id or 0)
            content = np.pad(content, (0, missing))
        return Tokens(ids, content)

    return tokenize


@contextmanager
def _loading(folder: Path) -> Iterator[None]:
    """Turn whatever a loader raises into one line, and keep its progress bars and load reports off the terminal."""
    from transformers.utils import logging as transformers_logging

    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(logging.ERROR)
    try:
        with _no_bars(transformers_logging):
            yield
    except Exception as error:  # loaders raise anything from KeyError to SafetensorError
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BadInputError(f"cannot load the model in {folder}: {reason}; check that it is complete") from error
    finally:
        transformers_logging.set_verbosity(verbosity)


@contextmanager
def _no_bars(library_logging: Any) -> Iterator[None]:
    """Switch the progress bars of transformers or diffusers off for a while."""
    were_on = library_logging.is_progress_bar_enabled()
    library_logging.disable_progress_bar()
    try:
        yield
    finally:
        if were_on:
            library_logging.enable_progress_bar()
