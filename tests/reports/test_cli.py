"""The command line: what is there is reported, what is missing is one line, bad input is one line and exit code 2."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from bench.regression import history
from reports import __main__ as cli
from reports import build


def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["reports", *arguments])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    captured = capsys.readouterr()
    code = exit_.value.code
    return (code if isinstance(code, int) else 0), captured.out, captured.err


def test_what_exists_is_reported_and_the_rest_named(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(folder / "timing", tmp_path / "results" / "timing")
    monkeypatch.setattr(history, "PATH", tmp_path / "no history.csv")
    code, out, err = run(
        capsys, monkeypatch, "build", "--results", str(tmp_path / "results"), "--out", str(tmp_path / "out")
    )
    assert code == 0
    assert out.strip() == str(tmp_path / "out" / "index.html")
    missing = [line for line in err.splitlines() if line.startswith("missing: ")]
    assert len(missing) == 7
    commands = (
        "--layers synthetic",
        "--layers minilm",
        "--layers diffusion",
        "run --suite ci",
        "run --suite full --task linear-synthetic",
        "run --suite images",
        "python -m bench history",
    )
    for command in commands:
        assert sum(command in line for line in missing) == 1
    page = (tmp_path / "out" / "index.html").read_text()
    assert 'id="timing_ratios"' in page
    assert "no benchmark cells of linear layers are stored" in page


def test_table_missing_from_a_source_is_named(folder: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    from reports.sources import load

    found = load(folder)
    bare = [c.model_copy(update={"tables": {}}) if c.claim == "C6" else c for c in found.claims]
    lines = build.missing_lines(replace(found, claims=bare), [name for name in build.FIGURES if name != "capacity"])
    assert any(line.startswith("figure capacity: its numbers are not among the stored results") for line in lines)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("build", "--results", "nowhere"), "error: nowhere is no folder of results"),
        (("figure", "nothing"), "error: no figure 'nothing'"),
        (
            ("figure", "tightness", "--results", "."),
            "error: . has no numbers for figure tightness; run `python -m",
        ),
        (("figure", "tightness", "--data", "no.csv"), "error: no.csv is no CSV of a figure"),
    ],
)
def test_bad_input_is_one_line(
    arguments: tuple[str, ...],
    says: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, monkeypatch, *arguments)
    assert code == 2
    assert out == ""
    assert err.startswith(says)
    assert len(err.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_output_that_cannot_be_written_is_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    target = str(tmp_path / "file" / "out")
    code, _, err = run(capsys, monkeypatch, "figure", "rank_star", "--results", str(folder), "--out", target)
    assert code == 2
    assert "cannot write" in err
    assert len(err.strip().splitlines()) == 1


def test_a_saved_table_is_drawn_again(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = str(tmp_path / "a"), str(tmp_path / "b")
    assert run(capsys, monkeypatch, "figure", "rank_star", "--results", str(folder), "--out", first)[0] == 0
    csv = f"{first}/rank_star.csv"
    assert run(capsys, monkeypatch, "figure", "rank_star", "--data", csv, "--out", second)[0] == 0
    for suffix in ("png", "svg", "csv"):
        assert Path(f"{first}/rank_star.{suffix}").read_bytes() == Path(f"{second}/rank_star.{suffix}").read_bytes()


def test_list_names_every_figure(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, _ = run(capsys, monkeypatch, "list")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == list(build.FIGURES)
