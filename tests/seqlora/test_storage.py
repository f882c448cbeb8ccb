"""Folders: resume to the bit after a kill, and one line for everything that can be wrong with a file."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from seqlora import ConceptSequence
from seqlora.errors import BadInputError, SeqLoRAError, StoredFileError
from seqlora.files import atomic_write, check_name, read_json, write_json, write_tensors

SCRIPT = '''
"""Three concepts with dropout noise, penalty and cap; killed at step `at` of concept `which`, or not at all."""
import os, signal, sys
from pathlib import Path
import torch
from torch import nn
from seqlora import ConceptSequence, SeqLoRAConfig
import seqlora.storage as storage

folder, which, at = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
torch.set_num_threads(1)
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(12, 12), nn.Dropout(0.2), nn.Tanh(), nn.Linear(12, 6))
config = SeqLoRAConfig(rank=2, target_modules=("0", "3"), start_batches=2, forgetting_weight=0.5,
                       max_update_norm=3.0, schedule="cosine", inner_steps=1)
kill = lambda: os.kill(os.getpid(), signal.SIGKILL)
if which == "index":  # between writing the concept's file and the index that names it
    write, count = storage.write_index, iter(range(9))
    storage.write_index = lambda *a: kill() if next(count) == at else write(*a)
sequence = ConceptSequence(model, config, folder, checkpoint_every=4)
if which == "between":
    sequence.add_hook("concept_end", lambda s, name: kill() if len(s.concepts) == at else None)
for index, name in enumerate(["one", "two", "three"]):
    generator = torch.Generator().manual_seed(index)
    batches = [(torch.randn(8, 12, generator=generator), torch.randn(8, 6, generator=generator)) for _ in range(15)]
    noisy = lambda m, b: (m(b[0] + 0.1 * torch.randn(8, 12)) - b[1]).square().mean()
    for step in sequence.learn(name, batches, noisy):
        if step.concept == which and step.index == at:
            kill()
sequence.save_pretrained(folder)
'''


def run(folder: Path, which: str = "nothing", at: int = 0) -> int:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", SCRIPT, str(folder), which, str(at)]
    return subprocess.run(command, env=environment, check=False, capture_output=True, timeout=300).returncode


def stored(folder: Path) -> dict[str, Any]:
    tensors = {}
    for path in sorted(folder.rglob("*.safetensors")):
        tensors |= {f"{path.relative_to(folder)}:{key}": value for key, value in load_file(path).items()}
    return tensors


@pytest.mark.slow  # a Python with torch and PEFT starts twice for each moment
@pytest.mark.parametrize(
    "moments",
    [[("one", 2)], [("two", 9), ("three", 14)], [("between", 1), ("two", 0)], [("index", 0), ("index", 1)]],
    ids=["before the first checkpoint", "twice, in two concepts", "between concepts", "before the index"],
)
def test_killed_anywhere_gives_the_same_bits(tmp_path: Path, moments: list[tuple[str, int]]) -> None:
    assert run(tmp_path / "whole") == 0
    for which, at in moments:
        assert run(tmp_path / "killed", which, at) == -signal.SIGKILL
    assert run(tmp_path / "killed") == 0
    whole, killed = stored(tmp_path / "whole"), stored(tmp_path / "killed")
    assert whole.keys() == killed.keys()
    assert [key for key in whole if not torch.equal(whole[key], killed[key])] == []
    other = {key: value for key, value in whole.items() if "three" in key and ":B" in key}
    assert all(value.abs().max() > 0 for value in other.values())


@pytest.mark.parametrize("scale", ["output", "kronecker"])
def test_stopping_and_going_on_gives_the_same_bits(mlp: SimpleNamespace, tmp_path: Path, scale: str) -> None:
    """The same in one process, with a loss that draws from torch's generator."""
    config = mlp.config(forgetting_weight=0.5, forgetting_scale=scale, inner_steps=1)

    def noisy(model: Any, batch: Any) -> torch.Tensor:
        return mlp.loss(model, (batch[0] + 0.1 * torch.randn(batch[0].shape), batch[1]))

    def play(folder: Path, stop: tuple[str, int] | None) -> ConceptSequence | None:
        sequence = ConceptSequence(mlp.model(), config, folder, checkpoint_every=3)
        for index, name in enumerate(["a", "b"]):
            for step in sequence.learn(name, mlp.batches(index, 14), noisy):
                if stop == (step.concept, step.index):
                    return None
        return sequence

    torch.manual_seed(5)
    whole = play(tmp_path / "whole", None)
    assert whole is not None
    for stop in (("a", 7), ("b", 3), ("b", 13)):
        folder = tmp_path / f"{stop[0]}{stop[1]}"
        torch.manual_seed(5)
        assert play(folder, stop) is None
        torch.manual_seed(99)  # whatever a new process starts from
        again = play(folder, None)
        assert again is not None
        for name in "ab":
            for layer in ("0", "2"):
                pairs = zip(whole.concepts[name].factors[layer], again.concepts[name].factors[layer], strict=True)
                assert all(torch.equal(x, y) for x, y in pairs)
    for layer, other in zip(whole.layers, again.layers, strict=True):
        assert torch.equal(layer.weight, other.weight)
    assert list((tmp_path / "b13" / "partial").iterdir()) == []


