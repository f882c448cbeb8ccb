"""The embedded diffusion world as a sequence of people to learn."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from numpy.typing import NDArray

from bench.api import Cell, Context
from bench.composed import ScenePrompt, Scenes, adjacent_pairs
from bench.disturbance import disturb_weights, disturbance, stream
from bench.methods.images.api import RATES
from bench.metrics.clip import ClipJudge
from bench.metrics.identity import IdentityJudge
from bench.models import without_bars
from bench.options import canonical_name, with_options
from bench.personalise.images import ConceptImages
from bench.personalise.learner import LAYERS, Budget, layers_of
from bench.personalise.shared import Training
from bench.personalise.studio import Studio
from bench.seeds import Seeds, concept_order
from bench.tasks.images import ImageTask, ImageWorkshop, Judges
from bench.world import assets
from bench.world.attributes import CONTEXT_FIELDS, VALUES
from bench.world.captions import CLASS_WORD, caption, scene_caption
from bench.world.identities import Context as Circumstances
from bench.world.identities import Identity, sample_context, visible_attributes
from bench.world.portraits import SIZE, draw
from bench.world.scenes import BOXES, WIDTH, Scene, draw_scene, same_wall
from bench.world.splits import SIZES, identities
from bench.world.verification import load_encoder
from seqlora.errors import BadInputError

JUDGED = ("background", "clothing_color")  # what "context follows the prompt" looks at


@dataclass(frozen=True)
class PortraitOptions:
    """The budget of every method, and how images are drawn and judged."""

    rank: int = 4
    steps: int = 250  # optimiser steps a concept
    batch: int = 8
    images: int = 6  # training images a concept
    references: int = 6  # held-out images a concept
    prompts: int = 8  # contexts that every concept is drawn in, one image each
    sampler_steps: int = 20
    guidance: float = 3.0
    scenes: int = 2  # images a pair of concepts that are drawn together; 0: none
    split: str = "evaluation"
    start_batches: int = RATES["start_batches"]  # that bases start from, and that the penalty remembers a concept by
    layers: str = "attention"  # that are adapted; "transformer", "convolution": more of them, see `layers_of`
    bfloat16: bool = False

    def __post_init__(self) -> None:
        counts = (self.rank, self.steps, self.batch, self.images, self.references, self.prompts, self.sampler_steps,
                  self.start_batches)  # fmt: skip
        if min(counts) < 1 or self.scenes < 0 or self.split not in SIZES or self.layers not in LAYERS:
            raise BadInputError(
                f"{self}: all counts must be positive, split one of {', '.join(SIZES)}, layers of {', '.join(LAYERS)}"
            )


class PortraitTask(ImageTask):
    """People of one split, in the order of the list.

    Args:
        options: the budget.
    """

    def __init__(self, options: PortraitOptions) -> None:
        self.options = options

    @property
    def name(self) -> str:
        """See `Task.name`."""
        return canonical_name("portraits", self.options, PortraitOptions())

    def max_concepts(self) -> int:
        """People in the split."""
        return SIZES[self.options.split]

    def workshop(self, cell: Cell, context: Context) -> ImageWorkshop:
        """See `ImageTask.workshop`."""
        which = disturbance(context.options)
        device = context.options.get("device", "cpu")
        axes = (self.options, self.name, cell.n_concepts, cell.order, context.seeds, context.shared)
        return _cached_workshop(*axes, which, device)

    def origin(self) -> tuple[dict[str, Any], dict[str, str]]:
        """See `ImageTask.origin`."""
        files = assets.manifest()["files"]
        return vars(self.options).copy(), {f"world/{name}": str(entry["sha256"]) for name, entry in files.items()}


def pipeline_digest() -> str:
    """Hash over every file of the pipeline: a training depends on tokenizer, text encoder and autoencoder as well."""
    files = assets.manifest()["files"]
    lines = [f"{name} {files[name]['sha256']}" for name in sorted(files) if name.startswith(f"{assets.PIPELINE}/")]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def portraits(options: str) -> PortraitTask:
    """The task "portraits", with options as in `PortraitOptions`."""
    return PortraitTask(with_options(PortraitOptions(), options, "task portraits"))


def concept_images(name: str, person: Identity, options: PortraitOptions, rng: np.random.Generator) -> ConceptImages:
    """Draw a person in random contexts. An image's caption names its context, or nothing but the person."""
    contexts = [sample_context(rng) for _ in range(options.images + options.references)]
    drawn = np.stack([draw(person, circumstances) for circumstances in contexts])
    bare = "a photo of {}"
    texts = tuple((context_template(person, one), bare) for one in contexts[: options.images])
    return ConceptImages(name, CLASS_WORD, drawn[: options.images], texts, drawn[options.images :])


