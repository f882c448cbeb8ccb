"""Drawn figures, cached on disk in shards, and the endless batches that trainings take from them.

Only the figures are stored; walls, shifts and captions are chosen when a batch is made, so a stored figure gives many
different training images. The cache lies outside the repository (`$SEQLORA_CACHE`, or `~/.cache/seqlora`); every shard
is written atomically and drawn from its own generator, so an interrupted drawing goes on where it stopped.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.progress import track

from bench.world.attributes import VALUES
from bench.world.captions import random_caption
from bench.world.identities import (
    Context,
    Identity,
    sample_base_identity,
    sample_context,
    sample_identity,
    visible_attributes,
)
from bench.world.portraits import CANVAS, SIZE, background, compose, crop, draw_figure
from bench.world.splits import listed
from seqlora.files import atomic_write, read_json, write_json

DATA_VERSION = 1  # raise it when a drawing or the vocabulary changes: caches and weights are tied to it
SHARD = 1000  # figures a file


@dataclass(frozen=True)
class PoolSpec:
    """A set of figures: how many, and who may be in it."""

    name: str
    size: int
    entropy: int
    draw_person: Callable[[np.random.Generator], Identity]
    per_person: int = 1


def _sample_unlisted(rng: np.random.Generator) -> Identity:
    while (identity := sample_identity(rng)) in listed():
        pass
    return identity


# base: what the diffusion model, CLIP and the classifier learn from; people: what the identity encoder learns from.
# held-out: unseen drawings of base identities, for the check.
POOLS: dict[str, PoolSpec] = {
    spec.name: spec
    for spec in (
        PoolSpec("base", 24_000, 1, sample_base_identity),
        PoolSpec("people", 24_000, 2, _sample_unlisted, per_person=8),
        PoolSpec("held-out", 1_000, 3, sample_base_identity),
    )
}


def cache_folder() -> Path:
    """Where drawn figures and checkpoints are kept: `$SEQLORA_CACHE`, or `~/.cache/seqlora`."""
    root = os.environ.get("SEQLORA_CACHE")
    return Path(root) if root else Path.home() / ".cache" / "seqlora"


class FigurePool:
    """Figures with their identities and contexts, memory-mapped.

    Args:
        people: who is in figure i.
        contexts: clothes and mood of figure i.
        shards: uint8 arrays (n_s, 72, 72, 4); figure i lies in shard i // SHARD.
    """

    def __init__(self, people: list[Identity], contexts: list[Context], shards: list[np.ndarray]) -> None:
        self.people, self.contexts, self.shards = people, contexts, shards
        self.shown = [visible_attributes(p, c) for p, c in zip(people, contexts, strict=True)]

    def __len__(self) -> int:
        return len(self.people)

    def figures(self, indices: np.ndarray) -> np.ndarray:
        """(n, 72, 72, 4) uint8 figures."""
        return np.stack([self.shards[i // SHARD][i % SHARD] for i in indices])

    def portraits(self, indices: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, list[dict[str, str]]]:
        """Lay figures over random walls at random shifts.

        Returns:
            (n, 64, 64, 3) uint8 images, and what each one shows (attribute name -> word).
        """
        images = np.empty((len(indices), SIZE, SIZE, 3), np.uint8)
        shown = []
        for row, index in enumerate(indices):
            wall = {name: VALUES[name][rng.integers(len(VALUES[name]))] for name in ("background", "pattern")}
            shift = (int(rng.integers(-2, 3)), int(rng.integers(-2, 3)))
            figure = crop(self.shards[index // SHARD][index % SHARD], shift)
            images[row] = compose(figure, background(wall["background"], wall["pattern"]))
            shown.append({**self.shown[index], **wall})
        return images, shown

    def batch(self, rng: np.random.Generator, size: int) -> tuple[np.ndarray, list[str]]:
        """Random portraits with training captions."""
        images, shown = self.portraits(rng.integers(len(self), size=size), rng)
        return images, [random_caption(attributes, rng) for attributes in shown]


def labels(shown: list[dict[str, str]]) -> np.ndarray:
    """(n, 11) int64 class numbers in the order of `VALUES`; -1 where an attribute cannot be seen or has no word."""
    return np.array([[VALUES[name].index(s[name]) if name in s else -1 for name in VALUES] for s in shown])


def _draw_shard(spec: PoolSpec, number: int, folder: Path) -> None:
    size = min(SHARD, spec.size - number * SHARD)
    rng = np.random.default_rng([DATA_VERSION, spec.entropy, number])
    drawn = [spec.draw_person(rng) for _ in range(-(-size // spec.per_person))]
    people = [person for person in drawn for _ in range(spec.per_person)]
    contexts = [sample_context(rng) for _ in range(size)]
    figures = np.empty((size, CANVAS, CANVAS, 4), np.uint8)
    for row, (person, context) in enumerate(zip(people, contexts, strict=False)):
        figures[row] = draw_figure(person, context)
    with atomic_write(folder / f"figures-{number:03d}.npy") as path, path.open("wb") as file:
        np.save(file, figures, allow_pickle=False)
    write_json(
        folder / f"figures-{number:03d}.json",
        {"people": [p.key for p in people[:size]], "contexts": [json.dumps(asdict(c)) for c in contexts]},
    )


def load_pool(name: str, size: int | None = None) -> FigurePool:
    """Open a pool of figures, drawing the shards that are missing (about 7 ms a figure).

    Args:
        name: one of `POOLS`.
        size: use only the first `size` figures (rounded up to whole shards).
    """
    spec = POOLS[name]
    folder = cache_folder() / f"figures-v{DATA_VERSION}" / name
    numbers = range(-(-min(size or spec.size, spec.size) // SHARD))
    missing = [n for n in numbers if not (folder / f"figures-{n:03d}.json").is_file()]
    for number in track(missing, description=f"drawing {name}", disable=not missing):
        _draw_shard(spec, number, folder)
    people: list[Identity] = []
    contexts: list[Context] = []
    shards = []
    for number in numbers:
        record = read_json(folder / f"figures-{number:03d}.json")
        people += [Identity.from_key(key) for key in record["people"]]
        for text in record["contexts"]:
            fields = json.loads(text)
            contexts.append(Context(**{**fields, "shift": tuple(fields["shift"])}))
        shards.append(np.load(folder / f"figures-{number:03d}.npy", mmap_mode="r", allow_pickle=False))
    return FigurePool(people, contexts, shards)
