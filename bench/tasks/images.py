"""How any image task runs a cell: train (or fetch) the concepts, then after each stage draw and judge every concept."""

from __future__ import annotations

import hashlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from bench.api import Cell, CellResult, Context, MetricMatrix, Scalar, Value
from bench.composed import Scenes, adjacent_pairs, compose
from bench.methods import load_method
from bench.methods.images.api import ImageMethod, weighted_sum
from bench.methods.images.asked import asked_training
from bench.metrics.clip import ClipJudge, drift
from bench.metrics.dino import DinoJudge
from bench.metrics.energies import (
    fisher_energy,
    forgetting_energies,
    geometry,
    prediction_changes,
    update_changes,
)
from bench.metrics.guarantees import guarantees
from bench.metrics.identity import Recognises
from bench.personalise.batches import ConceptBatches
from bench.personalise.denoiser import scaled_prediction
from bench.personalise.images import ConceptImages
from bench.personalise.learner import UNET_ATTENTION
from bench.personalise.shared import MOMENT_BATCHES, Learnt, Training, TrainingOptions
from bench.personalise.studio import Studio, Update
from bench.personalise.tokens import PLAIN_WORD, WordStyle
from bench.world.sampling import grid
from seqlora import SeqLoRAConfig
from seqlora.files import write_json

Pixels = NDArray[np.uint8]

# Core-seconds of the embedded world on an AMD EPYC without AVX-512 (with it about half): an image of a training batch,
# with what methods gather before and after; and an image at one step of the sampler, with guidance and judgement.
LEARNING, DRAWING = 0.08, 0.055
CONVOLUTIONS = 1.6  # times as much to learn where they are adapted, too


@dataclass(frozen=True)
class Judges:
    """Who scores the images. A judge that there is not leaves its metrics out of the results.

    Attributes:
        identity: same person or not.
        clip: text and image alignment, and drift.
        context: (images, prompt templates) -> share of right context attributes an image, (n,).
        dino: image alignment by self-supervised features.
    """

    identity: Recognises | None = None
    clip: ClipJudge | None = None
    context: Callable[[Pixels, Sequence[str]], NDArray[np.float64]] | None = None
    dino: DinoJudge | None = None


