"""Judges of photographs: DINO through timm, faces through insightface, thresholds that are calibrated or left out."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import skimage.data
import timm
import torch
from insightface.model_zoo.arcface_onnx import ArcFaceONNX
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from torchvision import transforms

from bench.metrics.dino import DinoJudge
from bench.metrics.faces import FaceJudge, calibrated, load_encoder
from bench.metrics.identity import IdentityJudge
from bench.models import Models, load_pipeline, pipeline_hashes, variant
from bench.personalise.folders import concept_sources
from bench.places import identity_path
from bench.tasks.photo_judges import faceless, load_judges
from seqlora.errors import BadInputError, StoredFileError

FLAT = np.full((64, 64, 3), 120, np.uint8)
NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)


def save_detector(path: Path) -> None:
    """A network with SCRFD's nine outputs that sees one face, in the middle, of every image that is not flat."""
    nodes, outputs, constants = [], [], []

    def constant(name: str, values: np.ndarray) -> str:
        constants.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name

    nodes += [
        helper.make_node("ReduceMean", ["input"], ["mean"], axes=[0, 1, 2, 3], keepdims=1),
        helper.make_node("Sub", ["input", "mean"], ["off"]),
        helper.make_node("Abs", ["off"], ["spread"]),
        helper.make_node("ReduceMean", ["spread"], ["contrast"], axes=[0, 1, 2, 3], keepdims=0),
        helper.make_node("Mul", ["contrast", constant("gain", np.array(10.0))], ["strong"]),
        helper.make_node("Clip", ["strong", constant("low", np.array(0.0)), constant("high", np.array(1.0))], ["one"]),
    ]
    centre = 2 * (4 * 8 + 4)  # the first anchor at pixel (32, 32), of two a position
    for stride in (8, 16, 32):
        anchors = 2 * (64 // stride) ** 2
        here = np.zeros((anchors, 1))
        if stride == 8:
            here[centre] = 1
        nodes.append(helper.make_node("Mul", ["one", constant(f"where{stride}", here)], [f"score{stride}"]))
        outputs.append((f"score{stride}", (anchors, 1)))
    points = np.array([-1.5, -1, 1.5, -1, 0, 0, -1.2, 1.3, 1.2, 1.3])  # eyes, nose, mouth, in strides
    for kind, row in (("box", np.full(4, 3.0)), ("point", points)):
        for stride in (8, 16, 32):
            anchors = 2 * (64 // stride) ** 2
            name = constant(f"{kind}s{stride}", np.tile(row, (anchors, 1)))
            nodes.append(helper.make_node("Identity", [name], [f"{kind}{stride}"]))
            outputs.append((f"{kind}{stride}", (anchors, len(row))))
    save_graph(path, nodes, [1, 3, 64, 64], outputs, constants)


def save_recogniser(path: Path) -> None:
    """Mean colours of a 4 x 4 grid: 48 numbers, red first."""
    nodes = [
        helper.make_node("AveragePool", ["input"], ["grid"], kernel_shape=[28, 28], strides=[28, 28]),
        helper.make_node("Flatten", ["grid"], ["embedding"]),
    ]
    save_graph(path, nodes, ["n", 3, 112, 112], [("embedding", ("n", 48))], [])


def save_graph(path: Path, nodes: list, shape: list, outputs: list, constants: list) -> None:
    def value(name: str, dimensions: list) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, dimensions)

    graph = helper.make_graph(nodes, "net", [value("input", shape)], [value(n, list(s)) for n, s in outputs], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("insightface") / "models" / "tiny"
    folder.mkdir(parents=True)
    save_detector(folder / "det.onnx")
    save_recogniser(folder / "rec.onnx")
    return folder


def test_a_pack_finds_aligns_and_embeds_faces_as_insightface_does(pack: Path) -> None:
    judge = FaceJudge(pack, threshold=0.5)
    photo = np.asarray(Image.fromarray(skimage.data.astronaut()).resize((64, 64)))
    embedding, found = judge.embed(np.stack([photo, FLAT, NOISE]))
    assert found.tolist() == [True, False, True]
    bgr = np.ascontiguousarray(photo[..., ::-1])
    (face,) = judge.app.get(bgr)
    encoder = ArcFaceONNX(model_file=str(pack / "rec.onnx"))
    expected = encoder.get(bgr, face)
    np.testing.assert_allclose(embedding[0], expected / np.linalg.norm(expected), atol=1e-6)
    assert not embedding[1].any()


def test_colours_reach_the_encoder_in_the_right_order(pack: Path) -> None:
    red = NOISE.copy()
    red[..., 1:] = 0
    embedding, _ = FaceJudge(pack).embed(red[None])
    assert embedding[0, :16].mean() > embedding[0, 32:].mean() + 0.1


def test_missing_faces_are_failures_and_references_without_one_do_not_count(pack: Path) -> None:
    judge = FaceJudge(pack, threshold=0.9)
    images = np.stack([NOISE, FLAT])
    scores = judge.score(images, images)
    assert scores.cosine.tolist() == pytest.approx([1.0, 0.0])
    assert scores.found is not None
    assert scores.detected is not None
    assert (scores.found.tolist(), scores.detected.tolist()) == ([True, False], [True, False])
    assert set(FaceJudge(pack).score(images, images).metrics()) == {"identity", "face_found"}  # no threshold
    with pytest.raises(BadInputError, match="no reference photo has a face"):
        judge.score(images, FLAT[None])


def test_packs_are_found_by_folder_and_root_and_refused_when_incomplete(pack: Path, tmp_path: Path) -> None:
    root = pack.parents[1]
    assert identity_path(str(pack), False) == identity_path(str(root), False) == pack
    with pytest.raises(BadInputError, match=r"holds no \.onnx file"):
        identity_path(str(tmp_path), False)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        save_recogniser(tmp_path / name / "rec.onnx")
    with pytest.raises(BadInputError, match="holds one, two; name one"):
        identity_path(str(tmp_path), False)
    with pytest.raises(StoredFileError, match="no whole insightface pack"):
        FaceJudge(tmp_path / "one")  # no detector
    (tmp_path / "broken.onnx").write_bytes(b"not a network")
    with pytest.raises(StoredFileError, match="is no ArcFace model"):
        load_encoder(tmp_path / "broken.onnx")


def test_a_lone_encoder_gives_neither_faces_nor_a_rate_that_it_cannot_know(pack: Path) -> None:
    judge = IdentityJudge(load_encoder(pack / "rec.onnx"), None, None)
    assert set(judge.score(NOISE[None], NOISE[None]).metrics()) == {"identity"}
    assert set(judge.at(0.5).score(NOISE[None], NOISE[None]).metrics()) == {"identity", "detection"}


def test_threshold_is_the_quantile_of_impostor_pairs_only() -> None:
    rng = np.random.default_rng(0)

    def person(count: int) -> np.ndarray:
        vectors = rng.standard_normal((count, 8))
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    people = [person(20) for _ in range(5)]
    threshold, pairs = calibrated(people)
    assert pairs == 20 * 20 * 10
    cosines = [float(a @ b) for i, one in enumerate(people) for other in people[:i] for a in one for b in other]
    assert threshold is not None
    assert np.mean(np.array(cosines) > threshold) <= 1e-3
    assert np.mean(np.array(cosines) >= threshold) >= 1e-3  # no stricter than it must be
    assert calibrated(people[:2]) == (None, 400)  # too few for a rate of 1e-3


def test_notes_say_what_is_left_out_and_why(pack: Path, photo_folder: Path) -> None:
    sources = concept_sources(photo_folder)
    judges, notes = load_judges(Models(identity=str(pack)), sources, 64, 0.3)
    assert notes["identity_threshold"] is None
    assert str(notes["detection"]).startswith("left out: 48 impostor pairs, 1000 needed")
    concepts = [source.load(64, 0.3) for source in sources]
    assert faceless(judges, concepts) == {"references_without_face": 0}
    blank = concepts[0].__class__("blank", "cat", FLAT[None], (("{}",),), FLAT[None])
    with pytest.raises(BadInputError, match="concept 'blank': no face is found in its 1 held-out photos"):
        faceless(judges, [blank])


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.nn.Module]:
    folder = tmp_path_factory.mktemp("vit")
    small = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 2}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(1)
        model = timm.create_model("vit_small_patch16_224", num_classes=3, **small)
    timm.models.save_for_hf(model, str(folder), model_args=small, safe_serialization=True)
    return folder, model.eval()


