"""Bad input: one line that says what is wrong, where, and what to do; an exit code; and nothing stored is touched.

The rows are in `bad_cases.py`, the malformed files in `bad_files.py`. Programs run in this process, by their `main`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import typer

import reports.__main__ as reports_cli
import theory.__main__ as theory_cli
from bench import cli
from bench.api import Cell
from bench.executors import Resources, Serial
from bench.runner import Job, run
from seqlora import ConceptSequence
from seqlora.files import write_json
from theory import commandline

from . import bad_files as make
from .bad_cases import CASES, CONFIG, RUN, SMALL, encoder, go_on, learn, model, photos, reopen, tensor_file

CELLS = [Cell(SMALL, method, 2) for method in ("base", "seqlora")]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("stored")
    run(CELLS, Job(place / "store"), Serial(Resources(1, 1, "", place / "store")))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        learn(ConceptSequence(model(), CONFIG, place / "sequence"), "cat")
    write_json(place / "results" / "theory" / "synthetic.json", {"suite": "ci", "results": []})
    make.concept(place / "photos" / "cat")
    return place


@pytest.fixture
def place(stored: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stored, tmp_path / "place"))


def snapshot(place: Path) -> dict[str, str]:
    files = (path for path in place.rglob("*") if path.is_file() and ".locks" not in path.parts)
    return {str(path.relative_to(place)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


# --- the test -------------------------------------------------------------------------------------------------------


def call_program(arguments: list[str]) -> int:
    program, *rest = arguments
    if program == "theory":
        return theory_cli.main(rest)
    main = {"bench": cli.main, "reports": reports_cli.main}[program]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [program, *rest])
        with pytest.raises(SystemExit) as stopped:
            main()
    return int(stopped.value.code or 0)


def call(does: Callable[[Path], Any], place: Path) -> int:
    """A call, with its errors handled as those of a command are."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

    @app.command()
    def command() -> None:
        does(place)

    return commandline.run(app, "python", [])


@pytest.fixture
def failing_reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    def fail(number: int) -> None:
        def refuse(path: Path, *_: Any, **__: Any) -> str:
            raise OSError(number, os.strerror(number), str(path))

        monkeypatch.setattr(Path, "read_text", refuse)

    yield fail
    monkeypatch.undo()


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_one_line_and_an_exit_code_and_touches_nothing(
    name: str, place: Path, capsys: pytest.CaptureFixture[str], failing_reads: Callable[[int], None]
) -> None:
    case = CASES[name]
    case.damage(place)
    before = snapshot(place)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place.parent)
        if case.fault:
            failing_reads(case.fault)
        if isinstance(case.does, str):
            code = call_program(case.does.replace("{place}", str(place)).split())
        else:
            code = call(case.does, place)
        patch.undo()
    shown = capsys.readouterr()
    assert "Traceback" not in shown.err
    lines = [line for line in shown.err.splitlines() if not line.endswith(" …")]  # what is being done is no complaint
    assert len(lines) == 1, shown.err
    assert code == case.code
    assert lines[0].startswith("error: ")
    for words in case.says:
        assert words in lines[0]
    assert shown.out == ""
    assert snapshot(place) == before


def test_the_table_is_long_enough_and_a_good_input_would_be_seen(place: Path) -> None:
    assert len(CASES) >= 40
    assert call(photos(), place) == 0
    assert call(tensor_file(make.tensors({"W": make.entry([2, 2])})), place) == 0
    assert call(encoder(), place) == 0
    assert call(reopen, place) == 0
    assert call(go_on(), place) == 0
    assert call_program(f"{RUN} {place}/store --quiet".split()) == 0