@dataclass
class ImageWorkshop:
    """The data and models of the cells that differ in their method only (see `bench.methods.images.Workshop`).

    Attributes:
        prompts: templates that every concept is drawn with.
        layers: regular expression of the UNet's layers that are adapted.
        rates: see `Workshop.rates`.
        notes: settings of the result that data and models decide.
        weights: name -> SHA-256 of the files that were used.
        scenes: images of two concepts to draw after the last stage, or None.
        drawn: scores and images by content of model, token and concept: what several methods share is drawn once.
    """

    training: Training
    load: Callable[[], Any]
    studio: Studio
    judges: Judges
    prompts: tuple[str, ...]
    noise: tuple[np.random.SeedSequence, ...]
    rank: int
    seed: int
    rates: Mapping[str, Any] = field(default_factory=dict)
    notes: Mapping[str, Scalar] = field(default_factory=dict)
    weights: Mapping[str, str] = field(default_factory=dict)
    scenes: Scenes | None = None
    layers: str = UNET_ATTENTION
    drawn: dict[str, tuple[dict[str, NDArray[np.float64]], Pixels]] = field(default_factory=dict)

    @property
    def concepts(self) -> tuple[ConceptImages, ...]:
        """What is learnt."""
        return self.training.concepts

    @property
    def names(self) -> tuple[str, ...]:
        """See `Workshop.names`."""
        return tuple(concept.name for concept in self.concepts)

    @cached_property
    def pictures(self) -> list[Value]:
        """Training images judged like drawn ones, once for all methods: even pictures of one person do not reach 1."""
        judge = self.judges.identity
        if judge is None:
            return []
        scores = [judge.score(concept.training, concept.references).cosine.mean() for concept in self.concepts]
        return [Value("identity_real", float(score), concept=j) for j, score in enumerate(scores)]

    @cached_property
    def untouched(self) -> NDArray[np.float64]:
        """What CLIP sees of the base model's own images, once for all methods; see `seen`."""
        return self.seen({})

    def seen(self, update: Update) -> NDArray[np.float64]:
        """CLIP features of what W0 + `update` draws of the class word, (prompts, d)."""
        assert self.judges.clip is not None
        self.studio.show(update)
        prompts = [text.format(f"a {self.concepts[0].class_word}") for text in self.prompts]
        return self.judges.clip.images(self.studio.draw(prompts, self.noise[-1]))

    def trained(self, config: SeqLoRAConfig, **options: Unpack[TrainingOptions]) -> list[Learnt]:
        """See `Workshop.trained`."""
        return self.training.run(config, self.load, **options)

    def words(self, rate: float, style: WordStyle = PLAIN_WORD) -> list[Learnt]:
        """See `Workshop.words`."""
        return self.training.run_words(rate, self.load, style)

    def know(self, learnt: Learnt) -> str:
        """See `Workshop.know`; a concept without an embedding is spoken of by its class word."""
        concept = self.concepts[self.names.index(learnt.name)]
        if not learnt.token.numel():
            return f"a {concept.class_word}"
        return self.studio.know(concept.token, concept.class_word, learnt.token)

    def judge(self, update: Update, learnt: Learnt) -> tuple[dict[str, NDArray[np.float64]], Pixels]:
        """Draw one concept with W0 + `update` and score it: metric -> one number an image, and the images."""
        key = _content(update, learnt)
        if key not in self.drawn:
            j = self.names.index(learnt.name)
            concept, subject = self.concepts[j], self.know(learnt)
            self.studio.show(update)
            prompts = [text.format(subject) for text in self.prompts]
            images = self.studio.draw(prompts, self.noise[j], concept.token if learnt.token.numel() else "")
            self.drawn[key] = (self._scores(images, concept), images)
        return self.drawn[key]

    @torch.no_grad()
    def predictions(self, updates: Sequence[Update], learnt: Learnt) -> Iterator[Tensor]:
        """√w f on the batches that a concept's moments come from, with W0 + each update: (images, c, h, w) float32."""
        j, subject, denoiser = self.names.index(learnt.name), self.know(learnt), self.studio.denoiser
        seed, size = self.training.seeds[j], self.training.budget.batch
        batches = list(ConceptBatches(self.studio.pipeline, self.concepts[j], MOMENT_BATCHES, size, seed, subject))
        for update in updates:
            self.studio.show(update)
            with self.studio.speaking([subject]):
                yield torch.cat([scaled_prediction(denoiser, batch, denoiser(batch)) for batch in batches])

    def _scores(self, images: Pixels, concept: ConceptImages) -> dict[str, NDArray[np.float64]]:
        judges = self.judges
        scores: dict[str, NDArray[np.float64]] = {}
        if judges.identity:
            scores |= judges.identity.score(images, concept.references).metrics()
        if judges.clip:
            plain = [text.format(f"a {concept.class_word}") for text in self.prompts]
            scores["clip_text"] = judges.clip.text_alignment(images, plain)
            scores["clip_image"] = judges.clip.image_alignment(images, concept.references)
        if judges.dino:
            scores["dino"] = judges.dino.alignment(images, concept.references)
        if judges.context:
            scores["context"] = judges.context(images, self.prompts)
        return scores


class ImageTask(ABC):
    """A task of the family "images"."""

    family = "images"
    options: Any  # a dataclass with rank, steps, batch, layers, prompts, scenes and sampler_steps

    def estimate(self, cell: Cell) -> float:
        """See `Task.estimate`: drawing, as if every base were the embedded one."""
        o, T = self.options, cell.n_concepts
        scenes = 4 * len(adjacent_pairs(T)) * o.scenes  # each as wide as two images, drawn twice
        return DRAWING * (T * (T + 5) / 2 * o.prompts + scenes) * o.sampler_steps

    def shared(self, cell: Cell) -> tuple[str, float]:
        """See `SharesWork.shared`: the training."""
        o, method = self.options, load_method(self.family, cell.method)[1]
        what = asked_training(method, o.rank, ("",) * cell.n_concepts, o.layers)
        rate = LEARNING * (CONVOLUTIONS if o.layers == "convolution" else 1.0)
        seconds = rate * cell.n_concepts * o.steps * o.batch if what else 0.0
        return f"{cell.task} {cell.n_concepts} {cell.order} {cell.seed} {what}", seconds

    @abstractmethod
    def workshop(self, cell: Cell, context: Context) -> ImageWorkshop:
        """Data and models of a cell, whatever its method."""

    @abstractmethod
    def origin(self) -> tuple[dict[str, Any], dict[str, str]]:
        """Settings that all methods share, and SHA-256 of the weights."""

    def run(self, cell: Cell, method: ImageMethod, context: Context) -> CellResult:
        """See `Task.run`."""
        workshop = self.workshop(cell, context)
        learnt = method.train(workshop)
        started = time.perf_counter()
        stages = list(method.stages(learnt, workshop))
        merging = time.perf_counter() - started
        matrices, values, sheet = measure(method, learnt, stages, workshop)
        matrices += [*forgetting_energies(stages, learnt), *fisher_energy(stages, learnt), update_changes(stages)]
        matrices += prediction_changes(stages, learnt, workshop.predictions)
        values += [*geometry(learnt), *_drift(workshop, stages[-1])]
        context.artifacts.mkdir(parents=True, exist_ok=True)
        Image.fromarray(sheet).save(context.artifacts / "gallery.png")
        write_json(context.artifacts / "training.json", learnt[0].training)  # for `python -m bench export`
        artifacts = {"gallery": "gallery.png", "training": "training.json"}
        if workshop.scenes is not None:
            composed, picture = compose(workshop.scenes, learnt, stages[-1], workshop)
            Image.fromarray(picture).save(context.artifacts / "composed.png")
            values, artifacts = [*values, *composed], {**artifacts, "composed": "composed.png"}
        seconds = sum(concept.seconds for concept in learnt)
        settings, weights = self.origin()
        return CellResult(
            workshop.names,
            matrices,
            values,
            {**settings, **workshop.notes},
            guarantees(method, learnt, stages, workshop),
            timing={
                "learn_seconds": seconds,
                "learn_seconds_per_concept": seconds / len(learnt),
                "merge_seconds": merging,
                "stored_bytes_per_concept": float(_stored_bytes(learnt[0])),
            },
            artifacts=artifacts,
            weights={**weights, **workshop.weights},
            dtype="bfloat16" if workshop.training.budget.bfloat16 else "float32",
        )


