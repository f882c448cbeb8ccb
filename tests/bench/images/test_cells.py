"""A whole cell on the tiny pipeline: every method, the R matrices, energies and judges' rules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from bench.methods import load_method
from bench.methods.images import METHODS
from bench.methods.images.api import RATES, weighted_sum
from bench.metrics.clip import clip_score, drift
from bench.metrics.energies import fisher_energy, forgetting_energies, prediction_changes
from bench.metrics.identity import IdentityJudge
from bench.personalise.batches import ConceptBatches
from bench.personalise.denoiser import Denoiser
from bench.personalise.shared import Learnt, Training
from bench.personalise.studio import Studio
from bench.personalise.tokens import PLAIN_WORD, add_words, install
from bench.tasks.images import ImageWorkshop, Judges, measure
from bench.tasks.portraits import pipeline_digest
from bench.world import assets
from seqlora import SeqLoRAConfig
from seqlora.subspace import overlap


class MeanColour:
    """An encoder whose embedding is the mean colour, as insightface's are called."""

    def get_feat(self, images: list[np.ndarray]) -> np.ndarray:
        return np.stack([image.reshape(-1, 3).mean(0) - 100 for image in images])


class FlatClip:
    def images(self, images: np.ndarray) -> np.ndarray:
        flat = images.reshape(len(images), -1).astype(float) - 127
        return flat / np.linalg.norm(flat, axis=1, keepdims=True)

    def text_alignment(self, images: np.ndarray, texts: list[str]) -> np.ndarray:
        assert all("<" not in text for text in texts)  # the class word stands where the token was
        return np.zeros(len(images))

    def image_alignment(self, images: np.ndarray, references: np.ndarray) -> np.ndarray:
        return (self.images(images) @ self.images(references).T).mean(1)


@pytest.fixture
def workshop(training: Training, load: Callable[[], Any]) -> ImageWorkshop:
    identity = IdentityJudge(MeanColour(), 0.5, lambda images: np.ones(len(images), bool))
    judges = Judges(identity, FlatClip(), lambda images, prompts: np.ones(len(images)))
    noise = tuple(np.random.SeedSequence(9, spawn_key=(j,)) for j in range(4))
    studio = Studio(load(), 16, steps=2, guidance=2.0)
    return ImageWorkshop(training, load, studio, judges, ("a photo of {}", "{}"), noise, rank=2, seed=3)


def test_sum_of_one_concept_is_its_single_model_and_b_is_the_base(workshop: ImageWorkshop) -> None:
    method = METHODS["plain-sum"]
    learnt = method.train(workshop)
    stages = list(method.stages(learnt, workshop))
    matrices, _, sheet = measure(method, learnt, stages, workshop)
    identity = {m.metric: m for m in matrices}["identity"]
    assert identity.values[0, 0] == identity.single[0]
    assert np.isnan(identity.values[0, 1:]).all()
    assert np.isfinite(identity.values[np.tril_indices(3)]).all()
    assert np.isfinite(identity.base).all()
    assert sheet.dtype == np.uint8


def test_bases_of_each_family_are_what_it_promises(workshop: ImageWorkshop) -> None:
    def worst(name: str) -> float:
        learnt = METHODS[name].train(workshop)
        pairs = [(learnt[0], learnt[1]), (learnt[1], learnt[2])]
        return max(overlap(a.factors[k][0], b.factors[k][0]) for a, b in pairs for k in a.factors)

    assert worst("frozen-orthonormal") < 1e-5
    assert worst("seqlora-penalty") < 1e-5
    assert worst("frozen-random") > 0.05  # the control must overlap


def test_controls_scale_the_sum(workshop: ImageWorkshop) -> None:
    learnt = METHODS["plain-sum"].train(workshop)
    total = weighted_sum(learnt, [1.0, 1.0, 1.0])
    average = METHODS["plain-average"].merge(learnt, workshop)
    matched = METHODS["plain-norm-matched"].merge(learnt, workshop)
    for layer, update in total.items():
        own = np.mean([float((B @ A).norm()) for A, B in (c.factors[layer] for c in learnt)])
        torch.testing.assert_close(average[layer], update / 3)
        assert float(matched[layer].norm()) == pytest.approx(own, rel=1e-4)


