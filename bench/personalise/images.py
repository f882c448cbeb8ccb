"""The images of a concept: which are trained on, which are held out as references, and how their captions read."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from seqlora.errors import BadInputError
from seqlora.files import check_name

Pixels = NDArray[np.uint8]
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
MAX_PIXELS = 64_000_000  # of one image: 192 MB decoded; a file of a few kilobytes can claim any number
SUBJECT = "{}"  # stands in a template for "<token> class"
PLACEHOLDER = re.compile(r"<[^<>\s]+>(?:\s+<[^<>\s]+>)*")  # "<new1>", "<TOK>", "<potter1> <potter2>"
TEMPLATES = ("a photo of {}", "a picture of {}", "a portrait of {}")


@dataclass(frozen=True)
class ConceptImages:
    """One concept before it is learnt.

    Attributes:
        name: letters, digits, `-`, `_`, `.`; also the name of its token, `<name>`.
        class_word: what kind of thing it is ("person", "cat").
        training: images to learn from, (n, H, W, 3) uint8.
        templates: for every training image, the captions that may go with it, with `{}` for the subject.
        references: held-out images of the same concept, (k, H, W, 3) uint8, never trained on.
        masks: where the concept is in each training image, (n, H, W) in [0, 1]; None for everywhere.
    """

    name: str
    class_word: str
    training: Pixels
    templates: tuple[tuple[str, ...], ...]
    references: Pixels
    masks: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        check_name(self.name, "concept")
        if not len(self.training) or len(self.templates) != len(self.training):
            raise BadInputError(f"concept {self.name!r} has no training images, or not one caption list an image")
        for template in {text for texts in self.templates for text in texts}:
            if SUBJECT not in template:
                raise BadInputError(f"concept {self.name!r}: caption {template!r} lacks {{}} for the concept's token")
            if set(template.replace(SUBJECT, "")) & set("{}"):
                raise BadInputError(f"concept {self.name!r}: caption {template!r} has braces besides {{}}; drop them")
        if self.masks is not None and self.masks.shape != self.training.shape[:3]:
            raise BadInputError(f"concept {self.name!r}: masks {self.masks.shape} do not fit the training images")

    @property
    def token(self) -> str:
        """The pseudo-word that means this concept."""
        return f"<{self.name}>"

    @property
    def subject(self) -> str:
        """What takes the place of `{}` in a template."""
        return f"{self.token} {self.class_word}"


def load_folder(
    folder: str | Path,
    size: int,
    class_word: str,
    held_out: int,
    templates: Sequence[str] = TEMPLATES,
    name: str | None = None,
    captions: Path | None = None,
    masks: Path | None = None,
) -> ConceptImages:
    """Read a folder of images in the DreamBooth layout.

    The last `held_out` images, by name, become references; if there are not enough for one more training image, all
    images but the first do. A subfolder `references` with images takes their place: then all others are trained on.

    Args:
        folder: one concept's images.
        size: they are cropped to their centre square and resized to size x size.
        class_word: what kind of thing it is.
        held_out: images that become references.
        templates: captions of an image without one of its own, with `{}` for the subject.
        name: of the concept; the folder's if not given.
        captions: folder of text files, each the caption of the image of its name; default: beside the images.
        masks: folder of pictures, each the mask of the image of its name; default: the subfolder `mask`.

    Raises:
        BadInputError: no such folder, too few images, an image that does not decode, or a mask of another size.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise BadInputError(f"{folder} is no folder; give one folder of images a concept")
    files, references = image_files(folder), image_files(folder / "references")
    if not references:
        if len(files) < 2:
            raise BadInputError(
                f"{folder} holds {len(files)} images; a concept needs two or more, one of them held out"
            )
        split = max(1, len(files) - held_out)
        files, references = files[:split], files[split:]
    if not files:
        raise BadInputError(f"{folder} holds references but no image to train on; add one or more beside them")
    return ConceptImages(
        folder.name if name is None else name,
        class_word,
        np.stack([read_image(path, size) for path in files]),
        tuple(_captions(path, captions or folder, templates) for path in files),
        np.stack([read_image(path, size) for path in references]),
        _masks(files, masks or folder / "mask", size),
    )


def image_files(folder: Path) -> list[Path]:
    """The images of a folder by name, hidden files left out; none if there is no folder."""
    if not folder.is_dir():
        return []
    files = (p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    return sorted(p for p in files if p.is_file())  # a pipe of that name would be waited for


def read_image(path: Path, size: int) -> Pixels:
    """Decode an image, turn it upright, crop its centre square and resize it: (size, size, 3) uint8 RGB.

    Raises:
        BadInputError: the file is no image, or a broken one.
    """
    image = _decoded(path)
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(square, dtype=np.uint8)


def _decoded(path: Path) -> Image.Image:
    """RGB, upright as the camera's EXIF tag says, transparent parts white."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is below Pillow's
            opened = Image.open(path)
        with opened:
            if opened.width * opened.height > MAX_PIXELS:
                raise ValueError(f"{opened.width} x {opened.height} pixels, more than {MAX_PIXELS}")
            image = ImageOps.exif_transpose(opened)
            if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
                image = image.convert("RGBA")
                return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
            return image.convert("RGB")
    except Exception as error:  # decoders of hostile files raise anything from KeyError to zlib.error
        raise BadInputError(f"{path} does not decode as an image ({error}); replace or remove it") from error


def _masks(files: Sequence[Path], folder: Path, size: int) -> NDArray[np.float32] | None:
    """One mask a training image, in [0, 1], or none for all of them."""
    masks = [folder / f"{path.stem}.png" for path in files]
    if not any(path.is_file() for path in masks):
        return None
    for path, mask in zip(files, masks, strict=True):
        if not mask.is_file():
            raise BadInputError(f"mask {mask} is missing; give every training image a mask, or none")
        if _decoded(mask).size != _decoded(path).size:
            raise BadInputError(f"mask {mask} has {_decoded(mask).size} pixels, its image {_decoded(path).size}")
    return np.stack([read_image(path, size)[..., 0] for path in masks]).astype(np.float32) / np.float32(255)


def _captions(image: Path, folder: Path, templates: Sequence[str]) -> tuple[str, ...]:
    """The image's own caption, pseudo-words in angle brackets standing for the concept, or the templates."""
    text = folder / f"{image.stem}.txt"
    if not text.is_file():
        return tuple(templates)
    try:
        return (PLACEHOLDER.sub(SUBJECT, text.read_text(encoding="utf-8").strip()),)
    except (OSError, UnicodeDecodeError) as error:
        raise BadInputError(f"caption {text} is no readable text ({error}); write it as UTF-8 or remove it") from error