def measure(
    method: ImageMethod, learnt: Sequence[Learnt], stages: Sequence[Update], workshop: ImageWorkshop
) -> tuple[list[MetricMatrix], list[Value], Pixels]:
    """R, S and b of every metric, what is no matrix, and a gallery: one row a concept.

    A gallery row holds a reference, then the same prompt and noise after each stage since the concept was learnt.
    """
    T = len(learnt)
    tables: dict[str, tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]] = {}
    rows: list[Pixels] = []

    def note(which: int, index: Any, scores: dict[str, NDArray[np.float64]]) -> None:
        for metric, numbers in scores.items():
            empty = (np.full((T, T), np.nan), np.full(T, np.nan), np.full(T, np.nan))
            tables.setdefault(metric, empty)[which][index] = float(numbers.mean())

    values = list(workshop.pictures)
    for j, concept in enumerate(learnt):
        note(2, j, workshop.judge({}, Learnt(concept.name, {}, torch.empty(0), {}, 0.0))[0])
        if not method.in_sequence or j == 0:
            note(1, j, workshop.judge(weighted_sum([concept], [1.0]), concept)[0])
        row = [np.full_like(workshop.concepts[j].references[0], 255)] * (T + 1)
        row[0] = workshop.concepts[j].references[0]
        for t in range(j, T):
            scores, images = workshop.judge(stages[t], concept)
            note(0, (t, j), scores)
            row[t + 1] = images[0]
            kept = "identity" if "identity" in scores else next(iter(scores))  # prompt by prompt
            values += [
                Value(kept, float(score), stage=t, concept=j, item=f"prompt {p}")
                for p, score in enumerate(scores[kept])
            ]
        values += _cross_similarity(workshop, images, j)
        rows += row
    matrices = [MetricMatrix(metric, *parts) for metric, parts in tables.items()]
    return matrices, values, grid(np.stack(rows), T + 1)


def _cross_similarity(workshop: ImageWorkshop, images: Pixels, concept: int) -> list[Value]:
    judge = workshop.judges.identity
    if judge is None:
        return []
    others = [i for i in range(len(workshop.concepts)) if i != concept]
    scores = {i: judge.score(images, workshop.concepts[i].references).cosine.mean() for i in others}
    return [Value("cross_similarity", float(score), concept=concept, other=i) for i, score in scores.items()]


def _drift(workshop: ImageWorkshop, last: Update) -> list[Value]:
    """Drift on the class word's prompts, drawn with noise of their own."""
    if workshop.judges.clip is None:
        return []
    return [Value("drift", max(0.0, drift(workshop.untouched, workshop.seen(last))))]


def _content(update: Update, learnt: Learnt) -> str:
    digest = hashlib.sha256(learnt.name.encode() + learnt.token.numpy().tobytes())
    for layer in sorted(update):
        digest.update(layer.encode() + update[layer].contiguous().numpy().tobytes())
    return digest.hexdigest()


def _stored_bytes(learnt: Learnt) -> int:
    tensors = [learnt.token, *(tensor for pair in learnt.factors.values() for tensor in pair)]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
