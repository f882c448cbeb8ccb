"""The commands from end to end, on real cells: every exit code, what is written, and what is refused."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import cli, environment
from bench.api import Cell
from bench.executors import EXECUTORS, Resources
from bench.regression import baseline, history, pilot
from bench.regression.margins import load_margins
from bench.regression.snapshot import load
from bench.runner import Job, run
from bench.store import Store
from bench.suites import SUITES, CellSet, Suite
from seqlora.errors import BadInputError
from theory.ledger import expected_kinds

TASK = "linear-synthetic:width=16,samples=100,rank=2"
SEEDS = tuple(range(8))
LEDGER = {"results": [{"claim": "C1", "layers": "synthetic", "verdict": {"kind": "holds"}, "more": 1}]}
RATIO = {"name": "merge", "ratio": 2.0, "low": 1.9, "high": 2.1, "smaller_is_better": True, "goal": 3}


def bench(*arguments: str | Path) -> int:
    """Run `python -m bench` in this process; returns its exit code."""
    old, sys.argv = sys.argv, ["bench", *map(str, arguments)]
    try:
        with pytest.raises(SystemExit) as stopped:
            cli.main()
    finally:
        sys.argv = old
    return int(stopped.value.code or 0)


def written(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value))
    return path


def filled(folder: Path, methods: tuple[str, ...] = ("seqlora",), seeds: tuple[int, ...] = SEEDS) -> Path:
    cells = list(CellSet(TASK, methods, (2,), (0,), seeds).cells())
    assert run(cells, Job(folder), EXECUTORS["serial"](Resources(1, 1, "", folder))).exit_code == 0
    return folder


@pytest.fixture(autouse=True)
def _clean_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if everything were committed; the tests that need it otherwise say so."""
    monkeypatch.setattr(environment, "_git_state", lambda: ("a" * 40, False))


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished store of a clean revision; tests must not change it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(environment, "_git_state", lambda: ("a" * 40, False))
        return filled(tmp_path_factory.mktemp("stored") / "store")


def rewritten(store: Path, number: float, fingerprint: str | None = None, status: str = "done") -> None:
    """Change every record of a store: shift relative errors, relabel where it came from, or fail it."""
    opened = Store(store)
    for record in list(opened.all_records()):
        matrices = [
            matrix.model_copy(update={"R": [[None if x is None else x + number for x in row] for row in matrix.R]})
            for matrix in record.matrices
        ]
        changes = {"matrices": matrices, "status": status, "fingerprint": fingerprint or record.fingerprint}
        opened.write(record.model_copy(update=changes))


