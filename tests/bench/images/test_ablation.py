"""Claim C10: the four parts, their controls, and what a verdict says where one of them is broken."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from bench import predict, prediction
from bench.ablation import ablations, groups, interval, judge_penalty
from bench.api import Cell
from bench.methods.images import METHODS
from bench.methods.images.ablations import CURVE
from bench.metrics.forgetting import summary
from bench.personalise import generic, shared
from bench.personalise.generic import generic_batches, generic_prompts
from bench.personalise.images import ConceptImages
from bench.personalise.shared import Training
from bench.personalise.studio import Studio
from bench.schema import CellAxes, CellRecord, Matrix, Provenance
from bench.store import Store
from bench.tasks.images import ImageWorkshop, Judges
from seqlora.errors import BadInputError
from seqlora.files import read_json, read_tensors

# just trained and final identity of four methods: what C10 says comes true
TRUE = {"seqlora-penalty": (0.7, 0.7), "seqlora": (0.7, 0.3), "fusion": (0.6, 0.6), "plain-sum": (0.8, 0.1)}


def record(method: str, seed: int, just: float, last: float, concepts: int = 3) -> CellRecord:
    rng = np.random.default_rng([seed, len(method)])
    R = np.where(np.tri(concepts, dtype=bool), last, np.nan)
    np.fill_diagonal(R, just)
    R[-1] = last + 0.002 * rng.standard_normal(concepts)
    energy = np.where(np.tri(concepts, dtype=bool), 1 - last, np.nan)
    nothing = [float("nan")] * concepts
    matrices = [
        Matrix(metric=name, R=values.tolist(), S=nothing, b=nothing)
        for name, values in (("identity", R), ("forgetting_energy", energy))
    ]
    provenance = Provenance(
        created_utc="", argv=[], git_revision=None, git_dirty=None, python="", packages={}, torch_build="", blas=[],
        os="", cpu="", device="cpu", threads=1, dtype="float32", weights={},
    )  # fmt: skip
    cell = CellAxes(task="portraits", method=method, n_concepts=concepts, order=0, seed=seed)
    return CellRecord(cell=cell, status="done", matrices=matrices, provenance=provenance, fingerprint="f")


def records(levels: Mapping[str, tuple[float, float]], seeds: int = 4, concepts: int = 3) -> list[CellRecord]:
    return [record(name, seed, *level, concepts) for name, level in levels.items() for seed in range(seeds)]


def test_true_on_every_task_holds() -> None:
    result = judge_penalty(records(TRUE))
    assert str(result.verdict) == "holds"
    assert result.controls_broken
    assert len(result.controls) == 2


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("removed", {"seqlora-penalty": (0.7, 0.65)}),
        ("adapts", {"seqlora-penalty": (0.2, 0.2), "fusion": (0.1, 0.1), "plain-sum": (0.1, 0.05)}),
        ("no fusion", {"fusion": (0.9, 0.9)}),
        ("less", {"seqlora-penalty": (0.7, 0.2)}),
    ],
)
def test_each_part_can_be_broken(part: str, change: dict[str, tuple[float, float]]) -> None:
    verdict = judge_penalty(records({**TRUE, **change})).verdict
    assert verdict.kind == "fails when"
    assert f"{part}: portraits, T = 3" in verdict.condition


def test_controls_that_hold_prove_nothing() -> None:
    verdict = judge_penalty(records({**TRUE, "plain-sum": (0.8, 0.8)})).verdict
    assert "told from its controls" in verdict.condition


def test_true_for_some_numbers_of_concepts_says_for_which() -> None:
    worse = {**TRUE, "seqlora-penalty": (0.7, 0.4)}
    verdict = judge_penalty(records(TRUE) + records(worse, concepts=5)).verdict
    assert verdict.kind == "holds when"
    assert verdict.condition.startswith("on portraits, T = 3; elsewhere not")
    assert "T = 5" in verdict.condition


def test_one_seed_is_no_replication_and_no_fusion_is_no_comparison() -> None:
    assert "without replication" in judge_penalty(records(TRUE, seeds=1)).verdict.condition
    alone = {name: TRUE[name] for name in ("seqlora-penalty", "seqlora")}
    assert "a fusion to compare with" in judge_penalty(records(alone)).verdict.condition
    with pytest.raises(BadInputError, match="no image cells"):
        judge_penalty(records({"fusion": TRUE["fusion"]}))


def test_intervals_are_student_s() -> None:
    values = np.random.default_rng(0).random(6)
    reference = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert interval(values) == pytest.approx((values.mean(), reference.low, reference.high))
    assert np.isnan(interval(values[:1])[1])


def test_every_variant_is_compared_with_the_penalised_method_on_its_seeds() -> None:
    levels = {**TRUE, CURVE[0]: (0.75, 0.5), "penalty-sketch": (0.7, 0.69)}
    rows = {str(row["method"]): row for row in ablations(groups(records(levels)))}
    assert set(rows) == {"seqlora-penalty", "seqlora", CURVE[0], "penalty-sketch"}
    assert rows["seqlora"]["gamma"] == 0.0
    assert rows[CURVE[0]]["gamma"] == 0.3
    assert rows["seqlora-penalty"]["final_difference"] == 0.0
    assert float(rows["seqlora"]["final_high"] or 0) < -0.3
    one = next(r for r in records(levels) if r.cell.method == "seqlora").matrix("identity")
    assert one is not None
    assert rows["seqlora"]["forgetting"] == pytest.approx(summary(one)["forgetting"], abs=0.01)


def test_the_command_writes_a_ledger(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prediction, "RESAMPLES", 60)
    store = Store(tmp_path / "bench")
    for one in records(TRUE):
        store.write(one)
    path = tmp_path / "images.json"
    predict.predict_command(store.folder, path, None, 0)
    ledger = read_json(path)
    assert [result["claim"] for result in ledger["results"]] == ["C9", "C10"]
    assert ledger["results"][1]["verdict"]["kind"] == "holds"
    assert "C10" in capsys.readouterr().out
    with pytest.raises(BadInputError, match="no image cells to judge"):
        predict.predict_command(store.folder, path, ["another"], 0)
    with pytest.raises(BadInputError, match="is no store"):
        predict.predict_command(tmp_path / "nowhere", path, None, 0)
    # a store without the penalised method still gets its C9
    some = Store(tmp_path / "some")
    for one in records({name: TRUE[name] for name in ("fusion", "plain-sum")}):
        some.write(one)
    predict.predict_command(some.folder, path, None, 0)
    assert [result["claim"] for result in read_json(path)["results"]] == ["C9"]


@pytest.fixture
def workshop(training: Training, load: Callable[[], Any]) -> ImageWorkshop:
    noise = tuple(np.random.SeedSequence(9, spawn_key=(j,)) for j in range(4))
    return ImageWorkshop(training, load, Studio(load(), 16, 2, 2.0), Judges(), ("a photo of {}",), noise, 2, 3)


def test_variants_change_what_they_say(workshop: ImageWorkshop) -> None:
    def configuration(name: str) -> Any:
        seen = []
        method = METHODS[name]
        before = workshop.trained
        workshop.trained = lambda config, **options: seen.append((config, options)) or []  # type: ignore[method-assign]
        method.train(workshop)
        workshop.trained = before  # type: ignore[method-assign]
        return seen[0]

    plain, usual = configuration("seqlora-penalty")
    assert configuration("penalty-uniform")[0].forgetting_scale == "none"
    assert configuration("penalty-output-scale")[0].forgetting_scale == "output"
    assert configuration("penalty-sketch")[0].moments == "sketch"
    same, options = configuration("penalty-without-base")
    assert (same, options) == (plain, {**usual, "generic": False})
    assert usual["generic"]
    assert plain.forgetting_scale == "gradient"
    assert plain.moments == "exact"
    layerwise, spoken = configuration("seqlora-penalty-layerwise")
    kronecker, options = configuration("seqlora-penalty-kronecker")
    assert (kronecker, options) == (replace(layerwise, forgetting_scale="kronecker"), spoken)
    assert options["replay"] == 0.0
    assert configuration("seqlora-replay") == (replace(kronecker, forgetting_weight=3.0), {**spoken, "replay": 1.0})


def test_the_base_model_s_moments_are_remembered_first(
    workshop: ImageWorkshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generic, "DRAWING_STEPS", 1)
    monkeypatch.setattr(shared, "MOMENT_BATCHES", 2)
    with_base = METHODS["seqlora-penalty"].train(workshop)
    without = METHODS["penalty-without-base"].train(workshop)
    folders = [p for p in (workshop.training.shared / "trainings").iterdir() if p.is_dir()]
    remembered = sorted(read_json(folder / "sequence.json")["moments"]["remembered"] for folder in folders)
    assert remembered == [3, 4]
    layer = next(iter(without[0].factors))
    # already the first concept is held back by what the base model draws; without it nothing is
    assert not np.allclose(with_base[0].factors[layer][1], without[0].factors[layer][1], atol=1e-7)
    assert read_tensors(next(folders[0].glob("moments-*.safetensors")))


def test_generic_prompts_name_the_class_and_batches_repeat(
    concepts: tuple[ConceptImages, ...], load: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generic, "DRAWING_STEPS", 2)
    prompts = generic_prompts(concepts[0])
    assert prompts == ["a person", "a photo of a person"]
    pipeline = load()
    first, again, other = (
        list(generic_batches(pipeline, prompts, 2, 2, np.random.SeedSequence(seed))) for seed in (0, 0, 1)
    )
    assert len(first) == 2
    assert first[0].latents.shape == (2, 4, 4, 4)
    np.testing.assert_array_equal(first[0].latents, again[0].latents)
    assert not np.array_equal(first[0].latents, other[0].latents)
    assert not np.array_equal(first[0].latents, first[1].latents)
    assert Cell("portraits", CURVE[0], 2).method.endswith("gamma=0.3")
