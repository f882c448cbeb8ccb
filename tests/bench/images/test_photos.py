"""A user's photographs, Stable Diffusion and judges, from the command line to the stored matrices."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from bench.schema import CellRecord
from bench.store import Store
from bench.world import assets

from .conftest import bench, save_base

BUDGET = "steps=2,batch=2,prompts=2,sampler_steps=2"
METHODS = ("plain-sum", "seqlora")
COMPOSED = ("region_identity", "leakage", "region_clip_image", "leakage_clip_image", "region_dino", "leakage_dino")


def by(*methods: str) -> list[str]:
    return [word for method in methods for word in ("--method", method)]


def run(folder: Path, out: Path, *arguments: object, methods: tuple[str, ...] = ("plain-sum",)) -> int:
    task = f"photos:{folder},{BUDGET}"
    common = ("--concepts", 2, "--executor", "serial", "--out", out, *by(*methods))
    return bench("run", "--task", task, *common, *arguments)


@pytest.fixture(scope="module")
def clip() -> str:
    return f"local-dir:{assets.clip_folder()}"


@pytest.fixture(scope="module")
def dino(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A timm vision transformer as the hub stores it."""
    folder = tmp_path_factory.mktemp("dino")
    small = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 2}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = timm.create_model("vit_small_patch16_224", num_classes=3, **small)
    timm.models.save_for_hf(model, str(folder), model_args=small, safe_serialization=True)
    return folder


@pytest.fixture(scope="module")
def store(
    tmp_path_factory: pytest.TempPathFactory, photo_folder: Path, photo_base: Path, clip: str, dino: Path
) -> Store:
    """Two methods on two concepts, judged by everyone."""
    out = tmp_path_factory.mktemp("store")
    judges = ("--clip", clip, "--identity", assets.identity_model(), "--dino", dino, "--threshold", "0.4")
    assert run(photo_folder, out, "--base", photo_base, *judges, methods=METHODS) == 0
    return Store(out)


def records(store: Store) -> list[CellRecord]:
    return list(store.all_records())


def test_every_metric_of_a_users_cells_is_finite(store: Store, photo_folder: Path) -> None:
    cells = records(store)
    assert sorted(record.cell.method for record in cells) == ["plain-sum", "seqlora"]
    for record in cells:
        assert record.status == "done", record.reason
        assert record.concepts == ["chelsea", "eileen"]
        judged = {matrix.metric for matrix in record.matrices}
        # a lone .onnx has no detector: no face-found rate
        assert judged >= {"identity", "detection", "clip_text", "clip_image", "dino", "forgetting_energy"}
        assert not judged & {"face_found", "context"}
        for matrix in record.matrices:
            values = matrix.to_matrix()
            assert np.isfinite(values.values[np.tril_indices(2)]).all(), matrix.metric
        assert all(value.value is not None and np.isfinite(value.value) for value in record.values)
        assert {"drift", "cross_similarity", "identity_real"} <= {value.metric for value in record.values}
        composed = {f"{how}{name}" for how in ("", "plain_") for name in COMPOSED}
        assert composed <= {value.metric for value in record.values}
        with Image.open(store.folder / record.artifacts["composed"]) as picture:
            assert picture.width >= 4 * record.settings["size"]  # drawn from one prompt, and by regions
        assert record.settings["size"] == 32  # what the base was made for
        assert {"base/unet/diffusion_pytorch_model.safetensors", "identity/identity.onnx", "dino/model.safetensors",
                "clip/open_clip_model.safetensors"} <= set(record.provenance.weights)  # fmt: skip
        assert record.cell.task.startswith(f"photos:{photo_folder},")
        assert (store.folder / record.artifacts["gallery"]).is_file()


