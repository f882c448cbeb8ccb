"""Two concepts in one image: right regions score high and leak nothing, swapped ones the other way round."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bench.api import Value
from bench.composed import DRAWN, PLAIN, REGIONAL, ScenePrompt, Scenes, adjacent_pairs, compose, crop, score_regions
from bench.methods.images import METHODS
from bench.metrics import METRICS
from bench.metrics.identity import IdentityJudge
from bench.personalise.images import ConceptImages
from bench.personalise.learner import Budget
from bench.personalise.shared import Training
from bench.personalise.studio import Studio
from bench.seeds import Seeds
from bench.tasks.images import ImageWorkshop, Judges
from bench.tasks.portraits import PortraitOptions, asked_context, concept_images, scenes_of
from bench.world import assets
from bench.world.captions import scene_caption
from bench.world.splits import identities
from bench.world.verification import load_encoder

HALVES = ((0.0, 0.0, 1.0, 0.5), (0.0, 0.5, 1.0, 1.0))


class MeanColour:
    """An encoder whose embedding is the mean colour, as insightface's are called."""

    def get_feat(self, images: list[np.ndarray]) -> np.ndarray:
        return np.stack([image.reshape(-1, 3).mean(0) - 100 for image in images])


def mean(values: list[Value], metric: str, how: str) -> float:
    return float(np.mean([v.value for v in values if v.metric == f"{how}{metric}"]))


def test_pairs_are_neighbours_spread_over_the_sequence() -> None:
    assert adjacent_pairs(1) == ()
    assert adjacent_pairs(2) == ((0, 1),)
    assert adjacent_pairs(4) == ((0, 1), (1, 2), (2, 3))
    assert adjacent_pairs(16) == ((0, 1), (5, 6), (9, 10), (14, 15))


def test_a_scene_asks_for_what_the_base_was_taught() -> None:
    scenes = scenes_of(identities("concept")[:3], 2, Seeds.of("task", 3, 0, 0))
    assert scenes is not None
    assert scenes.drawn is not None
    assert scenes.drawn.shape == (2, 2, 64, 128, 3)
    prompt = scenes.prompts[0]
    wall = asked_context(prompt.part)
    assert set(wall) == {"background"}
    pattern = prompt.part.split()[-3]
    named = {"pattern": pattern, "background": wall["background"]}
    assert prompt.whole.format("person", "person") == scene_caption({}, {}, named)
    assert asked_context("a photo of {} wearing a red hoodie on a plain blue background") == {
        "background": "blue", "clothing_color": "red",
    }  # fmt: skip
    assert scenes_of(identities("concept")[:3], 0, Seeds.of("task", 3, 0, 0)) is None
    assert scenes_of(identities("concept")[:1], 2, Seeds.of("task", 1, 0, 0)) is None


def test_scenes_of_the_world_score_right_and_swapped_ones_leak(tmp_path: Any) -> None:
    people = identities("concept")[:2]
    options = PortraitOptions(images=1, references=4)
    concepts = tuple(
        concept_images(f"p{i}", person, options, np.random.default_rng(i)) for i, person in enumerate(people)
    )
    scenes = scenes_of(people, 4, Seeds.of("task", 2, 0, 0))
    assert scenes is not None
    assert scenes.drawn is not None
    seed = np.random.SeedSequence(0)
    training = Training("none", concepts, (seed, seed), Budget(), tmp_path)
    judge = IdentityJudge(load_encoder(assets.identity_model()), None, None)
    workshop = ImageWorkshop(training, lambda: None, None, Judges(judge), (), (), 1, 0)  # type: ignore[arg-type]
    right = list(score_regions(scenes.drawn[0], (0, 1), DRAWN, scenes, workshop))
    swapped = np.concatenate([crop(scenes.drawn[0], box) for box in scenes.boxes[::-1]], axis=2)
    wrong = list(score_regions(swapped, (0, 1), DRAWN, scenes, workshop))
    assert mean(right, "region_identity", DRAWN) > mean(right, "leakage", DRAWN) + 0.3
    for metric, other in (("region_identity", "leakage"), ("leakage", "region_identity")):  # the control
        assert mean(wrong, metric, DRAWN) == pytest.approx(mean(right, other, DRAWN), abs=1e-6)
    assert {(v.concept, v.other) for v in right} == {(0, 1), (1, 0)}
    assert all(v.metric in METRICS for v in right)


@pytest.mark.parametrize("name", ["plain-sum", "mix-of-show-exact", "base"])
def test_every_method_draws_the_same_scenes(
    name: str, training: Training, load: Callable[[], Any], concepts: tuple[ConceptImages, ...]
) -> None:
    judges = Judges(IdentityJudge(MeanColour(), 0.5, lambda images: np.ones(len(images), bool)))
    noise = tuple(np.random.SeedSequence(9, spawn_key=(j,)) for j in range(2))
    training = replace(training, concepts=concepts[:2], seeds=training.seeds[:2])
    workshop = ImageWorkshop(training, load, Studio(load(), 16, 2, 2.0), judges, ("{}",), noise, rank=2, seed=3)
    prompt = ScenePrompt("a photo of left {} and right {}", "a photo of {}")
    drawn = np.zeros((1, 1, 16, 32, 3), np.uint8)
    scenes = Scenes(((0, 1),), (prompt,), noise[:1], 2, HALVES, 32, drawn)
    method = METHODS[name]
    learnt = method.train(workshop)
    update = list(method.stages(learnt, workshop))[-1]
    values, picture = compose(scenes, learnt, update, workshop)
    again, _ = compose(scenes, learnt, update, workshop)
    assert values == again
    # 2 regions x (2 plain + 2 regional + 1 drawn) x (identity, leakage, face)
    assert len(values) == 2 * 5 * 3
    assert {v.metric for v in values} == {
        f"{how}{metric}"
        for how in (REGIONAL, PLAIN, DRAWN)
        for metric in ("region_identity", "leakage", "region_face_found")
    }
    assert {v.item for v in values} == {"image 0", "image 1"}
    assert picture.shape == (16, 3 * 32 + 2 * 2, 3)
    if name != "base":
        assert mean(values, "leakage", PLAIN) != mean(values, "leakage", REGIONAL)
