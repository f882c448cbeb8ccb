"""A user's photographs on a user's Stable Diffusion, judged by the user's models, through the same `ImageTask.run`.

    python -m bench run --task photos:<folder> --base <diffusers folder> --clip <model> --identity <pack> --dino <model>

A cell's name ends in `content=<digest>`: of the photos, of every file of the models, and of what else moves numbers. So
cells on another base are other cells, and they are found again wherever the models lie (the photos' folder is part of
the name as it was written: a relative path is the same on every machine). Concepts, noise and prompts derive from the
photos alone: with another base or judge they stay the same, and trainings on one base are shared by all judges.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from bench.api import Cell, Context
from bench.composed import SIDE_BY_SIDE, ScenePrompt, Scenes, adjacent_pairs
from bench.methods.images.api import RATES
from bench.models import Models, load_pipeline, pipeline_hashes
from bench.options import canonical_name, with_options
from bench.personalise.folders import ConceptSource, concept_sources, text_of
from bench.personalise.images import SUBJECT, ConceptImages
from bench.personalise.learner import LAYERS, Budget, layers_of
from bench.personalise.shared import Training
from bench.personalise.studio import Studio
from bench.seeds import Seeds, concept_order
from bench.tasks.images import ImageTask, ImageWorkshop
from bench.tasks.photo_judges import faceless, load_judges
from seqlora.errors import BadInputError

CHECKED = 16  # pixels of photos that are decoded only to see whether they can be
PROMPTS_FILE = "prompts.txt"  # beside the concepts: one prompt a line, with {} for the concept
PROMPTS = (
    "a photo of {} in the snow",
    "a photo of {} on a beach",
    "a photo of {} in a forest",
    "a photo of {} on a city street at night",
    "a photo of {} in front of a brick wall",
    "a close-up photo of {}",
    "a photo of {} seen from above",
    "a watercolor painting of {}",
    "a pencil drawing of {}",
    "a black and white photo of {}",
)
SCENE = ScenePrompt("a photo of {} on the left and {} on the right, on a street", "a photo of {} on a street")


@dataclass(frozen=True)
class PhotoOptions:
    """The budget of every method, and how images are drawn. The rates are Mix-of-Show's for Stable Diffusion 1.x."""

    rank: int = 4
    steps: int = 500  # optimiser steps a concept
    batch: int = 2
    lora_rate: float = 1e-4
    token_rate: float = 1e-3
    layers: str = "attention"  # that are adapted; "transformer", "convolution": more of them, see `layers_of`
    held_out: float = 0.3  # share of a concept's photos that become references, unless it has a folder of them
    prompts: int = 10  # of the file `prompts.txt`, or of our own; one image each
    scenes: int = 1  # images a pair of concepts that are drawn together; 0: none
    sampler_steps: int = 30
    guidance: float = 7.5
    draw_batch: int = 4  # images at a time; it moves no number
    size: int = 0  # pixels; 0: what the model was made for
    class_word: str = ""  # of concepts that do not name theirs
    content: str = ""  # digest of photos and models

    def __post_init__(self) -> None:
        counts = (self.rank, self.steps, self.batch, self.prompts, self.sampler_steps, self.draw_batch)
        if (
            min(counts) < 1
            or min(self.size, self.scenes) < 0
            or not 0 < self.held_out < 1
            or min(self.lora_rate, self.token_rate) <= 0
            or self.layers not in LAYERS
        ):
            raise BadInputError(
                f"{self}: counts and rates must be positive, size and scenes not negative, held_out in (0, 1), "
                f"layers one of {', '.join(LAYERS)}"
            )


class PhotoTask(ImageTask):
    """The concepts of a folder, in its order.

    Args:
        place: folder or concept list, see `concept_sources`.
        options: the budget.
    """

    def __init__(self, place: str, options: PhotoOptions) -> None:
        self.place, self.options = place, options

    @property
    def name(self) -> str:
        """See `Task.name`; without a digest of its own, that of the embedded pipeline and no judge."""
        known = self.options if self.options.content else replace(self.options, content=self.content(Models()))
        return f"photos:{self.place},{canonical_name('', known, PhotoOptions()).lstrip(':')}"

    @cached_property
    def sources(self) -> tuple[ConceptSource, ...]:
        """The concepts, images not read yet."""
        if not self.place:
            raise BadInputError("task photos needs a folder: --task photos:<folder of photos>")
        return concept_sources(self.place, self.options.class_word)

    @cached_property
    def prompts(self) -> tuple[str, ...]:
        """What every concept is drawn with."""
        return read_prompts(Path(self.place).expanduser())[: self.options.prompts]

    @cached_property
    def photos(self) -> str:
        """Digest of the photos, their words and the prompts."""
        return _digest([source.content() for source in self.sources], self.prompts)

    def content(self, models: Models) -> str:
        """Digest of everything besides the other options that decides a cell's numbers."""
        return _digest(self.photos, models.weights(), models.dtype, models.threshold)[:12]

    def max_concepts(self) -> int:
        """Concepts in the folder."""
        return len(self.sources)

    def workshop(self, cell: Cell, context: Context) -> ImageWorkshop:
        """See `ImageTask.workshop`.

        Raises:
            BadInputError: the photos or the models are not those that the cell was planned with.
        """
        models = Models.of(context.options)
        if self.options.content and self.content(models) != self.options.content:
            raise BadInputError(
                f"photos, models or settings are not those of content={self.options.content}; give the same --base, "
                f"--clip, --identity, --dino, --dtype and --threshold, or name the task without its content"
            )
        return _workshop(self, models, cell.n_concepts, cell.order, cell.seed, context.shared)

    def origin(self) -> tuple[dict[str, Any], dict[str, str]]:
        """See `ImageTask.origin`; the weights are the workshop's."""
        return vars(self.options).copy(), {}


