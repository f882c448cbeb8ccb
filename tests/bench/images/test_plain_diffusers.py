"""A concept that was learnt here draws the same image in a script that knows nothing but diffusers."""

from __future__ import annotations

import runpy
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bench.api import Cell
from bench.executors import Resources, Serial
from bench.export import find_training, read_concept
from bench.methods.images.api import weighted_sum
from bench.models import load_pipeline
from bench.personalise.export import LORA_FILE, TOKEN_FILE
from bench.personalise.folders import concept_sources
from bench.personalise.learner import Budget
from bench.personalise.shared import Training
from bench.personalise.studio import Studio
from bench.runner import Job, run
from bench.store import Store
from bench.tasks.photos import planned
from bench.world import assets
from seqlora import SeqLoRAConfig
from seqlora.errors import BadInputError

from .conftest import bench

SCRIPT = Path(__file__).parents[3] / "examples" / "plain_diffusers.py"
PROMPT = "a photo of <chelsea> cat in the snow"


def draw_plainly(base: Path, concept: Path, image: Path, seed: int) -> np.ndarray:
    """Run the script; its images in [0, 1]."""
    words = (base, concept, PROMPT, image, "--seed", seed, "--steps", 3, "--guidance", 2.0)
    old, sys.argv = sys.argv, ["plain_diffusers.py", *map(str, words)]
    try:
        images: np.ndarray = runpy.run_path(str(SCRIPT))["images"]
    finally:
        sys.argv = old
    return images


def test_the_script_imports_nothing_of_ours() -> None:
    text = SCRIPT.read_text()
    imported = {line.split()[1].split(".")[0] for line in text.splitlines() if line.startswith(("import ", "from "))}
    assert imported == {"argparse", "pathlib", "torch", "diffusers"}


def test_an_exported_concept_draws_the_same_image(photo_base: Path, photo_folder: Path, tmp_path: Path) -> None:
    config = SeqLoRAConfig(
        rank=2, target_modules=r"unet\..*attn[12]\.(to_q|to_k|to_v|to_out\.0)", basis="free", orthogonal=False,
        start="random", inner_steps=0, train_on="base", start_batches=2, coefficient_learning_rate=0.05,
    )  # fmt: skip
    concepts = tuple(source.load(32, 0.3) for source in concept_sources(photo_folder)[:1])
    training = Training("base", concepts, (np.random.SeedSequence(1),), Budget(3, 2), tmp_path)
    (learnt,) = training.run(config, lambda: load_pipeline(photo_base, "cpu"))
    assert bench("export", tmp_path / "trainings" / learnt.training, "chelsea", tmp_path / "files") == 0

    studio = Studio(load_pipeline(photo_base, "cpu"), 32, steps=3, guidance=2.0)
    studio.know("<chelsea>", "cat", learnt.token)
    untrained = studio.draw([PROMPT], np.random.SeedSequence(5), "<chelsea>")
    studio.show(weighted_sum([learnt], [1.0]))
    ours = studio.draw([PROMPT], np.random.SeedSequence(5), "<chelsea>")
    seed = int(np.random.SeedSequence(5).generate_state(1, np.uint64)[0]) >> 1  # of the studio's first image
    exact = studio.pipeline(
        [PROMPT], height=32, width=32, num_inference_steps=3, guidance_scale=2.0,
        generator=[torch.Generator().manual_seed(seed)], output_type="np",
    ).images  # fmt: skip

    theirs = draw_plainly(photo_base, tmp_path / "files", tmp_path / "cat.png", seed)
    np.testing.assert_allclose(theirs, exact, atol=1e-4)  # float32: W0 + BA against W0 x + B(A x)
    assert np.abs(np.rint(theirs * 255) - ours).max() <= 1  # rounding to 8 bits
    assert np.abs(np.asarray(Image.open(tmp_path / "cat.png"), dtype=int) - ours[0]).max() <= 1
    assert np.abs(untrained.astype(int) - ours).max() > 1  # the concept changes the image


def test_trainings_are_found_in_a_store(
    photo_base: Path, photo_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"base": str(photo_base), "clip": f"local-dir:{assets.clip_folder()}"}
    task = planned(f"{photo_folder},steps=1,batch=1,prompts=1,sampler_steps=1", options)
    cells = [Cell(task, method, 1) for method in ("token-only", "plain-sum", "plain-average")]
    run(cells, Job(tmp_path, options=options), Serial(Resources(1, 1, "", tmp_path)))
    store = Store(tmp_path)
    shared = find_training(store, "chelsea", "plain")  # both plain methods use one training
    assert shared == find_training(store, "chelsea", "plain-sum")
    assert read_concept(shared, "chelsea").factors
    alone = find_training(store, "chelsea", "token-only")
    assert read_concept(alone, "chelsea").factors == {}
    with pytest.raises(BadInputError, match="several trainings of 'chelsea'"):
        find_training(store, "chelsea")
    assert bench("export", tmp_path, "chelsea", tmp_path / "files", "--method", "plain") == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "files")
    assert {path.name for path in (tmp_path / "files").iterdir()} == {TOKEN_FILE, LORA_FILE}
    assert bench("export", tmp_path, "chelsea", tmp_path / "files") == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    with pytest.raises(BadInputError, match="no finished image cell with concept 'bob'"):
        find_training(store, "bob")
    with pytest.raises(BadInputError, match="holds no concept 'bob'; it holds: chelsea"):
        read_concept(shared, "bob")


def test_mixed_precision_and_checkpointing_learn_and_draw(photo_base: Path, photo_folder: Path, tmp_path: Path) -> None:
    concepts = tuple(source.load(32, 0.3) for source in concept_sources(photo_folder)[:1])
    training = Training("base", concepts, (np.random.SeedSequence(1),), Budget(2, 2), tmp_path)
    vectors = []
    for budget in (Budget(2, 2), Budget(2, 2, checkpointing=True), Budget(2, 2, bfloat16=True)):
        plain = SeqLoRAConfig(
            rank=2, target_modules=r"unet\..*attn2\.(to_q|to_k)", basis="free", orthogonal=False, start="random",
            inner_steps=0, train_on="base", start_batches=2, coefficient_learning_rate=0.05,
        )  # fmt: skip
        vectors.append(replace(training, budget=budget).run(plain, lambda: load_pipeline(photo_base, "cpu"))[0].token)
    torch.testing.assert_close(vectors[0], vectors[1], atol=1e-5, rtol=1e-4)
    assert not torch.equal(vectors[0], vectors[2])
    torch.testing.assert_close(vectors[0], vectors[2], atol=5e-2, rtol=0.5)
    studio = Studio(load_pipeline(photo_base, "cpu"), 32, steps=1, guidance=2.0, batch=1, bfloat16=True)
    exact = Studio(load_pipeline(photo_base, "cpu"), 32, steps=1, guidance=2.0)
    prompts = ["a photo of a cat", "a photo of a person"]
    mixed, full = (one.draw(prompts, np.random.SeedSequence(2)) for one in (studio, exact))
    assert np.abs(mixed.astype(int) - full).mean() < 4
