"""How folders of photographs are laid out: which concepts there are, what kind of thing each is, where its images lie.

    DreamBooth        <folder>/<concept>/*.jpg, class words in <concept>/class.txt or <folder>/prompts_and_classes.txt
    CustomConcept101  a JSON list of {instance_prompt, class_prompt, instance_data_dir, class_data_dir}
    Mix-of-Show       a JSON list of {instance_prompt, instance_data_dir, caption_dir, mask_dir}, or a folder of lists

Listing reads no image. `class_data_dir` (images for prior preservation) is not used: no method here has that term.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.personalise.images import (
    PLACEHOLDER,
    SUBJECT,
    TEMPLATES,
    ConceptImages,
    image_files,
    load_folder,
)
from seqlora.errors import BadInputError, StoredFileError
from seqlora.files import check_name, read_json, sha256_of

CLASS_FILE, CLASSES_FILE, LIST_FILE = "class.txt", "prompts_and_classes.txt", "dataset.json"
GENERIC_NAMES = ("image", "images", "img", "train")  # folders inside a concept's own
ARTICLES = re.compile(r"^(?:(?:a|an|the)\s+)?(?:photo|picture|image)\s+of\s+(?:(?:a|an|the)\s+)?|^(?:a|an|the)\s+")


@dataclass(frozen=True)
class ConceptSource:
    """One concept that is not read yet.

    Attributes:
        name: of the concept.
        class_word: what kind of thing it is.
        folder: its images.
        templates: captions of images without one of their own.
        captions: folder of captions; None: beside the images.
        masks: folder of masks; None: the subfolder `mask`.
    """

    name: str
    class_word: str
    folder: Path
    templates: tuple[str, ...] = TEMPLATES
    captions: Path | None = None
    masks: Path | None = None

    def files(self) -> list[Path]:
        """Every file that the concept is made of."""
        beside = [self.folder, self.folder / "references", self.captions, self.masks or self.folder / "mask"]
        found = {path for folder in beside if folder for path in image_files(folder)}
        texts = self.captions or self.folder
        found |= {text for path in image_files(self.folder) if (text := texts / f"{path.stem}.txt").is_file()}
        return sorted(found)

    def content(self) -> list[str]:
        """What decides the concept, for a hash: words, and names and SHA-256 of its files; where they lie does not."""
        files = [f"{path.parent.name}/{path.name} {sha256_of(path)}" for path in self.files()]
        return [self.name, self.class_word, *self.templates, *files]

    def load(self, size: int, held_out: float) -> ConceptImages:
        """Read the images; the share `held_out` of them, at least one, is kept as references."""
        count = max(1, round(held_out * len(image_files(self.folder))))
        words = (self.class_word, count, self.templates, self.name)
        return load_folder(self.folder, size, *words, self.captions, self.masks)


def concept_sources(place: str | Path, class_word: str = "") -> tuple[ConceptSource, ...]:
    """The concepts of a folder or of a JSON list, in the order of the list or by name.

    Args:
        place: a folder with a subfolder a concept; one that holds `dataset.json` or several JSON lists; a JSON list.
        class_word: of concepts that do not name theirs.

    Raises:
        BadInputError: no such place, no concept in it, a concept without images or class word, or two of one name.
    """
    place = Path(place).expanduser()
    if place.is_file():
        sources = _from_lists([place], class_word)
    elif not place.is_dir():
        raise BadInputError(f"{place} is neither a folder of photos nor a JSON list of concepts; check the path")
    elif (place / LIST_FILE).is_file():
        sources = _from_lists([place / LIST_FILE], class_word)
    elif folders := sorted(p for p in place.iterdir() if p.is_dir() and not p.name.startswith(".")):
        sources = _from_folders(place, [p for p in folders if image_files(p)] or folders, class_word)
    else:
        sources = _from_lists(sorted(place.glob("*.json")), class_word)
    if not sources:
        raise BadInputError(f"{place} is empty; give one subfolder of images a concept, or a JSON list of concepts")
    names = [source.name for source in sources]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise BadInputError(f"{place} has two concepts named {twice[0]!r}; rename one of their folders")
    return tuple(sources)


def _from_folders(place: Path, folders: Sequence[Path], default: str) -> list[ConceptSource]:
    classes = _classes(place / CLASSES_FILE, {folder.name for folder in folders})
    sources = []
    for folder in folders:
        check_name(folder.name, "concept folder")
        if not image_files(folder):
            raise BadInputError(f"{folder} holds no images; fill it or remove it")
        own = folder / CLASS_FILE
        word = text_of(own) if own.is_file() else classes.get(folder.name, default)
        if not word:
            raise BadInputError(
                f"{folder} has no class word; write what kind of thing it is into {own}, or say class_word=dog"
            )
        sources.append(ConceptSource(folder.name, word, folder))
    return sources


def _classes(path: Path, names: set[str]) -> dict[str, str]:
    """Lines "<concept>,<class>" of the DreamBooth dataset's text file; its other lines say something else."""
    if not path.is_file():
        return {}
    pairs = (line.partition(",") for line in text_of(path).splitlines())
    return {name.strip(): word.strip() for name, _, word in pairs if name.strip() in names and word.strip()}


