"""The resumable loop, the autoencoder's exact encoder, and the losses of the world's models, at tiny size."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from bench.world.attributes import VALUES
from bench.world.autoencoder import PatchPCA, build_autoencoder, psnr, to_images, to_tensor
from bench.world.classifier import NEGATIVES, AttributeClassifier, not_faces
from bench.world.clip import ClipTraining
from bench.world.data import FigurePool, labels
from bench.world.diffusion import TextToImage, build_text_encoder, build_unet, diffusion_loss
from bench.world.identities import sample_base_identity, sample_context
from bench.world.identity import ArcFaceTraining
from bench.world.portraits import draw_figure
from bench.world.scenes import SCENE_FIELDS
from bench.world.tokens import build_tokenizer
from bench.world.training import MasterAdamW, TrainingPlan, generators, train
from bench.world.words import WordTraining, mentioned, word_loss
from seqlora.errors import NonFiniteError


@pytest.fixture(scope="module")
def pool():
    rng = np.random.default_rng(0)
    people = [sample_base_identity(rng) for _ in range(12)]
    contexts = [sample_context(rng) for _ in people]
    figures = np.stack([draw_figure(p, c) for p, c in zip(people, contexts, strict=True)])
    return FigurePool(people, contexts, [figures])


@pytest.fixture(scope="module")
def pca(pool):
    images, _ = pool.portraits(np.arange(12).repeat(4), np.random.default_rng(1))
    return PatchPCA.fit(images)


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))

    def loss(self, step, rng, noise):
        x = torch.from_numpy(rng.standard_normal((8, 3))).to(self.layers[0].weight.dtype)
        x = x + torch.randn(8, 3, generator=noise).to(x.dtype)
        return (self.layers(x).float() - x.float().sum(1, keepdim=True)).square().mean()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_resumed_training_equals_uninterrupted(tmp_path, dtype):
    plan = TrainingPlan("tiny", steps=20, lr=1e-2, entropy=3, warmup=2, checkpoint_seconds=0.0)

    def run(folder, stop=None, seed=0):
        torch.manual_seed(seed)
        model = Tiny().to(dtype).train()
        losses = dict(itertools.islice(train(model, model.loss, plan, folder), stop))
        return losses, model.state_dict()

    whole, weights = run(tmp_path / "a")
    first, _ = run(tmp_path / "b", stop=7)
    # the second process starts from other weights: everything that counts must come from the checkpoint
    rest, resumed = run(tmp_path / "b", seed=1)
    assert whole == {**first, **rest}
    assert min(rest) == 7
    for name, value in weights.items():
        assert torch.equal(value, resumed[name]), name
    # the control: without the checkpoint the other start shows
    other, _ = run(tmp_path / "c", seed=1)
    assert other != whole


def test_master_weights_keep_what_bfloat16_would_lose():
    plan = TrainingPlan("tiny", steps=1000, lr=1e-4, entropy=0, warmup=1, weight_decay=0.0)
    layer = nn.Linear(1, 1, bias=False).to(torch.bfloat16)
    nn.init.ones_(layer.weight)
    optimiser = MasterAdamW(layer, plan)
    # 100 steps of Adam with a constant gradient move a weight by 100 lr = 0.01; one step of 1e-4 is below the
    # spacing of bfloat16 at 1 (2^-8 below, 2^-7 above), so plain bfloat16 weights would not move at all
    for step in range(100):
        layer.weight.grad = torch.ones_like(layer.weight)
        optimiser.step(step)
    assert abs(float(optimiser.masters[0].detach()) - 0.99) < 1e-5
    assert abs(float(layer.weight.detach()) - 0.99) <= 2**-9


def test_non_finite_loss_is_one_line(tmp_path):
    model = Tiny()
    plan = TrainingPlan("tiny", steps=3, lr=1e-2, entropy=3)
    with pytest.raises(NonFiniteError, match="the loss is nan at step 0"):
        list(train(model, lambda *_: model.layers[0].weight.sum() * float("nan"), plan, tmp_path))


def test_learning_rate_warms_up_and_falls_to_zero():
    plan = TrainingPlan("x", steps=1000, lr=2.0, entropy=0, warmup=100, decay=0.3)
    assert plan.rate(0) == pytest.approx(0.02)
    assert plan.rate(500) == 2.0
    assert plan.rate(1000) == 0.0
    assert plan.rate(850) < 2.0


def test_written_encoder_equals_the_patch_transform(pool, pca):
    images, _ = pool.portraits(np.arange(6), np.random.default_rng(2))
    pixels = to_tensor(images)
    autoencoder = build_autoencoder()
    pca.write_into(autoencoder)
    latents = pca.encode(pixels)
    with torch.no_grad():
        found = autoencoder.encode(pixels).latents * autoencoder.config.scaling_factor
    # sums of 48 products of magnitude <= max |latent|, twice: 100 roundings of float32 are generous
    assert (found - latents).abs().max() <= 100 * torch.finfo(torch.float32).eps * latents.abs().max() * 48**0.5
    # decoding by least squares is a projection: decode(encode(.)) twice changes nothing more
    once = pca.decode(latents)
    assert torch.allclose(pca.encode(once), latents, atol=1e-4)
    assert psnr(to_images(once), images) > 20


def test_image_conversion_round_trip():
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    assert np.array_equal(to_images(to_tensor(images)), images)


def test_pool_batches_are_deterministic_and_true_to_their_labels(pool):
    first, captions = pool.batch(np.random.default_rng(5), 6)
    again, same = pool.batch(np.random.default_rng(5), 6)
    assert np.array_equal(first, again)
    assert captions == same
    images, shown = pool.portraits(np.arange(12), np.random.default_rng(3))
    assert images.shape == (12, 64, 64, 3)
    numbers = labels(shown)
    assert numbers.shape == (12, len(VALUES))
    for column, name in enumerate(VALUES):
        for row, attributes in enumerate(shown):
            expected = VALUES[name].index(attributes[name]) if name in attributes else -1
            assert numbers[row, column] == expected


def test_diffusion_loss_matches_its_formula(pool, pca):
    tokenizer = build_tokenizer()
    model = TextToImage(tokenizer, build_unet((32, 32, 32), 32), build_text_encoder(tokenizer, 32)).eval()
    loss = diffusion_loss(model, pca, pool, batch=4)
    rng, noise = generators(0, 0)
    value = loss(0, rng, noise)
    # independent: the same draws, the formula written out in float64
    rng, noise = generators(0, 0)
    images, captions = pool.batch(rng, 4)
    captions = ["" if rng.random() < 0.1 else text for text in captions]
    x = pca.encode(to_tensor(images))
    t = torch.randint(0, 1000, (4,), generator=noise)
    e = torch.randn(x.shape, generator=noise)
    a = model.signal[t].view(-1, 1, 1, 1).double()
    s = model.noise[t].view(-1, 1, 1, 1).double()
    assert float(model.signal[-1]) == pytest.approx(0.0, abs=1e-7)
    with torch.no_grad():
        v = model.unet((a * x + s * e).float(), t, model.encode(captions)).sample.double()
    snr = (a / s).flatten() ** 2
    weight = torch.minimum(torch.ones_like(snr), 21.0 / (snr + 1.0))
    expected = (weight * (v - (a * e - s * x)).square().mean((1, 2, 3))).mean()
    assert float(value.detach()) == pytest.approx(float(expected), rel=1e-4)
    assert float(loss(5, *generators(0, 5)).detach()) > 0  # step 5 shows scenes


def test_word_classes_are_what_the_captions_say():
    chosen = [{"hair": "bun", "mouth": "serious"}, {}, {"hair": "bob"}]
    assert mentioned(chosen, "hair").tolist() == [VALUES["hair"].index("bun"), len(VALUES["hair"]), 0]
    assert mentioned(chosen, "mouth").tolist() == [1, len(VALUES["mouth"]), len(VALUES["mouth"])]


def test_word_loss_starts_at_chance_and_reads_only_the_end(pool):
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    model = WordTraining(tokenizer, build_text_encoder(tokenizer, 32)).eval()
    for head in model.heads.values():
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
    loss = word_loss(model, pool, batch=4)
    # zero heads give the uniform distribution: the sum over heads of log(values + 1)
    portrait = sum(np.log(len(values) + 1) for values in VALUES.values())
    assert float(loss(0, *generators(0, 0)).detach()) == pytest.approx(portrait, rel=1e-5)
    scene = sum(2 * np.log(len(VALUES[name]) + 1) for name in SCENE_FIELDS)
    scene += sum(np.log(len(VALUES[name]) + 1) for name in ("background", "pattern"))
    assert float(loss(3, *generators(0, 3)).detach()) == pytest.approx(scene, rel=1e-5)


def test_arcface_margin_makes_the_true_class_harder():
    torch.manual_seed(0)
    model = ArcFaceTraining(5).eval()
    pixels, person = torch.randn(4, 3, 64, 64), torch.tensor([0, 1, 2, 3])
    with torch.no_grad():
        plain, margin = (float(model(pixels, person, m)) for m in (0.0, 0.35))
    assert margin > plain


def test_clip_loss_prefers_the_truth():
    torch.manual_seed(0)
    model = ClipTraining(build_tokenizer()).eval()
    captions = ["a photo of a person with ginger hair", "a photo of a person with pink hair"]
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        image = model.clip.encode_image(pixels, normalize=True)
        cosine = image @ model.texts(captions).T
        logits = model.clip.logit_scale.exp() * cosine + model.bias
        best, worst = (logits > 0).float(), (logits <= 0).float()
        classes = torch.zeros(2, len(VALUES), dtype=torch.long)
        good, bad = (float(model(pixels, captions, fits, ["hair"], classes)) for fits in (best, worst))
    assert good < bad


@pytest.mark.parametrize("kind", NEGATIVES)
def test_negatives_are_images_and_no_portraits(pool, kind):
    portraits, _ = pool.portraits(np.arange(8), np.random.default_rng(1))
    images = not_faces(kind, portraits, np.random.default_rng(2))
    assert images.shape == portraits.shape
    assert images.dtype == np.uint8
    assert not np.array_equal(images, portraits)


def test_classifier_has_a_head_for_every_value():
    logits, face = AttributeClassifier()(torch.zeros(2, 3, 64, 64))
    assert {name: x.shape[1] for name, x in logits.items()} == {name: len(v) for name, v in VALUES.items()}
    assert face.shape == (2,)