def test_a_store_compares_with_its_own_baseline(
    stored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "baseline" / "gate.json"
    assert bench("bless", stored, "--out", path) == 0
    assert "8 cells of revision aaaaaaaaaaaa are the baseline" in capsys.readouterr().err
    assert path.stat().st_size < 20_000
    for base in (path, path.parent, stored):
        assert bench("compare", base, stored) == 0
    assert "no regression in 3 gates" in capsys.readouterr().out


def test_summaries_are_written(stored: Path, tmp_path: Path) -> None:
    options = ("--markdown", tmp_path / "new" / "s.md", "--benchmark-json", tmp_path / "b.json")
    assert bench("compare", stored, stored, *options) == 0
    assert (tmp_path / "new" / "s.md").read_text().startswith("## ✅ Regression check: no regression in 3 gates")
    entries = json.loads((tmp_path / "b.json").read_text())
    assert len(entries) == 3
    assert all({"name", "unit", "value"} <= set(entry) for entry in entries)


def test_exit_codes_of_stores_that_differ(stored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    worse, elsewhere, failed, few = (filled(tmp_path / name) for name in ("worse", "there", "failed", "few"))
    rewritten(worse, 0.1)
    assert bench("compare", stored, worse) == 1
    assert "had to be equal" in capsys.readouterr().err
    rewritten(elsewhere, 0.1, "another machine")
    assert bench("compare", stored, elsewhere) == 1
    shown = capsys.readouterr()
    assert "had to be equal" not in shown.err
    assert "regression" in shown.out
    rewritten(failed, 0.0, status="failed")
    assert bench("compare", stored, failed) == 3
    for path in list(few.glob("cells/*/*/*.json"))[3:]:
        path.unlink()
    assert bench("compare", few, elsewhere) == 4


def test_bad_input_is_one_line_and_the_right_code(
    stored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blessed = tmp_path / "gate.json"
    assert bench("bless", stored, "--out", blessed) == 0  # beside it: three files that are no baselines
    other = written(tmp_path / "other.json", {**json.loads(blessed.read_text()), "schema_version": 2})
    damaged = written(tmp_path / "damaged.json", {**json.loads(blessed.read_text()), "cells": [{}]})
    stranger = written(tmp_path / "stranger.json", [1])
    truncated = tmp_path / "truncated"
    truncated.write_text(blessed.read_text()[:100])
    (tmp_path / "empty").mkdir()
    (tmp_path / "void" / "cells").mkdir(parents=True)
    capsys.readouterr()
    cases: list[tuple[int, tuple[str | Path, ...], str]] = [
        (4, ("compare", tmp_path / "nowhere", stored), "no baseline; give a store"),
        (4, ("compare", tmp_path / "empty", stored), "holds 0 baseline files, not one"),
        (4, ("compare", tmp_path, stored), "holds 4 baseline files, not one"),
        (4, ("compare", other, stored), "has schema version 2"),
        (4, ("compare", tmp_path / "void", stored), "holds no finished cell"),
        (4, ("compare", blessed, filled(tmp_path / "stranger", ("plain-sum",))), "no cell in common"),
        (2, ("compare", damaged, stored), "is damaged (cells.0.task"),
        (2, ("compare", stranger, stored), "is no baseline"),
        (2, ("compare", truncated, stored), "is not readable JSON"),
        (2, ("compare", blessed, tmp_path / "nowhere"), "does not exist"),
        (2, ("compare", blessed, stored, "--ledger", stranger), "was not written by `python -m theory"),
        (2, ("compare", blessed, stored, "--timing", stranger), "was not written by `python -m bench timing"),
        (2, ("compare", blessed, stored, "--margins", stranger), "was not written by `python -m bench pilot"),
        (2, ("bless", tmp_path / "nowhere"), "does not exist"),
        (2, ("bless", filled(tmp_path / "three", seeds=(0, 1, 2))), "3 finished seeds, at least 8 needed"),
        (2, ("history", blessed, "--file", stranger), "is no history"),
    ]
    for code, arguments, message in cases:
        assert bench(*arguments) == code, arguments
        shown = capsys.readouterr().err.strip().splitlines()
        assert len(shown) == 1, shown
        assert message in shown[0]


def test_a_baseline_is_blessed_from_committed_code_only(
    stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "gate.json"
    monkeypatch.setattr(environment, "_git_state", lambda: ("a" * 40, True))
    assert bench("bless", stored, "--out", path) == 2
    assert "needs a clean tree" in capsys.readouterr().err
    dirty = filled(tmp_path / "dirty")
    monkeypatch.setattr(environment, "_git_state", lambda: ("a" * 40, False))
    assert bench("bless", dirty, "--out", path) == 2  # computed before the commit
    monkeypatch.setattr(environment, "_git_state", lambda: ("b" * 40, False))
    for changed, code in ((True, 2), (False, 0)):
        monkeypatch.setattr(baseline, "code_differs", lambda revision, changed=changed: changed)
        assert path.exists() is False
        assert bench("bless", stored, "--out", path) == code
    mixed = filled(filled(tmp_path / "mixed", seeds=SEEDS[:4]), seeds=SEEDS)
    assert bench("bless", mixed, "--out", path) == 0
    rewritten(mixed, 0.0, status="failed")
    assert bench("bless", mixed, "--out", path) == 2
    assert "8 cells failed" in capsys.readouterr().err


def test_git_is_asked_whether_the_code_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
        return environment._git(tmp_path, *identity, *arguments)

    git("init", "--quiet")
    data, code = tmp_path / "bench" / "regression" / "baseline" / "gate.json", tmp_path / "bench" / "api.py"
    data.parent.mkdir(parents=True)
    revisions = []
    for path, text in ((code, "one"), (data, "{}"), (code, "two")):
        path.write_text(text)
        git("add", ".")
        git("commit", "--quiet", "-m", "change")
        revisions.append(git("rev-parse", "HEAD"))
    monkeypatch.setattr(baseline, "ROOT", tmp_path)
    assert baseline.code_differs(revisions[0])
    assert baseline.code_differs(revisions[1])
    assert not baseline.code_differs(revisions[2])
    data.write_text("{} ")  # the baseline itself is no code
    assert not baseline.code_differs(revisions[2])
    with pytest.raises(BadInputError, match="does not know revision ffffffffffff"):
        baseline.code_differs("f" * 40)


def test_a_verdict_that_changes_fails(stored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = written(tmp_path / "good.json", LEDGER)
    row = {**LEDGER["results"][0], "verdict": {"kind": "fails when"}}
    bad = written(tmp_path / "bad.json", {"results": [row]})
    path = tmp_path / "gate" / "gate.json"
    assert bench("bless", stored, "--out", path, "--ledger", good) == 0
    assert load(path).verdicts == {"C1 on synthetic layers": "holds"}
    capsys.readouterr()
    assert bench("compare", path, stored, "--ledger", good) == 0
    assert bench("compare", path, stored, "--ledger", bad) == 1
    assert "C1 on synthetic layers: was 'holds', is 'fails when'" in capsys.readouterr().err
    assert bench("compare", path, stored) == 0  # no ledger given, none asked for
    # a base without verdicts: those that the repository expects, of which all but one were not checked
    assert bench("compare", stored, stored, "--ledger", good) == 1
    shown = capsys.readouterr().err
    expected = expected_kinds("synthetic")
    assert expected
    assert f"C2 on synthetic layers: was '{expected['C2']}', is 'not checked any more'" in shown
    assert "C1 on" not in shown


def test_timing_advises_and_never_fails(stored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = written(tmp_path / "before.json", {"ratios": [RATIO]})
    path = tmp_path / "gate" / "gate.json"
    assert bench("bless", stored, "--out", path, "--timing", before) == 0
    file = tmp_path / "history.csv"
    assert bench("history", path, "--file", file) == 0
    assert "timing,merge,0,ratio,lower,2.0,,1" in file.read_text()
    for factor, advised in ((1.2, False), (3.0, True)):
        slow = {**RATIO, **{name: factor * float(RATIO[name]) for name in ("ratio", "low", "high")}}  # type: ignore[arg-type]
        capsys.readouterr()
        assert bench("compare", path, stored, "--timing", written(tmp_path / "slow.json", {"ratios": [slow]})) == 0
        assert ("merge: 2 was, 6 is (200% worse)" in capsys.readouterr().err) == advised


def test_history_has_one_row_a_gate_and_revision(stored: Path, tmp_path: Path) -> None:
    file = tmp_path / "history.csv"
    assert bench("history", stored, "--file", file) == 0
    assert bench("history", stored, "--file", file) == 0  # nothing new
    with file.open() as lines:
        rows = list(csv.DictReader(lines))
    assert [row["number"] for row in rows] == ["relative_error.final", "relative_error.forgetting", "bound_violations"]
    assert set(rows[0]) == set(history.COLUMNS)
    assert rows[0]["revision"] == "a" * 40
    assert rows[0]["seeds"] == "8"
    final = [entry.numbers["relative_error.final"] for entry in load(stored).cells]
    assert float(rows[0]["mean"]) == pytest.approx(sum(final) / 8)


def test_the_pilot_writes_margins_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = Suite("gate", "", (CellSet(TASK, ("seqlora",), (2,), seeds=SEEDS),))
    monkeypatch.setattr(SUITES, "_entries", {**SUITES._entries, "gate": small})
    options = ("--workers", 1, "--out", tmp_path, "--margins", tmp_path / "m.json", "--power", tmp_path / "p.md")
    assert bench("pilot", *map(str, options)) == 0
    file = load_margins(tmp_path / "m.json")
    assert (file.seeds, file.disturbed) == (pilot.SEEDS, pilot.DISTURBED)
    assert [gate.pairs for gate in file.gates] == [8, 8, 8]
    error = next(gate for gate in file.gates if gate.number == "relative_error.final")
    assert 0 < error.noise_sd < 1e-9 < error.sd
    assert (tmp_path / "p.md").read_text().startswith("# What the gates can see")
    known = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/cells/*/*/*.json")}
    assert len(known) == pilot.SEEDS + pilot.DISTURBED
    assert bench("pilot", *map(str, options)) == 0
    assert known == {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/cells/*/*/*.json")}
    capsys.readouterr()
    assert bench("power", "--margins", tmp_path / "m.json") == 0
    assert capsys.readouterr().out == (tmp_path / "p.md").read_text()


def test_pilot_and_gate_share_no_seed() -> None:
    gate = {cell.seed for cell in SUITES["gate"].cells()}
    assert not gate & {cell.seed for cell in pilot.cells(pilot.SEEDS)}
    assert isinstance(SUITES["gate"].cells()[0], Cell)
    assert min(pilot.gate_seeds().values()) >= 8
