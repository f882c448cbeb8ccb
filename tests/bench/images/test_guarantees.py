"""C3's bound and C4's certificate on a diffusion model's layers: what is recorded, and that each can be broken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from bench.methods.images import METHODS
from bench.methods.images.api import weighted_sum
from bench.metrics import guarantees
from bench.metrics.energies import update_changes
from bench.metrics.guarantees import FORMS, Tally, Terms, applies, record, unseen
from bench.personalise.shared import Training
from bench.personalise.studio import Studio
from bench.tasks.images import ImageWorkshop, Judges

from .conftest import products

WIDTH, COLUMNS, WINDOWS = 24, 8, 40


@pytest.fixture
def workshop(training: Training, load: Callable[[], Any]) -> ImageWorkshop:
    noise = tuple(np.random.SeedSequence(9, spawn_key=(j,)) for j in range(4))
    studio = Studio(load(), 16, steps=2, guidance=2.0)
    return ImageWorkshop(training, load, studio, Judges(), ("a photo of {}",), noise, rank=2, seed=3)


def terms(rng: np.random.Generator, size: float = 1.0, budget: float = 10.0) -> Terms:
    """Two later concepts of rank 2, orthogonal to this one, ‖[B …]‖ about 3 `size`."""
    rows = np.linalg.qr(rng.standard_normal((WIDTH, 6)))[0].T
    B = rng.standard_normal((WIDTH, 4)) * size / 3
    return Terms(rng.standard_normal((WIDTH, 2)) @ rows[:2], rows[:2], rows[2:], B, budget)


def gaussian(rng: np.random.Generator, scale: float = 1.0) -> np.ndarray:
    return scale * rng.standard_normal((WINDOWS, WIDTH, COLUMNS))


def outcome(tally: Tally) -> dict[str, bool]:
    return {check.name.split(":")[0]: check.holds for check in tally.checks()}


def test_every_promise_is_kept_on_fresh_windows_and_broken_by_larger_ones() -> None:
    rng = np.random.default_rng(0)
    kept, broken = Tally("layer"), Tally("layer")
    given = terms(rng)
    kept.add(given, gaussian(rng), gaussian(rng), rng)
    assert outcome(kept) == {**dict.fromkeys(FORMS, True), "C4, budget": True}
    broken.add(given, gaussian(rng), gaussian(rng, 30.0), rng)  # control: not the concept that was estimated
    assert outcome(broken) == {**dict.fromkeys(FORMS, False), "C4, budget": True}


def test_a_budget_that_was_not_kept_voids_the_certificate() -> None:
    rng = np.random.default_rng(1)
    tally = Tally("layer")
    tally.add(terms(rng, budget=0.1), gaussian(rng), gaussian(rng), rng)
    assert outcome(tally) == {FORMS[0]: True, FORMS[1]: True, "C4, budget": False}


def test_certificates_need_orthogonal_bases() -> None:
    rng = np.random.default_rng(2)
    given = terms(rng)
    tally = Tally("layer")
    tally.add(replace(given, later=given.later + 0.1 * np.tile(given.basis, (2, 1))), gaussian(rng), gaussian(rng), rng)
    assert set(outcome(tally)) == set(FORMS[:2])


def test_reading_is_the_sum_of_later_updates_up_to_a_rotation(training: Training) -> None:
    rng = np.random.default_rng(3)
    given = terms(rng)
    M = given.stack @ given.later
    np.testing.assert_allclose(given.reading.T @ given.reading, M.T @ M, atol=1e-12 * np.linalg.norm(M) ** 2)


def test_details_say_how_much_was_lost_and_promised(workshop: ImageWorkshop) -> None:
    method = METHODS["seqlora"]
    learnt = method.train(workshop)
    stages = list(method.stages(learnt, workshop))
    checks = guarantees.guarantees(method, learnt, stages, workshop)
    layers = set(learnt[0].factors)
    plain = [check for check in checks if check["name"].startswith(FORMS[0])]
    assert {check["layer"] for check in plain} == layers
    assert all(check["trials"] == 32 for check in plain)
    # the same figure by other means, for the first concept: F from its own windows and the stages' difference
    layer = sorted(layers)[0]
    subject = workshop.know(learnt[0])
    workshop.studio.show(stages[0])
    seed = workshop.noise[0]
    held_out = record(
        workshop.studio,
        unseen(workshop.concepts[0]),
        subject,
        [layer],
        np.random.SeedSequence(seed.entropy, spawn_key=(*seed.spawn_key, 1)),
    )[layer]
    changed = (stages[-1][layer] - stages[0][layer]).double().numpy()
    F = np.square(changed @ held_out).sum((1, 2)) / held_out.shape[2]
    given = Terms.of(layer, learnt, 0)
    np.testing.assert_allclose(np.square(given.reading @ held_out).sum((1, 2)) / held_out.shape[2], F, rtol=1e-4)


def test_only_plain_sums_are_judged(workshop: ImageWorkshop) -> None:
    judged = {name for name in METHODS if applies(METHODS[name])}
    assert {"plain-sum", "seqlora", "seqlora-penalty", "frozen-orthonormal"} <= judged
    assert not {"fusion", "plain-average", "plain-norm-matched", "base"} & judged
    fusion = METHODS["fusion"]
    assert guarantees.guarantees(fusion, [], [], workshop) == []


def test_windows_are_the_layer_s_inputs_on_images_that_no_training_saw(workshop: ImageWorkshop) -> None:
    images = unseen(workshop.concepts[0])
    np.testing.assert_array_equal(images.training, workshop.concepts[0].references)
    layer = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
    seed = np.random.SeedSequence(1)
    one = record(workshop.studio, images, "a person", [layer], seed)[layer]
    other = record(workshop.studio, images, "a person", [layer], np.random.SeedSequence(2))[layer]
    assert one.shape == (16, 32, 16)
    # a layer that reads text sees the caption, whatever the noise
    np.testing.assert_allclose(one, other, atol=1e-5)
    studio = workshop.studio.pipeline
    ids = studio.tokenizer(["a photo of a person"], padding="max_length", max_length=32, return_tensors="pt").input_ids
    with torch.no_grad():
        states = studio.text_encoder(ids)[0][0]
    np.testing.assert_allclose(one[0, :, 0], states[0].double().numpy(), atol=1e-5)


def test_windows_of_a_convolution_are_the_patches_that_it_multiplies(workshop: ImageWorkshop) -> None:
    layer = "unet.down_blocks.0.resnets.0.conv2"
    convolution: Any = workshop.studio.denoiser.get_submodule(layer)
    with products(convolution) as outputs:
        windows = record(workshop.studio, workshop.concepts[0], "a person", [layer], np.random.SeedSequence(1))[layer]
    expected = torch.cat(outputs).numpy()
    at = np.linspace(0, expected.shape[-1] - 1, windows.shape[-1]).round().astype(int)
    given = convolution.weight.flatten(1).double().numpy() @ windows
    np.testing.assert_allclose(given, expected[..., at], atol=1e-5 * np.abs(expected).max())


def test_how_far_the_weights_moved_counts_all_layers() -> None:
    stages = [{"a": torch.zeros(2, 2), "b": torch.zeros(1, 2)}, {"a": torch.full((2, 2), 2.0), "b": torch.ones(1, 2)}]
    R = update_changes(stages).values
    assert R[1, 0] == pytest.approx(np.sqrt(18))
    assert R[0, 0] == R[1, 1] == 0.0
    assert np.isnan(R[0, 1])
    assert update_changes([{}, {}]).values[1, 0] == 0.0


def test_an_update_of_one_concept_is_the_sum_of_its_terms(workshop: ImageWorkshop) -> None:
    learnt = METHODS["plain-sum"].train(workshop)  # bases are not orthonormal: the terms must make them so
    for layer, update in weighted_sum(learnt[1:], [1.0, 1.0]).items():
        given = Terms.of(layer, learnt, 0)
        np.testing.assert_allclose(given.stack @ given.later, update.double().numpy(), atol=1e-5)
        np.testing.assert_allclose(given.basis @ given.basis.T, np.eye(len(given.basis)), atol=1e-12)