def test_a_checkpoint_is_dropped_when_other_concepts_came_between(mlp: SimpleNamespace, tmp_path: Path) -> None:
    sequence = ConceptSequence(mlp.model(), mlp.config(), tmp_path, checkpoint_every=2)
    for step in sequence.learn("late", mlp.batches(0), mlp.loss):
        if step.index == 6:
            break
    mlp.learn(sequence, "early", 1)
    steps = mlp.learn(sequence, "late")
    assert steps[0].index == 0  # from the start: the checkpoint knew nothing of "early"
    A, past = (sequence.concepts[name].factors["0"][0] for name in ("late", "early"))
    assert float((A @ past.mT).abs().max()) <= 1e-6


def test_round_trip_rebuilds_the_merged_model(mlp: SimpleNamespace, tmp_path: Path) -> None:
    sequence = ConceptSequence(mlp.model(), mlp.config(forgetting_weight=1.0))
    for concept in range(3):
        mlp.learn(sequence, f"c{concept}", concept)
    sequence.save_pretrained(tmp_path)
    sequence.save_pretrained(tmp_path)  # again is fine
    loaded = ConceptSequence.from_pretrained(mlp.model(), tmp_path)
    assert loaded.config == sequence.config
    assert list(loaded.concepts) == ["c0", "c1", "c2"]
    for ours, theirs in zip(sequence.layers, loaded.layers, strict=True):
        assert torch.equal(ours.weight, theirs.weight)
    assert all(torch.equal(sequence.past.factors[k], loaded.past.factors[k]) for k in ("0", "2"))
    mlp.learn(sequence, "c3", 3)
    mlp.learn(loaded, "c3", 3)
    assert torch.equal(sequence.concepts["c3"].factors["0"][1], loaded.concepts["c3"].factors["0"][1])


def test_another_sequence_is_not_mixed_in(mlp: SimpleNamespace, tmp_path: Path) -> None:
    for concept, folder in enumerate((None, tmp_path)):
        sequence = ConceptSequence(mlp.model(), mlp.config(), folder)
        mlp.learn(sequence, "same-name", concept)
        if folder is None:
            other = sequence
    with pytest.raises(BadInputError, match="already holds a sequence"):
        other.save_pretrained(tmp_path)
    with pytest.raises(BadInputError, match=r"was made with rank=2, not 3"):
        ConceptSequence(mlp.model(), mlp.config(rank=3), tmp_path)


def _truncate(folder: Path) -> None:
    path = folder / "concepts" / "a.safetensors"
    path.write_bytes(path.read_bytes()[:-40])


def _alter(folder: Path) -> None:
    path = folder / "concepts" / "a.safetensors"
    tensors = load_file(path)
    tensors["B:0"] = tensors["B:0"] + 1e-3
    save_file(tensors, path)


def _edit_index(**changes: Any) -> Any:
    def edit(folder: Path) -> None:
        path = folder / "sequence.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return edit


def _other_moments(folder: Path) -> None:
    save_file({"elsewhere": torch.ones(2, 2)}, folder / "moments-1.safetensors")


