"""The ledger: addressed randomness, expected verdicts, JSON, and one line for every mistake."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from seqlora.errors import BadInputError
from theory import __main__ as cli
from theory import ledger
from theory.api import CLAIMS, SUITES, Claim, ClaimResult, Verdict
from theory.layers import SOURCES


def result(claim: str, kind: str) -> ClaimResult:
    return ClaimResult(claim, "synthetic", Verdict(kind, "" if kind == "holds" else "x < 1"), "", ())  # type: ignore[arg-type]


def test_all_claims_are_registered_in_order() -> None:
    assert list(CLAIMS)[:9] == ["C1", "C2", "C3", "C3r", "C4", "C5", "C6", "C7", "C8"]
    for claim in CLAIMS.values():
        assert claim.title
        assert claim.statement
        assert claim.assumptions
        assert claim.source in ("abstract", "ours")


def test_selection_is_by_id_in_the_order_of_the_ledger() -> None:
    assert [claim.id for claim in ledger.select(["c3R", "C1"])] == ["C1", "C3r"]
    assert [claim.id for claim in ledger.select([])] == list(CLAIMS)
    with pytest.raises(BadInputError, match=r"no claim 'C11'; did you mean C1\?"):
        ledger.select(["C1", "C11"])
    with pytest.raises(BadInputError, match="choose from C1, C2"):
        ledger.select(["zebra"])


def test_a_claim_draws_the_same_numbers_alone_and_in_company() -> None:
    alone = ledger.run(ledger.select(["C2"]), "synthetic", "smoke", 3)
    together = ledger.run(ledger.select(["C1", "C2"]), "synthetic", "smoke", 3)
    other = ledger.run(ledger.select(["C2"]), "synthetic", "smoke", 4)
    assert alone[0].checks == together[1].checks
    assert alone[0].tables == together[1].tables
    assert alone[0].tables != other[0].tables
    assert ledger.generator("C1", 0).random() != ledger.generator("C2", 0).random()


def test_changes_name_every_unexpected_verdict() -> None:
    results = [result("C1", "holds"), result("C2", "fails when"), result("C3", "holds when")]
    lines = ledger.changes(results, {"C1": "holds", "C2": "holds"})
    assert lines == [
        "C2 on synthetic: expected 'holds', it now fails when x < 1",
        "C3 on synthetic: no verdict is expected yet; it came out holds when x < 1",
    ]
    assert ledger.changes(results, None) == []


def test_blessing_replaces_the_expectation_of_what_was_checked(tmp_path: Path) -> None:
    path = tmp_path / "expected.json"
    path.write_text(json.dumps({"minilm": {"C1": "holds"}, "synthetic": {"C1": "fails when", "C9": "holds"}}))
    results = [result("C1", "holds"), result("C2", "fails when")]
    assert ledger.changes(results, ledger.expected_kinds("synthetic", path)) != []
    ledger.bless(results, "synthetic", path)
    assert ledger.changes(results, ledger.expected_kinds("synthetic", path)) == []
    assert json.loads(path.read_text()) == {
        "minilm": {"C1": "holds"},
        "synthetic": {"C1": "holds", "C2": "fails when", "C9": "holds"},
    }


def test_every_source_and_claim_has_an_expected_verdict() -> None:
    for source in ("synthetic", "minilm", "diffusion"):
        assert source in SOURCES
        expected = ledger.expected_kinds(source)
        assert expected is not None
        assert set(list(CLAIMS)[:9]) <= set(expected)
        assert set(expected.values()) <= {"holds", "holds when", "fails when"}
    assert ledger.expected_kinds("hf:somewhere") is None


def test_the_command_prints_the_ledger_and_writes_every_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "out" / "ledger.json"
    assert cli.main(["C1", "c2", "--suite", "smoke", "--json", str(path)]) == 0
    printed = capsys.readouterr()
    assert "Data-driven bases minimise" in printed.out
    assert "2 of 2 broken" in printed.out
    assert "checking C2" in printed.err
    stored = json.loads(path.read_text())
    assert [row["claim"] for row in stored["results"]] == ["C1", "C2"]
    assert stored["changed"] == []
    assert stored["environment"]["numpy"] == np.__version__
    assert {"residual_energy", "sample_size"} == set(stored["results"][0]["tables"])
    assert all(isinstance(check["holds"], bool) for row in stored["results"] for check in row["checks"])


def test_a_changed_verdict_is_exit_code_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = tmp_path / "expected.json"
    expected.write_text(json.dumps({"synthetic": {"C2": "fails when"}}))
    monkeypatch.setattr(ledger.expected_kinds, "__defaults__", (expected,))
    assert cli.main(["C2", "--suite", "smoke"]) == 1
    assert "verdict changed: C2 on synthetic: expected 'fails when', it now holds when" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["C9z"], "no claim 'C9z'"),
        (["C1", "--layers", "minlim"], "unknown layer source 'minlim'; choose one of"),
        (["C1", "--suite", "quick"], "unknown suite 'quick'"),
        (["C1", "--layers", "hf:does/not/exist"], "does not exist"),
        (["C1", "--layers", "hf:{folder}"], "holds no model"),
        (["C1", "--json", "{folder}"], "is a folder"),
        (["C1", "--seed", "-1"], "--seed"),
        (["--sweet", "ci"], "No such option"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_two(
    arguments: list[str], line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([argument.format(folder=tmp_path) for argument in arguments]) == 2
    printed = capsys.readouterr()
    errors = [text for text in printed.err.splitlines() if text.startswith("error: ")]
    assert len(errors) == 1
    assert line in errors[0]
    assert "Traceback" not in printed.err
    assert not printed.out


def test_an_interrupt_is_exit_code_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*_: object) -> Sequence[ClaimResult]:
        raise KeyboardInterrupt

    monkeypatch.setattr(ledger, "run", interrupted)
    assert cli.main(["C1"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_brackets_in_evidence_are_printed_and_not_read_as_markup(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    row = ClaimResult("C1", "synthetic", Verdict("fails when", "x in [0, 1]"), "‖[B_1 B_2]‖ [red]", ())
    claims: list[Claim] = ledger.select(["C1"])
    Console(width=200).print(cli.table(claims, [row]))
    printed = capsys.readouterr().out
    assert "[0, 1]" in printed
    assert "[red]" in printed


def test_suites_are_the_three_that_everything_knows() -> None:
    assert SUITES == ("smoke", "ci", "full")


@pytest.mark.slow
@pytest.mark.parametrize("source", ["synthetic", "minilm", "diffusion"])
def test_the_ledger_comes_out_as_expected(source: str) -> None:
    results = ledger.run(ledger.select([]), source, "ci", 0)
    assert ledger.changes(results, ledger.expected_kinds(source)) == []
    # on these layers the plain form is so loose that its control holds, which is why C3r "fails when" there
    held = {row.claim for row in results if not row.controls_broken}
    assert held == ({"C3r"} if source == "diffusion" else set())


@pytest.mark.slow  # two processes that import torch
def test_several_sources_side_by_side_give_what_each_gives_alone(tmp_path: Path) -> None:
    sources = ("synthetic", "minilm")
    together = [argument for source in sources for argument in ("--layers", source)]
    common = ["C6", "--suite", "smoke"]
    assert cli.main([*common, *together, "--json", str(tmp_path / "all"), "--workers", "2"]) == 0
    for source in sources:
        alone = tmp_path / f"{source}.json"
        assert cli.main([*common, "--layers", source, "--json", str(alone)]) == 0
        stored = [json.loads(path.read_text()) for path in (alone, tmp_path / "all" / f"{source}.json")]
        for ledger_of_source in stored:
            for row in ledger_of_source["results"]:
                row.pop("seconds")
        assert stored[0] == stored[1]


def test_several_sources_need_a_folder_for_their_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "ledger.json").write_text("kept")
    arguments = ["C6", "--layers", "synthetic", "--layers", "hf:/a b#x", "--json", str(tmp_path / "ledger.json")]
    assert cli.main(arguments) == 2
    assert "is a file; give a folder" in capsys.readouterr().err
    assert (tmp_path / "ledger.json").read_text() == "kept"
    assert [path.name for path in cli.json_files(tmp_path, ["synthetic", "hf:/a b#x"]).values()] == [
        "synthetic.json",
        "hf-a-b-x.json",
    ]
    with pytest.raises(BadInputError, match="one file"):
        cli.json_files(tmp_path, ["hf:a/b", "hf:a-b"])
