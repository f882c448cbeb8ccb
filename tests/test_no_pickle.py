"""No pickle is ever loaded from a file: shown by our sources, and by runs in which unpickling is an error.

The one place where pickles exist is between our own processes: loky, dask and submitit send a cell to a worker and an
outcome back in that form (submitit through files in the store's own `submitit` folder). Whoever can write there can
run code as you; nothing else that is read (records, tensors, models, images, tables) can.
"""

from __future__ import annotations

import ast
import importlib
import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import theory.__main__ as theory_cli
from bench.api import Cell
from bench.collect import read_parquet, write_parquet
from bench.executors import Resources, Serial
from bench.runner import Job, run
from bench.store import Store
from bench.world import assets
from seqlora import ConceptSequence, SeqLoRAConfig

ROOT = Path(__file__).parents[1]
PACKAGES = ("seqlora", "theory", "bench", "reports")
MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "shelve", "marshal", "pickletools"}
CALLS = {"read_pickle", "to_pickle"}  # of pandas
LOADERS = {"Pipeline", "Model", "AutoModel"}  # what from_pretrained of diffusers and transformers is called on ends so


def sources() -> list[Path]:
    files = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    assert len(files) > 100
    return files


def offences(source: str) -> list[str]:
    """What in a source could load a pickle."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.partition(".")[0] in MODULES]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
            found += [
                name for name in names if name.partition(".")[0] in MODULES or name in ("joblib.load", "torch.load")
            ]
        elif isinstance(node, ast.Constant) and node.value in MODULES:
            found.append(f"the name {node.value!r}, which import_module could be given")
        elif isinstance(node, ast.Call):
            found += _call(node)
    return found


def _call(node: ast.Call) -> list[str]:
    """What is wrong with a call."""
    text = ast.unparse(node.func)
    last = text.rpartition(".")[2]
    given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
    safe = {
        "torch.load": given.get("weights_only") == "True",
        "np.load": given.get("allow_pickle") == "False",
        "numpy.load": given.get("allow_pickle") == "False",
        "joblib.load": False,
    }
    if not safe.get(text, True) or last in CALLS:
        return [ast.unparse(node)]
    if last == "from_pretrained" and text.split(".")[0].endswith(tuple(LOADERS)):
        return [] if given.get("use_safetensors") == "True" else [ast.unparse(node)]
    return []


def test_no_source_of_ours_can_load_a_pickle() -> None:
    found = {str(path.relative_to(ROOT)): bad for path in sources() if (bad := offences(path.read_text("utf-8")))}
    assert not found


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "def f():\n    from pickle import loads",
        "import cloudpickle as c",
        "import_module('dill')",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "pd.read_pickle(path)",
        "joblib.load(path)",
        "from joblib import load",
        "StableDiffusionPipeline.from_pretrained(folder)",
        "AutoModel.from_pretrained(folder, use_safetensors=False)",
    ],
)
def test_a_pickle_would_be_seen(source: str) -> None:
    assert offences(source)


def test_harmless_calls_pass() -> None:
    for source in (
        "np.load(p, allow_pickle=False)",
        "json.load(f)",
        "torch.load(p, weights_only=True)",
        "store.load(p)",
    ):
        assert not offences(source)


# --- at run time ----------------------------------------------------------------------------------------------------


class UnpickledError(AssertionError):
    """Something was unpickled."""


_watching = False


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    """Python tells its audit hooks of every global that any unpickler, in C or in Python, looks up."""
    if _watching and event == "pickle.find_class":
        raise UnpickledError(f"unpickling looked up {arguments}")


sys.addaudithook(_watch)  # hooks stay for the life of the process; this one sleeps outside the block below


@contextmanager
def unpickling_is_an_error(patch: pytest.MonkeyPatch) -> Iterator[None]:
    """While open: the loading functions raise, and so does every unpickler that looks up a class or function."""

    def refuse(*_: Any, **__: Any) -> None:
        raise UnpickledError("a pickle was loaded")

    global _watching
    for owner, name in ((pickle, "load"), (pickle, "loads"), (torch, "load")):
        patch.setattr(owner, name, refuse)
    _watching = True
    try:
        yield
    finally:
        _watching = False


def test_the_watch_sees_every_way_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from _pickle import loads  # the function in C, past any patched module

    content = pickle.dumps(Path("x"))
    (tmp_path / "x.pkl").write_bytes(content)
    np.save(tmp_path / "x.npy", np.array([Path("x")], dtype=object), allow_pickle=True)
    torch.save({"x": torch.ones(1)}, tmp_path / "x.pt")
    with unpickling_is_an_error(monkeypatch):
        for way in (
            lambda: loads(content),
            lambda: pickle.loads(content),
            lambda: np.load(tmp_path / "x.npy", allow_pickle=True),
            lambda: torch.load(tmp_path / "x.pt", weights_only=False),
        ):
            with pytest.raises(UnpickledError):
                way()
    assert loads(content) == Path("x")  # the hook is asleep again


def test_importing_every_module_loads_no_pickle(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in sources()]
    with unpickling_is_an_error(monkeypatch):
        for name in names:
            if not name.endswith("__main__"):
                importlib.import_module(name.removesuffix(".__init__"))


def test_cells_claims_and_concepts_load_no_pickle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One cell, its collection, one claim, a stored sequence taken up again, and the released weights."""
    cell = Cell("linear-synthetic:width=16,samples=100,rank=2", "seqlora", 2)
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 4))
    config = SeqLoRAConfig(rank=1, target_modules=("0",), start_batches=1, forgetting_weight=1.0)
    monkeypatch.chdir(tmp_path)
    with unpickling_is_an_error(monkeypatch):
        summary = run([cell], Job(tmp_path), Serial(Resources(1, 1, "", tmp_path)))
        assert summary.count("done") == 1
        write_parquet(tmp_path / "x.parquet", "smoke", list(Store(tmp_path).all_records()))
        assert len(read_parquet(tmp_path / "x.parquet")[0])
        assert theory_cli.main(["C1", "--suite", "smoke", "--json", str(tmp_path / "ledger.json")]) in (0, 1)
        sequence = ConceptSequence(model, config, tmp_path / "sequence", checkpoint_every=1)
        for step in sequence.learn("cat", [torch.ones(2, 6)] * 3, lambda m, x: m(x).square().mean()):
            assert step.loss >= 0
        fresh = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 4))
        assert list(ConceptSequence.from_pretrained(fresh, tmp_path / "sequence").concepts) == ["cat"]
        assert assets.classifier().training is False
    assert (tmp_path / "ledger.json").is_file()