def _from_lists(files: Sequence[Path], default: str) -> list[ConceptSource]:
    sources = []
    for file in files:
        try:
            entries = read_json(file)
        except StoredFileError as error:
            raise BadInputError(f"concept list: {error}") from error
        if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
            raise BadInputError(f"{file} is no concept list: a JSON list of objects with instance_data_dir is expected")
        sources += [_from_entry(entry, file, default) for entry in entries]
    return sources


def _from_entry(entry: Mapping[str, Any], file: Path, default: str) -> ConceptSource:
    """One object of a list, CustomConcept101's or Mix-of-Show's."""
    if not isinstance(entry.get("instance_data_dir"), str):
        raise BadInputError(
            f"{file}: an entry has no instance_data_dir; merge lists and pairs of concepts are not read"
        )
    folder = _located(entry["instance_data_dir"], file)
    if not image_files(folder):
        raise BadInputError(f"{folder} (in {file}) holds no images; check instance_data_dir")
    own = folder.parent if folder.name in GENERIC_NAMES else folder
    name = check_name(own.name, f"{file}: concept")
    word = str(entry.get("class_word") or ARTICLES.sub("", str(entry.get("class_prompt") or "")) or "")
    word = word or next((text_of(f / CLASS_FILE) for f in (folder, own) if (f / CLASS_FILE).is_file()), default)
    if not word:
        raise BadInputError(f"{file}: concept {name!r} has no class_prompt; add it, or say class_word=person")
    template = _template(entry.get("instance_prompt"), word, file)
    folders = (_located(entry[key], file) if entry.get(key) else None for key in ("caption_dir", "mask_dir"))
    return ConceptSource(name, word, folder, template, *folders)


def _template(prompt: Any, class_word: str, file: Path) -> tuple[str, ...]:
    """The instance prompt with `{}` for the pseudo-words (or DreamBooth's rare word) and the class word after them."""
    if not prompt:
        return TEMPLATES
    text = str(prompt)
    word = re.escape(class_word)
    for pattern in (rf"{PLACEHOLDER.pattern}(?:\s+{word}\b)?", rf"\b(?:sks|ktn)\s+{word}\b", rf"\b{word}\b"):
        changed, count = re.subn(pattern, SUBJECT, text, count=1)
        if count:
            return (changed,)
    if SUBJECT in text:
        return (text,)
    raise BadInputError(f"{file}: instance_prompt {text!r} names neither a <token> nor the class word {class_word!r}")


def _located(path: str, file: Path) -> Path:
    """A path of a list: absolute, or relative to the list's folder or to one above it (lists often lie deeper)."""
    candidates = [base / path for base in (file.parent, *file.parent.resolve().parents)]
    found = next((candidate for candidate in candidates if candidate.is_dir()), None)
    if found is None:
        raise BadInputError(f"{file}: folder {path!r} is neither beside the list nor above it; check instance_data_dir")
    return found


def text_of(path: Path) -> str:
    """A text file without the white space around it.

    Raises:
        BadInputError: it is not UTF-8, or cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInputError(f"{path} is no readable text ({error}); write it as UTF-8") from error
