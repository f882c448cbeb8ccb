"""The images of a concept: which are trained on, which are held out as references, and how their captions read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from seqlora.errors import BadInputError
from seqlora.files import check_name

Pixels = NDArray[np.uint8]
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
SUBJECT = "{}"  # stands in a template for "<token> class"
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
    folder: str | Path, size: int, class_word: str, held_out: int, templates: Sequence[str] = TEMPLATES
) -> ConceptImages:
    """Read a folder of images in the DreamBooth layout.

    A text file of the same name beside an image is its caption (with `{}` for the subject); a picture of the same
    name in a subfolder `mask` is its mask. The last `held_out` images, by name, become references; if there are not
    enough for one more training image, all images but the first do.

    Raises:
        BadInputError: no such folder, fewer than two images, or an image that does not decode.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise BadInputError(f"{folder} is no folder; give one folder of images a concept")
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if len(files) < 2:
        raise BadInputError(f"{folder} holds {len(files)} images; a concept needs two or more, one of them held out")
    split = max(1, len(files) - held_out)
    images = np.stack([read_image(path, size) for path in files])
    captions = tuple(_captions(path, templates) for path in files[:split])
    masks = [folder / "mask" / f"{path.stem}.png" for path in files[:split]]
    kept: NDArray[np.float32] | None = None
    if any(path.is_file() for path in masks):
        missing = [path for path in masks if not path.is_file()]
        if missing:
            raise BadInputError(f"mask {missing[0]} is missing; give every training image a mask, or none")
        kept = (np.stack([read_image(path, size)[..., 0] for path in masks]) / 255).astype(np.float32)
    return ConceptImages(folder.name, class_word, images[:split], captions, images[split:], kept)


def read_image(path: Path, size: int) -> Pixels:
    """Decode an image, crop its centre square and resize it: (size, size, 3) uint8 RGB.

    Raises:
        BadInputError: the file is no image, or a broken one.
    """
    try:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise BadInputError(f"{path} does not decode as an image ({error}); replace or remove it") from error
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(square, dtype=np.uint8)


def _captions(path: Path, templates: Sequence[str]) -> tuple[str, ...]:
    text = path.with_suffix(".txt")
    return (text.read_text(encoding="utf-8").strip(),) if text.is_file() else tuple(templates)