def test_token_only_and_base_change_no_weight(workshop: ImageWorkshop) -> None:
    for name in ("token-only", "token-only-layerwise", "base"):
        learnt = METHODS[name].train(workshop)
        assert list(METHODS[name].stages(learnt, workshop)) == [{}, {}, {}]
        assert forgetting_energies([{}, {}, {}], learnt) == []
    vectors = [concept.token for concept in METHODS["token-only"].train(workshop)]
    assert not torch.equal(vectors[0], vectors[1])
    layerwise = METHODS["token-only-layerwise"].train(workshop)[0].token
    assert layerwise.ndim == 3
    assert layerwise.shape[0] == 2
    assert not torch.equal(layerwise[:, 0], layerwise[:, 1])  # every layer learnt an embedding of its own


def test_fusion_of_one_concept_keeps_what_its_model_does(workshop: ImageWorkshop) -> None:
    method = replace(METHODS["fusion"], ridge=0.0)
    learnt = method.train(workshop)
    first = next(iter(method.stages(learnt, workshop)))
    single = weighted_sum(learnt[:1], [1.0])
    for layer, update in first.items():
        moment = learnt[0].moments[layer]
        lost = (update - single[layer]).double()
        wanted = single[layer].double()
        # text layers are fused on few features; there the rest of the update is dropped
        if "attn2.to_k" not in layer and "attn2.to_v" not in layer:
            ratio = float(((lost @ moment) * lost).sum() / ((wanted @ moment) * wanted).sum())
            assert ratio < 0.5


def test_forgetting_energy_equals_the_change_of_outputs() -> None:
    rng = np.random.default_rng(0)
    X = torch.from_numpy(rng.standard_normal((2, 5, 40)))
    factors = [
        (torch.from_numpy(rng.standard_normal((2, 5))), torch.from_numpy(rng.standard_normal((3, 2)))) for _ in range(2)
    ]
    learnt = [Learnt(f"c{j}", {"l": factors[j]}, torch.zeros(1), {"l": X[j] @ X[j].mT / 40}, 0.0) for j in range(2)]
    stages = [weighted_sum(learnt[: t + 1], [1.0] * (t + 1)) for t in range(2)]
    R = forgetting_energies(stages, learnt)[0].values
    (A0, B0), (A1, B1) = factors
    expected = float((B1 @ A1 @ X[0]).square().sum() / (B0 @ A0 @ X[0]).square().sum())
    assert R[1, 0] == pytest.approx(expected, rel=1e-10)
    assert R[0, 0] == R[1, 1] == 0.0


def test_fisher_energy_is_the_mean_square_of_what_every_gradient_sees_of_every_change() -> None:
    rng = np.random.default_rng(1)
    X, gradients = torch.from_numpy(rng.standard_normal((2, 5, 40))), torch.from_numpy(rng.standard_normal((2, 3, 30)))
    gradients[:, 0] = 0.0  # an output to which no loss reacts
    learnt = [
        Learnt(
            f"c{j}",
            {"l": (torch.from_numpy(rng.standard_normal((2, 5))), torch.from_numpy(rng.standard_normal((3, 2))))},
            torch.zeros(1),
            {"l": X[j] @ X[j].mT / 40},
            0.0,
            output_moments={"l": gradients[j] @ gradients[j].mT / 30},
        )
        for j in range(2)
    ]
    stages = [weighted_sum(learnt[: t + 1], [1.0] * (t + 1)) for t in range(2)]
    change = stages[1]["l"] - stages[0]["l"]
    expected = float((gradients[0].mT @ change @ X[0]).square().mean())
    assert fisher_energy(stages, learnt)[0].values[1, 0] == pytest.approx(expected, rel=1e-10)
    harmless = [stages[0], {"l": stages[0]["l"] + torch.eye(3, 5) * torch.tensor([[50.0], [0.0], [0.0]])}]
    assert fisher_energy(harmless, learnt)[0].values[1, 0] == 0.0
    assert forgetting_energies(harmless, learnt)[0].values[1, 0] > 1.0  # plain energy takes it for a loss
    assert fisher_energy(stages, [learnt[0], replace(learnt[1], output_moments={})]) == []