def photos(text: str) -> PhotoTask:
    """The task "photos": a folder, then options as in `PhotoOptions`."""
    place, _, options = text.partition(",")
    return PhotoTask(str(Path(place)) if place else "", with_options(PhotoOptions(), options, "task photos"))


def planned(text: str, options: Mapping[str, str]) -> str:
    """The canonical name of the task on the models that the command line names; every photo is decoded once.

    Raises:
        BadInputError: no model would judge the images, one of them is not there, or a photo or caption is broken.
    """
    task, models = photos(text), Models.of(options)
    if task.options.content:
        return task.name
    if not (models.clip or models.identity or models.dino):
        raise BadInputError("nothing would judge the images of photos; give --clip, --identity or --dino")
    for source in task.sources:
        source.load(CHECKED, task.options.held_out)
    return PhotoTask(task.place, replace(task.options, content=task.content(models))).name


def read_prompts(place: Path) -> tuple[str, ...]:
    """The prompts beside the concepts, or our own.

    Raises:
        BadInputError: the file holds no prompt, or one without a place for the concept.
    """
    file = (place if place.is_dir() else place.parent) / PROMPTS_FILE
    if not file.is_file():
        return PROMPTS
    lines = tuple(line.strip() for line in text_of(file).splitlines() if line.strip())
    if not lines or any(line.count(SUBJECT) != 1 or set(line.replace(SUBJECT, "")) & set("{}") for line in lines):
        raise BadInputError(f"{file}: every line is a prompt with one {{}} for the concept; mend or remove it")
    return lines


@lru_cache(maxsize=1)
def _workshop(task: PhotoTask, models: Models, n_concepts: int, order: int, seed: int, shared: Path) -> ImageWorkshop:
    """Neighbouring cells differ in their method only: photos, models and shared images are kept."""
    options, folder = task.options, models.base_folder
    seeds = Seeds.of(f"photos:{task.photos}", n_concepts, order, seed)

    def load() -> Any:
        return load_pipeline(folder, models.device)

    pipeline = load()
    size = image_size(pipeline, options.size)
    chosen = concept_order(task.photos, len(task.sources), n_concepts, order)
    concepts = tuple(task.sources[i].load(size, options.held_out) for i in chosen)
    check_lengths(pipeline, concepts, task.prompts, (SCENE.whole,) if options.scenes else ())
    judges, notes = load_judges(models, task.sources, size, options.held_out)
    notes = {**notes, **faceless(judges, concepts)}
    budget = Budget(options.steps, options.batch, models.dtype == "bfloat16", models.checkpointing)
    return ImageWorkshop(
        Training(
            base=_digest(pipeline_hashes(folder)),
            concepts=concepts,
            seeds=tuple(seeds.sequence("training", j) for j in range(n_concepts)),
            budget=budget,
            shared=shared,
        ),
        load,
        Studio(pipeline, size, options.sampler_steps, options.guidance, options.draw_batch, budget.bfloat16),
        judges,
        task.prompts,
        tuple(seeds.sequence("evaluation", 1, j) for j in range(n_concepts + 1)),
        options.rank,
        int(seeds.rng("initialisation").integers(2**31)),
        {
            "coefficient_learning_rate": options.lora_rate,
            "extra_learning_rate": options.token_rate,
            # Mix-of-Show has no learned bases: as fast beside B as in the embedded world, where both rates were tuned
            "basis_learning_rate": options.lora_rate
            * RATES["basis_learning_rate"]
            / RATES["coefficient_learning_rate"],
        },
        {"size": size, "dtype": models.dtype, **notes},
        models.weights(),
        scenes_of(n_concepts, options.scenes, size, seeds),
        layers_of(options.layers, pipeline.unet),
    )


def scenes_of(n_concepts: int, count: int, size: int, seeds: Seeds) -> Scenes | None:
    """Two concepts side by side, for neighbours in the order of learning; None for fewer than two."""
    pairs = adjacent_pairs(n_concepts)
    if not (pairs and count):
        return None
    noise = tuple(seeds.sequence("evaluation", 2, number) for number in range(len(pairs)))
    return Scenes(pairs, (SCENE,) * len(pairs), noise, count, SIDE_BY_SIDE, 2 * size)


def image_size(pipeline: Any, wanted: int) -> int:
    """Side of the images in pixels: as wanted, or what the UNet was made for.

    Raises:
        BadInputError: the network cannot halve such images as often as it must.
    """
    factor = int(pipeline.vae_scale_factor)
    sample = pipeline.unet.config.sample_size
    side = wanted or factor * int(sample if isinstance(sample, int) else sample[0])
    unit = factor * 2 ** (len(pipeline.unet.config.block_out_channels) - 1)
    if side % unit:
        raise BadInputError(f"size={side} does not suit this base; give a multiple of {unit} pixels")
    return side


def check_lengths(
    pipeline: Any, concepts: Sequence[ConceptImages], prompts: Sequence[str], scenes: Sequence[str] = ()
) -> None:
    """Refuse captions that the text encoder would cut, perhaps before the concept's words.

    Raises:
        BadInputError: which caption is too long.
    """
    limit = pipeline.tokenizer.model_max_length
    for concept in concepts:
        for text in {*prompts, *scenes, *(text for texts in concept.templates for text in texts)}:
            # a concept has two words at most, a token each
            words = text.format(*[f"a a {concept.class_word}"] * text.count(SUBJECT))
            length = len(pipeline.tokenizer(words).input_ids)
            if length > limit:
                raise BadInputError(
                    f"concept {concept.name!r}: {text!r} has {length} tokens, of which {limit} are read; cut it"
                )


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=list).encode()).hexdigest()