def context_template(person: Identity, circumstances: Circumstances) -> str:
    """A caption with `{}` for the person that names the context only."""
    shown = visible_attributes(person, circumstances)
    return caption({name: word for name, word in shown.items() if name in CONTEXT_FIELDS}, subject="{}")


def asked_context(template: str) -> dict[str, str]:
    """The judged words of a caption "... [wearing a red hoodie] on a striped blue background"."""
    asked = {"background": template.split()[-2]}
    _, _, clothes = template.partition("wearing a ")
    return {**asked, "clothing_color": clothes.split()[0]} if clothes else asked


def prompt_templates(count: int, rng: np.random.Generator) -> tuple[str, ...]:
    """Prompts that every concept is drawn with: clothes, colours and walls."""
    contexts = [sample_context(rng) for _ in range(count)]
    named = ("clothing_color", "clothing", "pattern", "background")
    return tuple(caption({name: getattr(c, name) for name in named}, subject="{}") for c in contexts)


def scenes_of(people: Sequence[Identity], count: int, seeds: Seeds) -> Scenes | None:
    """Two people a scene in front of one wall, for neighbours in the order of learning; None for fewer than two."""
    pairs = adjacent_pairs(len(people))
    if not (pairs and count):
        return None
    prompts, drawn = [], []
    for number, (i, j) in enumerate(pairs):
        rng = seeds.rng("evaluation", 2, number)
        wall = sample_context(rng)
        named = {"pattern": wall.pattern, "background": wall.background}
        whole = scene_caption({}, {}, named).replace(CLASS_WORD, "{}")  # "left {} and right {} on a ... background"
        prompts.append(ScenePrompt(whole, caption(named, subject="{}")))
        contexts = [[same_wall(wall, sample_context(rng)) for _ in range(2)] for _ in range(count)]
        drawn.append([draw_scene(Scene(people[i], people[j], *sides)) for sides in contexts])
    noise = tuple(seeds.sequence("evaluation", 3, number) for number in range(len(pairs)))
    return Scenes(pairs, tuple(prompts), noise, count, (BOXES["left"], BOXES["right"]), WIDTH, np.array(drawn))


@lru_cache(maxsize=1)
def _cached_workshop(
    options: PortraitOptions,
    task: str,
    n_concepts: int,
    order: int,
    seeds: Seeds,
    shared: Path,
    disturbed: int,
    device: str,
) -> ImageWorkshop:
    """Neighbouring cells differ in their method only: data, models and shared images are kept."""
    chosen = concept_order(task, SIZES[options.split], n_concepts, order)
    people = identities(options.split)
    concepts = tuple(
        concept_images(f"person{i}", people[i], options, seeds.rng("data", position))
        for position, i in enumerate(chosen)
    )

    def load() -> StableDiffusionPipeline:
        pipeline: Any = load_pipeline()
        if disturbed:
            disturb_weights(pipeline.unet, stream(seeds, disturbed))
        return pipeline.to(device)

    training = Training(
        base=f"{pipeline_digest()} disturbed {disturbed}" if disturbed else pipeline_digest(),
        concepts=concepts,
        seeds=tuple(seeds.sequence("training", j) for j in range(n_concepts)),
        budget=Budget(options.steps, options.batch, options.bfloat16),
        shared=shared,
    )
    studio = Studio(load(), SIZE, options.sampler_steps, options.guidance)
    return ImageWorkshop(
        training,
        load,
        studio,
        load_judges(),
        prompt_templates(options.prompts, seeds.rng("evaluation", 0)),
        tuple(seeds.sequence("evaluation", 1, j) for j in range(n_concepts + 1)),
        options.rank,
        int(seeds.rng("initialisation").integers(2**31)),
        {"start_batches": options.start_batches},
        scenes=scenes_of([people[i] for i in chosen], options.scenes, seeds),
        layers=layers_of(options.layers, studio.pipeline.unet),
    )


def load_pipeline() -> StableDiffusionPipeline:
    """The embedded Stable Diffusion in float32, checked against its manifest."""
    with without_bars():
        return StableDiffusionPipeline.from_pretrained(
            assets.pipeline_folder(), use_safetensors=True, dtype=torch.float32, safety_checker=None
        )


@lru_cache(maxsize=1)
def load_judges() -> Judges:
    """The embedded world's judges."""
    classifier, detector = assets.classifier(), assets.face_score()

    def context(images: NDArray[np.uint8], templates: Sequence[str]) -> NDArray[np.float64]:
        predicted = classifier.predict(images)
        read = {name: [VALUES[name][k] for k in predicted[name]] for name in JUDGED}
        right = [
            np.mean([read[name][row] == word for name, word in asked_context(text).items()])
            for row, text in enumerate(templates)
        ]
        return np.array(right)

    encoder = load_encoder(assets.identity_model())
    identity = IdentityJudge(encoder, assets.identity_threshold(), detector.found)
    return Judges(identity, ClipJudge(f"local-dir:{assets.clip_folder()}"), context)