def test_change_of_the_prediction_is_that_of_the_denoiser_itself(workshop: ImageWorkshop) -> None:
    method = METHODS["plain-sum"]
    learnt = method.train(workshop)
    stages = list(method.stages(learnt, workshop))
    R = prediction_changes(stages, learnt, workshop.predictions)[0].values
    assert np.diag(R).tolist() == [0.0, 0.0, 0.0]
    assert (R[np.tril_indices(3, -1)] > 0).all()
    subject = workshop.know(learnt[0])
    found = []
    for stage in (0, 2):  # by a pipeline of its own, whose weights are set by hand
        pipe = workshop.load()
        model = Denoiser(pipe)
        add_words(pipe.tokenizer, pipe.text_encoder, "<ann>", "person", PLAIN_WORD)
        install(pipe.text_encoder, {pipe.tokenizer.convert_tokens_to_ids("<ann>"): learnt[0].token})
        with torch.no_grad():
            for layer, update in stages[stage].items():
                weight = model.get_submodule(layer).get_parameter("weight")
                weight += update.view_as(weight)
            concept, seed = workshop.concepts[0], workshop.training.seeds[0]
            batches = list(ConceptBatches(pipe, concept, 8, 2, seed, subject))
            found.append(torch.stack([model(batch) for batch in batches]))
    s = torch.stack([model._levels(batch.t)[1] for batch in batches])
    expected = ((21 * s.square()).clamp(max=1.0) * (found[1] - found[0]).square()).mean()
    assert R[2, 0] == pytest.approx(float(expected), rel=1e-4)
    assert prediction_changes([{}], METHODS["base"].train(workshop), workshop.predictions) == []


def test_image_without_a_face_is_a_failure_whatever_its_cosine() -> None:
    images = np.full((2, 4, 4, 3), 200, np.uint8)
    judge = IdentityJudge(MeanColour(), 0.5, lambda batch: np.array([True, False])[: len(batch)])
    scores = judge.score(images, images)
    assert scores.cosine.tolist() == pytest.approx([1.0, 0.0])
    assert scores.detected.tolist() == [True, False]


def test_views_of_clip_scores() -> None:
    assert clip_score(np.array([-0.2, 0.3])).tolist() == pytest.approx([0.0, 0.75])
    same = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert drift(same, same) == 0.0
    assert drift(same, -same) == 1.0


@pytest.mark.parametrize("part", ["tokenizer/tokenizer.json", "text_encoder/model.safetensors", "vae/config.json"])
def test_a_training_belongs_to_every_file_of_the_pipeline(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    files = assets.manifest()["files"]
    before = pipeline_digest()
    assert f"pipeline/{part}" in files
    changed = {**files, f"pipeline/{part}": {"sha256": "0" * 64}}
    monkeypatch.setattr(assets, "manifest", lambda: {"files": changed})
    assert pipeline_digest() != before


def test_a_rate_of_the_method_goes_before_the_tasks_and_that_before_the_common_one() -> None:
    asked: list[SeqLoRAConfig] = []
    rates = {"basis_learning_rate": 0.02, "extra_learning_rate": 0.03}
    workshop: Any = SimpleNamespace(
        rank=2, seed=0, layers="x", rates=rates, names=("a",), trained=lambda config, **_: asked.append(config)
    )
    for name in ("seqlora", "seqlora:basis_rate=0.5"):
        load_method("images", name)[1].train(workshop)
    assert [config.basis_learning_rate for config in asked] == [0.02, 0.5]
    assert {config.extra_learning_rate for config in asked} == {0.03}
    assert {config.coefficient_learning_rate for config in asked} == {RATES["coefficient_learning_rate"]}
    words = SimpleNamespace(rates=rates, words=lambda rate, style: rate)
    assert load_method("images", "token-only")[1].train(words) == 0.03
