"""The released weights: verified, read by the libraries they are made for, and refused when they are not themselves."""

from __future__ import annotations

import shutil

import numpy as np
import onnxruntime
import open_clip
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from typer.testing import CliRunner

from bench.world import assets
from bench.world.attributes import VALUES
from bench.world.check import Line, accuracies, as_markdown, table
from bench.world.cli import app
from bench.world.data import labels
from bench.world.identities import sample_base_identity, sample_context, visible_attributes
from bench.world.portraits import draw
from bench.world.release import LIMIT, recipe_hash
from bench.world.sampling import sample
from bench.world.splits import identities
from bench.world.tokens import spare_token
from bench.world.verification import Pairs, embed, load_encoder
from seqlora.errors import BadInputError


@pytest.fixture(scope="module")
def pipeline():
    return StableDiffusionPipeline.from_pretrained(assets.pipeline_folder(), dtype=torch.float32)


@pytest.fixture(scope="module")
def portraits():
    rng = np.random.default_rng(0)
    drawn = [(sample_base_identity(rng), sample_context(rng)) for _ in range(32)]
    return np.stack([draw(*pair) for pair in drawn]), [visible_attributes(*pair) for pair in drawn]


def test_pipeline_draws_through_plain_diffusers(pipeline):
    prompt = f"a photo of {spare_token(0)} person wearing a red hoodie on a plain blue background"
    images = [
        pipeline(prompt, height=64, width=64, num_inference_steps=2, generator=torch.Generator().manual_seed(s)).images[
            0
        ]
        for s in (0, 0, 1)
    ]
    assert images[0].size == (64, 64)
    assert images[0].tobytes() == images[1].tobytes()
    assert images[0].tobytes() != images[2].tobytes()
    assert pipeline.scheduler.config.prediction_type == "v_prediction"
    assert pipeline.scheduler.config.rescale_betas_zero_snr


def test_samples_do_not_depend_on_the_batch(pipeline):
    prompts = ["a photo of a person", "a photo of a person with pink hair"]
    together = sample(pipeline, prompts, np.random.default_rng(0), steps=2)
    apart = sample(pipeline, prompts, np.random.default_rng(0), steps=2, batch=1)
    assert np.abs(together.astype(int) - apart.astype(int)).max() <= 1
    assert sample(pipeline, prompts[:1], np.random.default_rng(0), steps=1, width=128).shape == (1, 64, 128, 3)


def test_spare_tokens_start_as_the_class_word(pipeline):
    embedding = pipeline.text_encoder.get_input_embeddings().weight
    ids = pipeline.tokenizer.convert_tokens_to_ids(["person</w>", spare_token(0), spare_token(255), "hair</w>"])
    assert torch.equal(embedding[ids[0]], embedding[ids[1]])
    assert torch.equal(embedding[ids[0]], embedding[ids[2]])
    assert not torch.equal(embedding[ids[0]], embedding[ids[3]])


def test_three_attention_widths(pipeline):
    widths = {
        module.in_features
        for name, module in pipeline.unet.named_modules()
        if name.endswith(("to_q", "to_k", "to_v", "to_out.0"))
    }
    assert len(widths) >= 3
    assert max(widths) >= 128


def test_insightface_agrees_with_onnxruntime(portraits):
    images = portraits[0]
    through_insightface = embed(load_encoder(assets.identity_model()), images)
    assert through_insightface.shape == (len(images), 128)
    assert np.allclose(np.linalg.norm(through_insightface, axis=1), 1.0, atol=1e-6)
    session = onnxruntime.InferenceSession(str(assets.identity_model()), providers=["CPUExecutionProvider"])
    pixels = (images.transpose(0, 3, 1, 2).astype(np.float32) - 127.5) / 127.5
    direct = session.run(None, {session.get_inputs()[0].name: pixels})[0]
    direct /= np.linalg.norm(direct, axis=1, keepdims=True)
    assert np.abs(direct - through_insightface).max() < 1e-5


def test_identity_tells_people_apart():
    encoder, rng = load_encoder(assets.identity_model()), np.random.default_rng(1)
    people = identities("concept")[:6]
    embedding = embed(encoder, np.stack([draw(p, sample_context(rng)) for p in people for _ in range(3)]))
    cosine, number = embedding @ embedding.T, np.repeat(np.arange(6), 3)
    same = number[:, None] == number
    threshold = assets.identity_threshold()
    assert (cosine[same] > threshold).mean() > 0.8
    assert (cosine[~same] > threshold).mean() < 0.1


