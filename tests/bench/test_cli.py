"""The command line: data on stdout, one line on stderr for what is wrong, and the exit codes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from bench import cli
from bench.api import Cell, Context
from bench.collect import read_parquet
from bench.store import Store
from seqlora.errors import BadInputError

from .conftest import SMALL, ScriptedTask


def bench(*arguments: str) -> int:
    """Run `python -m bench` in this process; returns its exit code."""
    old = sys.argv
    sys.argv = ["bench", *map(str, arguments)]
    try:
        with pytest.raises(SystemExit) as stopped:
            cli.main()
    finally:
        sys.argv = old
    return int(stopped.value.code or 0)


def on(folder: Path) -> list[str]:
    """Options of a small linear run."""
    return ["--task", SMALL, "--concepts", "2", "--method", "seqlora", "--method", "plain-sum", "--out", str(folder)]


def test_run_status_collect(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("run", *on(tmp_path)) == 0
    assert "2 cells computed, 0 were stored" in capsys.readouterr().err
    assert bench("run", *on(tmp_path)) == 0
    assert "0 cells computed, 2 were stored" in capsys.readouterr().err
    assert bench("status", *on(tmp_path)) == 0
    assert "seqlora" in capsys.readouterr().out
    assert bench("collect", *on(tmp_path)) == 0
    path = Path(capsys.readouterr().out.strip())
    rows, _ = read_parquet(path)
    assert set(rows.method) == {"seqlora", "plain-sum"}


def test_a_dry_run_computes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("run", *on(tmp_path / "out"), "--dry-run") == 0
    shown = capsys.readouterr()
    assert len(shown.out.splitlines()) == 2
    assert "2 of 2 cells to run, about" in shown.err
    assert not (tmp_path / "out").exists()


def test_a_dry_run_counts_what_retry_failed_would_compute(
    scripted: ScriptedTask, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(cell: Cell, context: Context) -> None:
        if cell.method == "seqlora":
            raise ValueError("no luck")

    scripted.script = fail
    options = ["--task", "scripted", "--concepts", "2", "--method", "base", "--method", "seqlora"]
    options += ["--out", str(tmp_path)]
    assert bench("run", *options, "--executor", "serial") == 3
    for more, count in (([], 0), (["--retry-failed"], 1), (["--force"], 2)):
        capsys.readouterr()
        assert bench("run", *options, "--dry-run", *more) == 0
        shown = capsys.readouterr()
        assert len(shown.out.splitlines()) == count
        assert f"{count} of 2 cells to run, about" in shown.err


def test_failed_cells_give_3(scripted: ScriptedTask, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(cell: Cell, context: Context) -> None:
        if cell.method == "seqlora":
            raise ValueError("no luck")

    scripted.script = fail
    options = ["--task", "scripted", "--concepts", "2", "--out", str(tmp_path), "--executor", "serial"]
    assert bench("run", *options) == 3
    assert "failed: scripted seqlora T=2 order=0 seed=0: ValueError: no luck" in capsys.readouterr().err
    assert bench("status", *options[:-2]) == 3
    assert bench("collect", *options[:-2]) == 3
    assert bench("run", *options) == 3
    assert "--retry-failed" in capsys.readouterr().err


def test_ctrl_c_gives_130_and_says_how_to_go_on(
    scripted: ScriptedTask, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(cell: Cell, context: Context) -> None:
        if cell.method == "seqlora":
            raise KeyboardInterrupt

    scripted.script = interrupt
    options = ["--task", "scripted", "--method", "base", "--method", "seqlora", "--out", str(tmp_path)]
    assert bench("run", *options, "--executor", "serial") == 130
    assert "interrupted: 1 of 2 cells are stored; the same command goes on" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "--suite", "smok"],
        ["run", "--task", "linear-sinthetic"],
        ["run", "--method", "seqlor"],
        ["run", "--concepts", "two"],
        ["run", "--concepts", "0"],
        ["run", "--seeds", "0"],
        ["run", "--shard", "3/2"],
        ["run", "--executor", "threads"],
        ["run", "--set", "base"],
        ["run", "--workers", "0"],
        ["run", "--no-such-option"],
        ["run", "--task", "linear-synthetic:rank=0"],
        ["no-such-command"],
        ["collect", "--suite", "smoke"],
        ["collect", "--from", "no/such/folder"],
    ],
    ids=" ".join,
)
def test_bad_arguments_give_2_and_no_traceback(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert bench(*arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err
    assert "Traceback" not in shown.err
    assert not list(tmp_path.iterdir())


def test_the_error_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    assert bench("run", *on(tmp_path / "file")) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_store_of_another_schema_stops_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("run", *on(tmp_path)) == 0
    store = Store(tmp_path)
    path = store.path(next(store.all_records()).to_cell())
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | {"schema_version": 99}), encoding="utf-8")
    before = path.read_bytes()
    capsys.readouterr()
    for command in ("run", "status", "collect"):
        assert bench(command, *on(tmp_path)) == 2
        shown = capsys.readouterr().err
        assert "schema version 99" in shown
        assert shown.count("\n") == 1
    assert path.read_bytes() == before


def test_list_and_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("list") == 0
    shown = capsys.readouterr().out
    for name in ("smoke", "linear-minilm", "frozen-orthonormal-sequence", "gamma=1.0"):
        assert name in shown
    assert bench("schema") == 0
    assert json.loads(capsys.readouterr().out)["properties"]["fingerprint"]


def test_mounted_commands_get_their_arguments_and_give_their_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mounted_example.py").write_text(
        "import typer\n"
        "app = typer.Typer()\n"
        "@app.command()\n"
        "def one(name: str, loud: bool = False):\n"
        "    print(name.upper() if loud else name)\n"
        "    raise typer.Exit(4)\n"
        "@app.command()\n"
        "def two():\n"
        "    pass\n"
        "def function(number: int):\n"
        "    print(number + 1)\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(cli.app, "registered_commands", list(cli.app.registered_commands))
    cli.mount("app", "mounted_example:app", "An app.")
    cli.mount("function", "mounted_example:function", "A function.")
    cli.mount("missing", "mounted_example:nothing", "Not there.")
    assert "mounted_example" not in sys.modules
    assert bench("app", "one", "--loud", "hello") == 4
    assert capsys.readouterr().out == "HELLO\n"
    assert bench("function", "41") == 0
    assert capsys.readouterr().out == "42\n"
    assert bench("function", "many") == 2
    assert bench("app", "--help") == 0
    assert "two" in capsys.readouterr().out
    assert bench("missing") == 2
    assert "cannot load mounted_example:nothing" in capsys.readouterr().err


def test_mounts_whose_module_is_missing_are_left_out() -> None:
    assert cli.exists("bench.cli:app")
    assert not cli.exists("bench.no_such_module:app")
    assert not cli.exists("no_such_package.module:app")


def test_results_reach_the_watch_on_plain_terminals(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert bench("run", *on(tmp_path)) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("[1/2] linear-synthetic")
    assert bench("run", *on(tmp_path), "--quiet", "--force") == 0
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_unknown_executor_is_named() -> None:
    with pytest.raises(BadInputError, match="did you mean 'serial'"):
        cli.EXECUTORS["seriall"]
