"""The user's own models: what the command line says about them, the SHA-256 of their files, and loaded pipelines.

Nothing is downloaded unless that was asked for (`--allow-download`), nothing is unpickled, and nothing happens at
import. The options travel as `Context.options`; those not known here belong to others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from bench.places import PIPELINE_FILES, UNREAD, base_folder, clip_folder, dino_folder, identity_path
from bench.world import assets
from seqlora.errors import BadInputError, StoredFileError
from seqlora.files import sha256_of
from seqlora.headers import check_folder

Precision = Literal["float32", "bfloat16"]
JUDGE_FILES = ("*.json", "*.txt", "*.safetensors", "*.onnx")


@dataclass(frozen=True)
class Models:
    """Which models are used, and how.

    Attributes:
        base: diffusers folder of a Stable Diffusion, or its name on the hub; "": the embedded one.
        clip: "local-dir:<folder>", or an open_clip name with its weights' tag, "ViT-B-32:openai"; "": none.
        identity: insightface pack (a name, its folder, or the root that holds it), or one ArcFace `.onnx`; "": none.
        dino: folder of a timm model, or its name, "vit_small_patch16_224.dino"; "": none.
        device: of torch.
        dtype: "bfloat16" is mixed precision; weights stay float32.
        threshold: cosine above which two faces are one person; None: calibrated if there are enough pairs.
        checkpointing: trade time for memory while training.
        download: whether a name that is not on this machine may be downloaded.
    """

    base: str = ""
    clip: str = ""
    identity: str = ""
    dino: str = ""
    device: str = "cpu"
    dtype: Precision = "float32"
    threshold: float | None = None
    checkpointing: bool = False
    download: bool = False

    @classmethod
    def of(cls, options: Mapping[str, str]) -> Models:
        """From "name=value" options.

        Raises:
            BadInputError: a device that is not there, another dtype, or a value that cannot be read.
        """
        dtype = options.get("dtype") or "float32"
        if dtype not in get_args(Precision):
            raise BadInputError(f"dtype {dtype!r} is not one of {', '.join(get_args(Precision))}")
        return cls(
            options.get("base", ""),
            options.get("clip", ""),
            options.get("identity", ""),
            options.get("dino", ""),
            available(options.get("device") or "cpu"),
            dtype,  # type: ignore[arg-type]
            _cosine(options.get("threshold", "")),
            _switch("checkpointing", options.get("checkpointing", "")),
            _switch("download", options.get("download", "")),
        )

    @property
    def base_folder(self) -> Path:
        """The diffusers folder."""
        return base_folder(self.base, self.download) if self.base else assets.pipeline_folder()

    @property
    def clip_folder(self) -> Path | None:
        """A folder for open_clip's `local-dir:`."""
        return clip_folder(self.clip, self.download) if self.clip else None

    @property
    def identity_path(self) -> Path | None:
        """An `.onnx` file, or the folder of an insightface pack."""
        return identity_path(self.identity, self.download) if self.identity else None

    @property
    def dino_folder(self) -> Path | None:
        """A folder for timm's `local-dir:`."""
        return dino_folder(self.dino, self.download) if self.dino else None

    def weights(self) -> dict[str, str]:
        """Name -> SHA-256 of every file that decides results."""
        found = {f"base/{name}": digest for name, digest in pipeline_hashes(self.base_folder).items()}
        judges = {"clip": self.clip_folder, "identity": self.identity_path, "dino": self.dino_folder}
        for judge, place in judges.items():
            if place is not None:
                files = [place] if place.is_file() else [path for kind in JUDGE_FILES for path in place.glob(kind)]
                found |= {f"{judge}/{path.name}": file_hash(path) for path in sorted(files)}
        return found


def pipeline_hashes(folder: Path) -> dict[str, str]:
    """Name -> SHA-256 of what decides a pipeline: its configuration, words and weights."""
    files = {path.relative_to(folder).as_posix(): path for kind in PIPELINE_FILES for path in folder.glob(kind)}
    unread = [UNREAD] if variant(folder) else [UNREAD, "*.fp16.*", "*.fp16-*"]
    read = [name for name in sorted(files) if not any(fnmatch(name, pattern) for pattern in unread)]
    return {name: file_hash(files[name]) for name in read}


def variant(folder: Path) -> str | None:
    """Which of a pipeline's weights are loaded: None is the plain ones, "fp16" those where there are no others."""
    halves = {*folder.glob("unet/*.fp16.*"), *folder.glob("unet/*.fp16-*")}
    return "fp16" if halves and not set(folder.glob("unet/*.safetensors")) - halves else None


def file_hash(path: Path) -> str:
    """SHA-256 of a file; one that has not changed is read once a process."""
    status = path.stat()
    return _file_hash(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=4096)
def _file_hash(path: Path, size: int, changed: int) -> str:
    return sha256_of(path)


def load_pipeline(folder: Path, device: str) -> Any:
    """A `StableDiffusionPipeline` in float32 on its device, from safetensors only.

    Raises:
        StoredFileError: a part is missing or broken.
    """
    from diffusers import StableDiffusionPipeline

    check_folder(folder)
    try:
        with without_bars():
            pipeline = StableDiffusionPipeline.from_pretrained(
                folder,
                dtype=torch.float32,
                variant=variant(folder),
                use_safetensors=True,
                local_files_only=True,
                safety_checker=None,
                feature_extractor=None,
                requires_safety_checker=False,
            )
    except Exception as error:  # diffusers, transformers and safetensors each raise what they like
        text = " ".join(str(error).split())[:300]
        raise StoredFileError(f"{folder} does not load as a Stable Diffusion ({text}); restore its files") from error
    return pipeline.to(device)


@contextmanager
def without_bars() -> Iterator[None]:
    """While open, diffusers and transformers load without progress bars and without remarks of their own."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    libraries = (diffusers_logging, transformers_logging)
    spoken = [library.get_verbosity() for library in libraries]
    for library in libraries:
        library.disable_progress_bar()
        library.set_verbosity_error()
    try:
        yield
    finally:
        for library, verbosity in zip(libraries, spoken, strict=True):
            library.enable_progress_bar()
            library.set_verbosity(verbosity)


def available(device: str) -> str:
    """The device, if torch has it here.

    Raises:
        BadInputError: it is not there.
    """
    try:
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise BadInputError(f"device {device!r} is not there for this torch; use cpu or another torch") from error
    return device


def _switch(name: str, text: str) -> bool:
    if text not in ("", "True", "False"):
        raise BadInputError(f"{name}={text!r} is neither True nor False")
    return text == "True"


def _cosine(text: str) -> float | None:
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not -1 <= value <= 1:
        raise BadInputError(f"threshold={text!r} is no cosine between -1 and 1")
    return value
