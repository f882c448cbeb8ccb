"""Two concepts in one image, side by side: drawn from one prompt, and region by region; every region is scored alone.

The layout is that of the prompt, so no region is guessed. With R_i the references of concept i and x_i the part of the
image in its box,

    region identity = cos(x_i, R_i),      leakage = cos(x_i, R_j),  j ≠ i,

both means over references, of identity embeddings and of CLIP's and DINO's where there are such judges. Strangers have
identity cosine 0, so leakage above 0 is the other concept showing through; a region without a face counts as 0 in both,
so read them beside the share of regions with a face. Any two images are alike to CLIP and DINO: read those against the
region's own. Where the world can draw the
same pair itself, its scenes are scored alike: what a model could reach.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bench.api import Value
from bench.personalise.shared import Learnt
from bench.personalise.studio import Update
from bench.regional import Box, Region
from bench.world.sampling import grid

if TYPE_CHECKING:
    from bench.tasks.images import ImageWorkshop

Pixels = NDArray[np.uint8]
MOST_PAIRS = 4
SIDE_BY_SIDE: tuple[Box, Box] = ((0.0, 0.0, 1.0, 0.5), (0.0, 0.5, 1.0, 1.0))  # left and right half
REGIONAL, PLAIN, DRAWN = "", "plain_", "world_"  # how a scene came about: what its metrics' names begin with


@dataclass(frozen=True)
class ScenePrompt:
    """What is asked for, with `{}` for subjects.

    Attributes:
        whole: of the image, with a place for each subject.
        part: of either region, with a place for its subject.
    """

    whole: str
    part: str


@dataclass(frozen=True)
class Scenes:
    """The images of two concepts that every method draws, from the same noise.

    Attributes:
        pairs: which two concepts, in the order of the boxes.
        prompts: one a pair.
        noise: of the images of each pair.
        count: images a pair.
        boxes: where the first and the second concept are.
        width: of the images in pixels; their height is the studio's size.
        drawn: the world's own scenes of the same pairs, (pairs, k, height, width, 3), or None.
    """

    pairs: tuple[tuple[int, int], ...]
    prompts: tuple[ScenePrompt, ...]
    noise: tuple[np.random.SeedSequence, ...]
    count: int
    boxes: tuple[Box, Box]
    width: int
    drawn: Pixels | None = None


def adjacent_pairs(concepts: int, most: int = MOST_PAIRS) -> tuple[tuple[int, int], ...]:
    """Concepts learnt one after the other, at most `most` pairs, from the first to the last evenly."""
    if concepts < 2:
        return ()
    first = np.unique(np.linspace(0, concepts - 2, min(most, concepts - 1)).round().astype(int))
    return tuple((int(i), int(i) + 1) for i in first)


def crop(images: Pixels, box: Box) -> Pixels:
    """The part of (n, H, W, 3) images that lies in a box."""
    height, width = images.shape[1:3]
    top, left, bottom, right = box
    return images[:, round(top * height) : round(bottom * height), round(left * width) : round(right * width)]


def compose(
    scenes: Scenes, learnt: Sequence[Learnt], update: Update, workshop: ImageWorkshop
) -> tuple[list[Value], Pixels]:
    """Draw and score all scenes with W0 + `update`.

    Returns:
        Scores of every region of every image, and a picture: one row a pair, one column a way to come about.
    """
    workshop.studio.show(update)
    values: list[Value] = []
    rows: list[Pixels] = []
    for number, pair in enumerate(scenes.pairs):
        found = draw_pair(scenes, number, learnt, workshop)
        if scenes.drawn is not None:
            found = {DRAWN: scenes.drawn[number], **found}
        for how, images in found.items():
            values += score_regions(images, pair, how, scenes, workshop)
        rows += [images[0] for images in found.values()]
    return values, grid(np.stack(rows), len(rows) // len(scenes.pairs))


def draw_pair(
    scenes: Scenes, number: int, learnt: Sequence[Learnt], workshop: ImageWorkshop
) -> dict[str, NDArray[np.uint8]]:
    """The images of one pair, (count, height, width, 3) each: from one prompt with two subjects, and by regions."""
    prompt, noise, studio = scenes.prompts[number], scenes.noise[number], workshop.studio
    # the untrained base's subject is "a person": the article has no place behind "left"
    subjects = [workshop.know(learnt[i]).removeprefix("a ") for i in scenes.pairs[number]]
    whole = [prompt.whole.format(*subjects)] * scenes.count
    regions = [Region(box, prompt.part.format(subject)) for box, subject in zip(scenes.boxes, subjects, strict=True)]
    return {
        PLAIN: studio.draw(whole, noise, width=scenes.width),
        REGIONAL: studio.draw(whole, noise, width=scenes.width, regions=regions),
    }


def score_regions(
    images: Pixels, pair: tuple[int, int], how: str, scenes: Scenes, workshop: ImageWorkshop
) -> Iterator[Value]:
    """Likeness to the own and to the other concept, face and context of both regions of every image."""
    judges, last = workshop.judges, len(workshop.concepts) - 1
    prompt = scenes.prompts[scenes.pairs.index(pair)]
    for box, (i, j) in zip(scenes.boxes, (pair, pair[::-1]), strict=True):
        part, scores = crop(images, box), {}
        if judges.identity:
            own = judges.identity.score(part, workshop.concepts[i].references)
            other = judges.identity.score(part, workshop.concepts[j].references)
            scores = {"region_identity": own.cosine, "leakage": other.cosine}
            if own.found is not None:
                scores["region_face_found"] = own.found.astype(np.float64)
        for name, judge in (("clip_image", judges.clip and judges.clip.image_alignment),
                            ("dino", judges.dino and judges.dino.alignment)):  # fmt: skip
            if judge:
                scores[f"region_{name}"] = judge(part, workshop.concepts[i].references)
                scores[f"leakage_{name}"] = judge(part, workshop.concepts[j].references)
        if judges.context:
            scores["region_context"] = judges.context(part, [prompt.part] * len(part))
        for metric, numbers in scores.items():
            for k, score in enumerate(numbers):
                yield Value(f"{how}{metric}", float(score), stage=last, concept=i, other=j, item=f"image {k}")