def test_stored_cells_are_found_again_by_their_models_and_by_their_full_name(
    store: Store, photo_folder: Path, photo_base: Path, clip: str, dino: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judges = ("--clip", clip, "--identity", assets.identity_model(), "--dino", dino, "--threshold", "0.4")
    assert run(photo_folder, store.folder, "--base", photo_base, *judges, methods=METHODS) == 0
    assert "0 cells computed, 2 were stored" in capsys.readouterr().err
    full = records(store)[0].cell.task
    assert bench("status", "--task", full, "--concepts", 2, "--out", store.folder, *by(*METHODS)) == 0
    assert bench("collect", "--task", full, "--concepts", 2, "--out", store.folder, *by(*METHODS)) == 0


def test_another_base_is_another_cell_and_another_judge_shares_the_trainings(
    store: Store, photo_folder: Path, photo_base: Path, clip: str, tmp_path: Path
) -> None:
    def trainings() -> set[str]:
        return {path.name for path in (store.shared / "trainings").iterdir() if path.is_dir()}

    before, known = trainings(), {record.cell.task for record in records(store)}
    assert run(photo_folder, store.folder, "--base", photo_base, "--clip", clip) == 0
    assert trainings() == before
    new = {record.cell.task for record in records(store)} - known
    assert len(new) == 1
    first, second = (r for r in records(store) if r.cell.method == "plain-sum")
    for metric in ("clip_text", "clip_image"):  # the same photos, prompts and noise
        np.testing.assert_array_equal(first.matrix(metric).values, second.matrix(metric).values)
    other = save_base(tmp_path / "other", seed=1)
    assert run(photo_folder, store.folder, "--base", other, "--clip", clip) == 0
    assert len({record.cell.task for record in records(store)} - known - new) == 1
    assert len(trainings()) == len(before) + 1


def test_a_cell_planned_on_other_models_fails_with_one_line(
    store: Store, clip: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    full = records(store)[0].cell.task
    arguments = ("--task", full, "--concepts", 2, "--method", "plain-sum", "--clip", clip, "--executor", "serial")
    assert bench("run", *arguments, "--out", tmp_path) == 3
    assert "are not those of content=" in capsys.readouterr().err


def test_losses_that_are_not_finite_fail_the_cell_with_one_line(photo_folder: Path, clip: str, tmp_path: Path) -> None:
    base = save_base(tmp_path / "base")
    weights = base / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    tensors["conv_in.weight"] = torch.full_like(tensors["conv_in.weight"], float("nan"))
    save_file(tensors, weights, {"format": "pt"})
    assert run(photo_folder, tmp_path / "out", "--base", base, "--clip", clip) == 3
    (record,) = records(Store(tmp_path / "out"))
    assert record.reason.startswith("concept 'chelsea': the loss is nan at step 0")
    assert "\n" not in record.reason


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "nothing would judge the images"),
        (("--clip", "EMBEDDED", "--base", "nowhere/sd"), "neither a folder nor in the hub's cache"),
        (("--clip", "local-dir:nowhere"), "there is no such folder"),
        (("--clip", "ViT-Q"), "does not know the weights 'openai'; nor that architecture"),
        (("--clip", "ViT-B-32:mine"), "does not know the weights 'mine'; known: openai"),
        (("--dino", "vit_small_patch16_224.dino"), "neither a folder nor in the hub's cache"),
        (("--identity", "nowhere/w600k.onnx"), "does not exist"),
        (("--identity", "no_such_pack"), "is no insightface pack"),
        (("--clip", "EMBEDDED", "--device", "quantum"), "device 'quantum' is not there"),
        (("--clip", "EMBEDDED", "--dtype", "int4"), "dtype 'int4' is not one of float32, bfloat16"),
        (("--clip", "EMBEDDED", "--threshold", "2"), "is no cosine"),
    ],
)
def test_models_that_are_not_there_are_refused_before_anything_runs(
    arguments: tuple[str, ...], message: str, photo_folder: Path, clip: str, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    given = [clip if argument == "EMBEDDED" else argument for argument in arguments]
    assert run(photo_folder, tmp_path / "out", *given) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_photos_that_cannot_be_used_are_refused_before_anything_runs(
    photo_folder: Path, clip: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "photos"
    shutil.copytree(photo_folder, folder)
    (folder / "eileen" / "3.jpg").write_bytes(b"no photo")
    assert run(folder, tmp_path / "out", "--clip", clip) == 2
    error = capsys.readouterr().err.strip()
    assert "3.jpg does not decode as an image" in error
    assert len(error.splitlines()) == 1
    assert bench("run", "--task", f"photos:{photo_folder}", "--clip", clip, "--concepts", 4, "--out", tmp_path) == 2
    assert "has 3 concepts, not 4" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_embedded_base_takes_photographs_too(
    photo_folder: Path, clip: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    budget = BUDGET.replace("steps=2", "steps=1")
    task, one = f"photos:{photo_folder},{budget}", ("--concepts", 1, "--method", "token-only")
    assert bench("run", "--task", task, *one, "--clip", clip, "--out", tmp_path) == 0
    (record,) = records(Store(tmp_path))
    assert record.settings["size"] == 64
    assert record.matrix("clip_image") is not None


def test_models_without_a_task_that_uses_them_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("run", "--task", "linear-synthetic", "--base", "x", "--out", tmp_path) == 2
    assert "base: only tasks on your own models use this" in capsys.readouterr().err
