"""From the name of a model to its folder: a path, a model in a cache, or, if that is allowed, a download.

Every function takes the text of a command line option, `--base`, `--clip`, `--identity` or `--dino`, and raises
`BadInputError` with one line where nothing is found. Nothing is read but the files that say what a folder is.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path

from seqlora.errors import BadInputError
from seqlora.files import read_json

PACKS = Path("~/.insightface/models")  # where insightface keeps its packs
DEFAULT_TAG = "openai"  # weights of an open_clip architecture that is given without a tag
PARTS = ("scheduler", "text_encoder", "tokenizer", "unet", "vae")  # of a pipeline; no safety checker
PIPELINE_FILES = (
    "model_index.json",
    *(f"{part}/*.{kind}" for part in PARTS for kind in ("json", "txt", "safetensors")),
)
UNREAD = "*.non_ema.*"  # weights beside those that a pipeline loads
CLIP_FILES = ("open_clip_config.json", "*.safetensors", "tokenizer*", "vocab*", "merges*", "special_tokens*")
DINO_FILES = ("config.json", "model.safetensors")


def base_folder(name: str, download: bool) -> Path:
    """The diffusers folder of a Stable Diffusion 1.x or 2.x.

    Raises:
        BadInputError: no such folder, no pipeline in it, or one of another kind.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        folder = from_hub(name, PIPELINE_FILES, "base", download)
    index = folder / "model_index.json"
    if not index.is_file():
        raise BadInputError(
            f"--base {name} is no diffusers folder (no model_index.json); convert a single file once with "
            "StableDiffusionPipeline.from_single_file(...).save_pretrained(...)"
        )
    kind = read_json(index).get("_class_name")
    if kind != "StableDiffusionPipeline":
        raise BadInputError(f"--base {name} is a {kind or 'nameless pipeline'}; only a StableDiffusionPipeline is read")
    return folder


def clip_folder(name: str, download: bool) -> Path:
    """A folder with `open_clip_config.json` and safetensors, for open_clip's `local-dir:`.

    Raises:
        BadInputError: an unknown architecture or tag, or no such folder.
    """
    folder = Path(name.removeprefix("local-dir:")).expanduser()
    if not folder.is_dir():
        if name.startswith("local-dir:"):
            raise BadInputError(f"--clip {name}: there is no such folder; check the path")
        repository = name.removeprefix("hf-hub:") if name.startswith("hf-hub:") else _clip_repository(name)
        folder = from_hub(repository, CLIP_FILES, "clip", download)
    return _complete(folder, "clip", "open_clip_config.json", "*.safetensors")


def _clip_repository(name: str) -> str:
    """The hub's repository of "ViT-B-32:openai"."""
    import open_clip

    architecture, _, tag = name.partition(":")
    tag = tag or DEFAULT_TAG
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if tag not in tags:
        known = f"known: {', '.join(tags)}" if tags else "nor that architecture; local-dir:<folder> names a folder"
        raise BadInputError(f"--clip {name}: open_clip does not know the weights {tag!r}; {known}")
    hub = str(open_clip.get_pretrained_cfg(architecture, tag).get("hf_hub", ""))
    if not hub:
        raise BadInputError(f"--clip {name}: these weights are on no hub; give them as local-dir:<folder>")
    return "/".join(hub.split("/")[:2])


def dino_folder(name: str, download: bool) -> Path:
    """A folder with timm's `config.json` and `model.safetensors`; the path of the latter means its folder.

    Raises:
        BadInputError: no such folder or model.
    """
    folder = Path(name.removeprefix("local-dir:")).expanduser()
    if folder.is_file():
        folder = folder.parent
    if not folder.is_dir():
        repository = name.removeprefix("hf-hub:")
        repository = repository if "/" in repository else f"timm/{repository}"
        folder = from_hub(repository, DINO_FILES, "dino", download)
    return _complete(folder, "dino", *DINO_FILES)


def identity_path(name: str, download: bool) -> Path:
    """One `.onnx` file, or the folder of an insightface pack: given itself, by its root, or by name.

    Raises:
        BadInputError: no such file, pack or folder, or several packs to choose from.
    """
    path = Path(name).expanduser()
    if path.is_file() and path.suffix == ".onnx":
        return path
    if not path.is_dir() and (path.suffix == ".onnx" or path.name != name):
        raise BadInputError(f"--identity {name} does not exist; give an .onnx file, a pack, its root or its name")
    folder = path if path.is_dir() else PACKS.expanduser() / name
    if not folder.is_dir():
        folder = _fetched_pack(name, folder, download)
    inside = (folder, *sorted(folder.glob("models/*")), *sorted(folder.glob("*")))
    packs = [place for place in inside if any(place.glob("*.onnx"))]
    if not packs:
        raise BadInputError(f"--identity {name}: {folder} holds no .onnx file; unzip a pack there")
    if len(packs) > 1:
        raise BadInputError(f"--identity {name}: {folder} holds {', '.join(p.name for p in packs)}; name one of them")
    return packs[0]


def _fetched_pack(name: str, folder: Path, download: bool) -> Path:
    if not download:
        raise BadInputError(
            f"--identity {name} is no insightface pack in {folder.parent}; put it there, or let insightface fetch it "
            "with --allow-download (packs are for non-commercial research only)"
        )
    from insightface.utils import ensure_available

    try:
        with redirect_stdout(sys.stderr):
            return Path(ensure_available("models", name))
    except Exception as error:  # requests, zipfile and insightface each raise their own
        text = " ".join(str(error).split())[:200]
        raise BadInputError(f"--identity {name}: insightface cannot fetch it ({text}); check the name") from error


def from_hub(repository: str, patterns: Sequence[str], option: str, download: bool) -> Path:
    """A repository of the Hugging Face hub as it lies in the cache, downloaded first if that is allowed.

    Raises:
        BadInputError: it is not in the cache and may not be, or cannot be, downloaded.
    """
    from huggingface_hub import snapshot_download

    try:
        local, wanted = not download, list(patterns)
        return Path(
            snapshot_download(repository, allow_patterns=wanted, ignore_patterns=UNREAD, local_files_only=local)
        )
    except (OSError, ValueError) as error:  # what the hub's errors derive from
        if download:
            text = " ".join(str(error).split())[:200]
            raise BadInputError(f"--{option}: {repository!r} is no folder, and cannot be fetched ({text})") from error
        raise BadInputError(
            f"--{option}: {repository!r} is neither a folder nor in the hub's cache here; check the path, or fetch it "
            "with --allow-download"
        ) from error


def _complete(folder: Path, option: str, *patterns: str) -> Path:
    for pattern in patterns:
        if not any(folder.glob(pattern)):
            raise BadInputError(f"--{option}: {folder} has no {pattern}; give a whole folder, with safetensors")
    return folder
