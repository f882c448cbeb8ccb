"""Trainings on disk, addressed by content: all merge methods of a family use one training of each concept.

The folder of a training is that of its `ConceptSequence`, so an interrupted one goes on where it was. Beside it lie
the second moments `Σ_j` of every adapted layer's inputs on concept j's images, taken with the model that has just
learnt j: what the theory's energies are computed from.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from bench.personalise.denoiser import diffusion_loss, sampled_loss
from bench.personalise.generic import generic_batches, generic_prompts
from bench.personalise.images import ConceptImages
from bench.personalise.learner import TOKEN, Budget, Learner, learn_words
from bench.personalise.pool import Bases
from bench.personalise.tokens import PLAIN_WORD, WordStyle
from bench.seeds import part
from seqlora import SeqLoRAConfig
from seqlora.files import read_json, read_tensors, remove_leftovers, write_json, write_tensors
from seqlora.sequence import Step
from seqlora.start import empty_moments, gather_output_moments

MOMENT_BATCHES = 8
Factors = Mapping[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Learnt:
    """A concept after training.

    Attributes:
        name: of the concept.
        factors: layer name -> (A (r, n), B (m, r)); empty where only the token was trained.
        token: its embedding, (d,), or those of its words in every cross-attention layer, (words, layers, d).
        moments: layer name -> Σ_j, (n, n) float64; empty where only the token was trained.
        output_moments: layer name -> G_j, second moment of the gradients of `sampled_loss` at the layer's outputs,
            summed over rows and averaged over batches, (m, m) float32; empty as well where an earlier version trained.
        seconds: how long its training took.
        training: name of the folder that it was read from.
    """

    name: str
    factors: Factors
    token: Tensor
    moments: Mapping[str, Tensor]
    seconds: float
    training: str = ""
    output_moments: Mapping[str, Tensor] = field(default_factory=dict)


class TrainingOptions(TypedDict, total=False):
    """What decides a training besides its configuration: the options of `Training.run`."""

    style: WordStyle
    bases: Bases
    generic: bool
    replay: float


@dataclass(frozen=True)
class Training:
    """Everything that decides what a training gives, and where it is kept.

    Attributes:
        base: identifies the weights of the untrained pipeline (a hash).
        concepts: in the order in which they are learnt.
        seeds: one for the batches of each concept.
        budget: steps and batch size.
        shared: folder of all trainings.
    """

    base: str
    concepts: tuple[ConceptImages, ...]
    seeds: tuple[np.random.SeedSequence, ...]
    budget: Budget
    shared: Path

    def folder(self, what: Mapping[str, Any]) -> Path:
        """Where the training described by `what` is kept: a name made of the hash of all that it depends on."""
        key = {
            "what": dict(what),
            "base": self.base,
            "concepts": [_digest(concept) for concept in self.concepts],
            "seeds": [(np.asarray(s.entropy, dtype=object).tolist(), list(s.spawn_key)) for s in self.seeds],
            "budget": asdict(self.budget),
        }
        text = json.dumps(key, sort_keys=True, default=int)
        return self.shared / "trainings" / hashlib.sha256(text.encode()).hexdigest()[:16]

    def run(
        self,
        config: SeqLoRAConfig,
        load: Callable[[], Any],
        watch: Callable[[Step], None] = lambda step: None,
        style: WordStyle = PLAIN_WORD,
        bases: Bases = "own",
        generic: bool = False,
        replay: float = 0.0,
    ) -> list[Learnt]:
        """The concepts as `config` learns them: trained now, or read if they were.

        Args:
            config: the method.
            load: makes a fresh untrained pipeline; called only if something must be trained.
            watch: called after every step.
            style: how concepts are written.
            bases: where frozen bases come from.
            generic: remember what the base model draws from generic prompts before the first concept.
            replay: λ of `bench.personalise.replay`.
        """
        variant: dict[str, Any] = {"style": asdict(style), "bases": bases}
        variant |= ({"generic": True} if generic else {}) | ({"replay": replay} if replay else {})
        usual = {"style": asdict(PLAIN_WORD), "bases": "own"}
        folder = self.folder({**config.to_json(), **(variant if variant != usual else {})})
        with _locked(folder):
            if not (folder / "done.json").is_file():
                for place in {path.parent for path in folder.rglob(".*.tmp")}:
                    remove_leftovers(place)  # of a training that was killed
                learner = Learner(load(), config, self.budget, folder, style, bases, replay)
                if generic:
                    self._protect_base(learner)
                self._train(learner, folder, watch)
        return self._read(folder)

    def _protect_base(self, learner: Learner) -> None:
        """Put the base model's own moments into what the penalty protects; a restart finds them stored."""
        seed = part(self.seeds[0], 1)
        prompts = generic_prompts(self.concepts[0])
        drawn = generic_batches(learner.pipeline, prompts, MOMENT_BATCHES, self.budget.batch, seed)
        learner.sequence.remember(drawn, diffusion_loss, name="generic")

    def _train(self, learner: Learner, folder: Path, watch: Callable[[Step], None]) -> None:
        sequence = learner.sequence
        names = [concept.name for concept in self.concepts]
        for j, (concept, seed) in enumerate(zip(self.concepts, self.seeds, strict=True)):
            started, taken = time.perf_counter(), concept.name in sequence.concepts
            for step in learner.learn(concept, seed):
                watch(step)
            seconds = folder / "seconds" / f"{concept.name}.json"
            if not taken or not seconds.is_file():
                write_json(seconds, time.perf_counter() - started)
            kept = folder / "moments" / f"{concept.name}.safetensors"
            if not kept.is_file():
                sequence.activate([concept.name] if sequence.config.train_on == "base" else names[: j + 1])
                few = islice(learner.batches(concept, seed), MOMENT_BATCHES)
                moments = empty_moments(sequence.layers, sequence.config)
                seen = (learner.denoiser, sequence.layers, few, sampled_loss, moments)
                with learner.speaking_of(concept), torch.random.fork_rng(devices=[]):
                    torch.default_generator.manual_seed(int(seed.generate_state(1)[0]))
                    sums = gather_output_moments(*seen)
                outputs = {layer: (G / MOMENT_BATCHES).float() for layer, G in sums.items()}
                write_tensors(_output_moments(folder, concept), outputs)
                write_tensors(kept, {name: moment.matrix() for name, moment in moments.items()})
                sequence.activate()
        write_json(folder / "done.json", names)

    def _read(self, folder: Path) -> list[Learnt]:
        learnt = []
        for concept in self.concepts:
            tensors = read_tensors(folder / "concepts" / f"{concept.name}.safetensors")
            layers = [key.removeprefix("A:") for key in tensors if key.startswith("A:")]
            factors = {name: (tensors[f"A:{name}"], tensors[f"B:{name}"]) for name in layers}
            moments = read_tensors(folder / "moments" / f"{concept.name}.safetensors")
            seconds = float(read_json(folder / "seconds" / f"{concept.name}.json"))
            outputs = read_tensors(path) if (path := _output_moments(folder, concept)).is_file() else {}
            words = tensors[f"extra:{TOKEN}"]
            learnt.append(Learnt(concept.name, factors, words, moments, seconds, folder.name, outputs))
        return learnt

    def run_words(self, rate: float, load: Callable[[], Any], style: WordStyle = PLAIN_WORD) -> list[Learnt]:
        """The concepts as embeddings alone."""
        folder = self.folder({"token only": rate, **({} if style == PLAIN_WORD else {"style": asdict(style)})})
        with _locked(folder):
            pipeline, learnt = None, []
            for concept, seed in zip(self.concepts, self.seeds, strict=True):
                path = folder / f"{concept.name}.safetensors"
                if not path.is_file():
                    pipeline = pipeline or load()
                    started = time.perf_counter()
                    vectors = learn_words(pipeline, concept, self.budget, rate, seed, style)
                    seconds = torch.tensor(time.perf_counter() - started, dtype=torch.float64)
                    write_tensors(path, {TOKEN: vectors, "seconds": seconds})
                tensors = read_tensors(path)
                learnt.append(Learnt(concept.name, {}, tensors[TOKEN], {}, float(tensors["seconds"]), folder.name))
        return learnt


def _output_moments(folder: Path, concept: ConceptImages) -> Path:
    return folder / "output_moments" / f"{concept.name}.safetensors"


def _locked(folder: Path) -> FileLock:
    """One process trains, the others wait for it and read."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(folder.with_suffix(".lock"))


def _digest(concept: ConceptImages) -> str:
    """Hash of what is trained on."""
    digest = hashlib.sha256(concept.training.tobytes())
    if concept.masks is not None:
        digest.update(concept.masks.tobytes())
    digest.update(json.dumps([concept.name, concept.class_word, concept.templates, concept.training.shape]).encode())
    return digest.hexdigest()