def test_clip_loads_through_open_clip_and_reads_backgrounds(portraits):
    name = f"local-dir:{assets.clip_folder()}"
    model, _, preprocess = open_clip.create_model_and_transforms(name)
    tokenize = open_clip.get_tokenizer(name)
    model.eval()
    pixels = torch.stack([preprocess(Image.fromarray(image)) for image in portraits[0]])
    texts = tokenize([f"a photo of a person on a {word} background" for word in VALUES["background"]])
    assert texts.shape[1] == 32
    with torch.no_grad():
        image, text = model.encode_image(pixels, normalize=True), model.encode_text(texts, normalize=True)
    found = (image @ text.T).argmax(1).numpy()
    truth = labels(portraits[1])[:, list(VALUES).index("background")]
    assert (found == truth).mean() > 0.8


def test_classifier_and_face_score(portraits):
    images, shown = portraits
    scores = accuracies(assets.classifier().predict(images), labels(shown))
    assert min(value for value, _ in scores.values()) > 0.6
    detector = assets.face_score()
    assert detector.found(images).mean() > 0.85
    noise = np.random.default_rng(0).integers(0, 256, images.shape, dtype=np.uint8)
    assert not detector.found(noise).any()
    with pytest.raises(BadInputError, match="needs uint8 images"):
        detector.score(images.astype(np.float32))


def test_manifest_names_every_file_and_its_recipe():
    record = assets.manifest()
    files = {str(p.relative_to(assets.WEIGHTS)) for p in assets.WEIGHTS.rglob("*") if p.is_file()}
    assert files == {*record["files"], "manifest.json"}
    assert sum((assets.WEIGHTS / name).stat().st_size for name in files) <= LIMIT
    assert record["recipe_sha256"] == recipe_hash()
    assert record["licence"] == "Apache-2.0"
    assert not [name for name in files if name.endswith((".bin", ".pt", ".pkl", ".ckpt"))]


@pytest.mark.parametrize("damage", ["wrong", "missing", "manifest"])
def test_damaged_weights_are_one_line(tmp_path, damage):
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "manifest.json").write_text((assets.WEIGHTS / "manifest.json").read_text())
    for name in assets.manifest()["files"]:
        (weights / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(assets.WEIGHTS / name, weights / name)
    assert assets.verify(weights) == weights
    assets.verify.cache_clear()
    assets.manifest.cache_clear()
    if damage == "wrong":
        data = bytearray((weights / assets.IDENTITY).read_bytes())
        data[len(data) // 2] ^= 1
        (weights / assets.IDENTITY).write_bytes(bytes(data))
    elif damage == "missing":
        (weights / assets.IDENTITY).unlink()
    else:
        (weights / "manifest.json").write_text("{")
    with pytest.raises(assets.WeightsError) as caught:
        assets.identity_model(weights)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    assert "git checkout" in str(caught.value)


def test_thresholds_are_quantiles():
    pairs = Pairs(genuine=np.array([0.2, 0.8, 0.9, 0.95]), impostor=np.arange(1000) / 1000)
    threshold = pairs.threshold(1e-2)
    assert (pairs.impostor > threshold).mean() <= 1e-2
    assert (pairs.impostor > threshold - 2e-3).mean() > 1e-2
    assert Pairs(pairs.genuine, pairs.impostor * 0.5).true_accept_rate(0.5) == 0.75


def test_floor_table_shows_what_is_below():
    lines = [Line("generated: skin", "CLIP", 0.95, 0.9, 10), Line("generated: eyes", "CLIP", 0.6, 0.7, 10)]
    assert [line.passed for line in lines] == [True, False]
    assert table(lines).row_count == 2
    assert "below" in as_markdown(lines)


def test_check_exits_with_one_below_the_floor(monkeypatch):
    result = {"lines": [Line("x", "CLIP", 0.5, 0.9, 10)]}
    monkeypatch.setattr("bench.world.check.measure", lambda images: result["lines"])
    assert CliRunner().invoke(app, ["check"]).exit_code == 1
    result["lines"] = [Line("x", "CLIP", 0.95, 0.9, 10)]
    assert CliRunner().invoke(app, ["check"]).exit_code == 0


def test_unusable_device_is_one_line():
    outcome = CliRunner().invoke(app, ["pretrain", "clip", "--device", "nonsense"])
    assert isinstance(outcome.exception, BadInputError)
    assert "cannot be used" in str(outcome.exception)