def test_dino_takes_all_pairs_of_the_models_own_features(vit: tuple[Path, torch.nn.Module]) -> None:
    folder, model = vit
    judge = DinoJudge(folder)
    images = np.stack([NOISE, FLAT, 255 - NOISE])
    # its configuration: 32 pixels are 0.9 of the resized side, bicubic, mean and deviation one half
    resize = transforms.Resize(35, transforms.InterpolationMode.BICUBIC)
    steps = (resize, transforms.CenterCrop(32), transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3))
    pixels = torch.stack([transforms.Compose(steps)(Image.fromarray(image)) for image in images])
    with torch.no_grad():
        features = model.forward_head(model.forward_features(pixels), pre_logits=True).double().numpy()
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    expected = [np.mean([features[i] @ features[j] for j in (1, 2)]) for i in range(3)]
    np.testing.assert_allclose(judge.alignment(images, images[1:]), expected, atol=1e-6)
    assert judge.alignment(images[:1], images[:1])[0] == pytest.approx(1.0)


def test_dino_reads_safetensors_only_and_whole(vit: tuple[Path, torch.nn.Module], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((vit[0] / "config.json").read_bytes())
    torch.save(vit[1].state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(StoredFileError, match=r"model\.safetensors does not exist"):
        DinoJudge(tmp_path)
    weights = (vit[0] / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(StoredFileError):
        DinoJudge(tmp_path)
    (tmp_path / "config.json").write_text('{"architecture": "vit_small_patch16_224"}')
    (tmp_path / "model.safetensors").write_bytes(weights)
    with pytest.raises(StoredFileError, match=r"does not fit its config\.json"):
        DinoJudge(tmp_path)


def test_a_base_is_its_loaded_files_and_half_precision_is_read_where_there_is_nothing_else(
    photo_base: Path, tmp_path: Path
) -> None:
    names = set(pipeline_hashes(photo_base))
    assert {"model_index.json", "scheduler/scheduler_config.json", "unet/diffusion_pytorch_model.safetensors",
            "text_encoder/model.safetensors", "vae/config.json", "tokenizer/tokenizer.json"} <= names  # fmt: skip
    folder = tmp_path / "base"
    shutil.copytree(photo_base, folder)
    before = pipeline_hashes(folder)
    unet = folder / "unet" / "diffusion_pytorch_model.safetensors"
    for unread in ("unet/diffusion_pytorch_model.non_ema.safetensors", "unet/diffusion_pytorch_model.fp16.safetensors",
                   "v1-5-pruned.safetensors"):  # fmt: skip
        shutil.copy(unet, folder / unread)
    assert pipeline_hashes(folder) == before
    assert variant(folder) is None
    (folder / "unet" / "diffusion_pytorch_model.non_ema.safetensors").unlink()
    for path in (unet, *folder.glob("vae/*.safetensors"), *folder.glob("text_encoder/*.safetensors")):
        path.rename(path.with_suffix(".fp16.safetensors"))
    assert variant(folder) == "fp16"
    assert "unet/diffusion_pytorch_model.fp16.safetensors" in pipeline_hashes(folder)
    assert load_pipeline(folder, "cpu").unet.dtype == torch.float32
    (folder / "unet" / "diffusion_pytorch_model.fp16.safetensors").unlink()
    with pytest.raises(StoredFileError) as broken:
        load_pipeline(folder, "cpu")
    assert "\n" not in str(broken.value)