DAMAGE = {
    "truncated": (_truncate, "is not a whole safetensors file"),
    "altered": (_alter, "sha256 differs"),
    "missing": (lambda folder: (folder / "concepts" / "a.safetensors").unlink(), "does not exist"),
    "garbage": (lambda folder: (folder / "concepts" / "a.safetensors").write_bytes(b"\x80\x04pickle"), "not a whole"),
    "schema": (_edit_index(schema=99), "is not of schema 1"),
    "half an index": (lambda folder: (folder / "sequence.json").write_text('{"schema": 1,'), "not readable JSON"),
    "no concepts": (lambda folder: (folder / "sequence.json").write_text('{"schema": 1, "config": {}}'), "lacks"),
    "nameless": (_edit_index(concepts=[{"name": "a"}]), "without name or sha256"),
    "hostile name": (_edit_index(concepts=[{"name": "../../a", "sha256": "0"}]), "cannot be a file name"),
    "hostile moments": (_edit_index(moments={"remembered": 1, "file": "../x"}), "cannot be a file name"),
    "other moments": (_other_moments, "not those of this model"),
    "list": (lambda folder: (folder / "sequence.json").write_text("[]"), "is not of schema 1"),
    "unknown field": (_edit_index(config={"rang": 3}), "has no field 'rang'"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_folders_get_one_line(mlp: SimpleNamespace, tmp_path: Path, damage: str) -> None:
    sequence = ConceptSequence(mlp.model(), mlp.config(forgetting_weight=1.0), tmp_path)
    mlp.learn(sequence, "a")
    break_it, message = DAMAGE[damage]
    break_it(tmp_path)
    with pytest.raises(SeqLoRAError, match=message) as caught:
        ConceptSequence.from_pretrained(mlp.model(), tmp_path)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_another_model_is_refused(mlp: SimpleNamespace, tmp_path: Path) -> None:
    sequence = ConceptSequence(mlp.model(), mlp.config(), tmp_path)
    mlp.learn(sequence, "a")
    with pytest.raises(StoredFileError, match="0 has factors"):
        ConceptSequence.from_pretrained(mlp.model(16), tmp_path)


@pytest.mark.parametrize("content", [{}, {"scalars": torch.zeros(3, dtype=torch.uint8)}])
def test_a_damaged_checkpoint_gets_one_line(mlp: SimpleNamespace, tmp_path: Path, content: dict[str, Any]) -> None:
    (tmp_path / "partial").mkdir()
    save_file(content or {"x": torch.zeros(1)}, tmp_path / "partial" / "a.safetensors")
    sequence = ConceptSequence(mlp.model(), mlp.config(), tmp_path)
    with pytest.raises(StoredFileError, match="is no checkpoint"):
        mlp.learn(sequence, "a")


def test_a_checkpoint_of_another_configuration_is_refused(mlp: SimpleNamespace, tmp_path: Path) -> None:
    sequence = ConceptSequence(mlp.model(), mlp.config(), tmp_path, checkpoint_every=2)
    for step in sequence.learn("a", mlp.batches(0), mlp.loss):
        if step.index == 6:
            break
    changed = ConceptSequence(mlp.model(), mlp.config(ridge=0.5), tmp_path)
    with pytest.raises(BadInputError, match=r"ridge=0.001, not 0.5"):
        mlp.learn(changed, "a")


# --- files ----------------------------------------------------------------------------------------------------------


def test_a_folder_that_cannot_be_written(mlp: SimpleNamespace, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    sequence = ConceptSequence(mlp.model(), mlp.config())
    mlp.learn(sequence, "a")
    for folder in (blocked, blocked / "below"):
        with pytest.raises(StoredFileError, match=r"cannot write .*choose another folder"):
            sequence.save_pretrained(folder)
        with pytest.raises(StoredFileError, match="cannot write"):
            sequence.export(folder, "a")


def _write_with_no_room(path: Path) -> None:
    """In a process whose files may not grow past 1000 bytes: what a full disk looks like, the write fails midway."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    for write, value in ((write_tensors, {"x": torch.ones(4000)}), (write_json, ["x" * 4000])):
        with pytest.raises(StoredFileError, match="cannot write") as caught:
            write(path, value)
        assert "\n" not in str(caught.value)


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    path.write_text("old")
    child = multiprocessing.get_context("fork").Process(target=_write_with_no_room, args=(path,))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["kept"]


def test_an_exception_midway_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})

    def interrupted() -> None:
        with atomic_write(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert read_json(path) == {"a": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.json"]
    with pytest.raises(BadInputError, match="cannot store"):
        write_json(path, float("nan"))


def test_strided_and_shared_tensors_are_stored(tmp_path: Path) -> None:
    base = torch.arange(12.0).view(3, 4)
    write_tensors(tmp_path / "t.safetensors", {"whole": base, "turned": base.mT, "part": base[:, 1]})
    loaded = load_file(tmp_path / "t.safetensors")
    assert torch.equal(loaded["turned"], base.mT)
    assert torch.equal(loaded["part"], base[:, 1])


@pytest.mark.parametrize("name", ["a", "A-1_b.c", "x" * 100])
def test_good_names_pass(name: str) -> None:
    assert check_name(name, "concept") == name


def test_what_is_remembered_by_name_counts_once_after_a_restart(mlp: SimpleNamespace, tmp_path: Path) -> None:
    def script() -> ConceptSequence:
        sequence = ConceptSequence(mlp.model(), mlp.config(forgetting_weight=1.0), folder=tmp_path)
        sequence.remember(mlp.batches(5, 3), mlp.loss, name="generic")
        mlp.learn(sequence, "c0")
        return sequence

    first, again = script(), script()
    assert first.past.count == again.past.count == 2
    assert all(torch.equal(first.past.factors[k], again.past.factors[k]) for k in first.past.factors)
