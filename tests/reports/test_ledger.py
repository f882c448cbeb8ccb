"""The ledger: every claim, its condition in the row, its controls by name when they failed to fail."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reports import ledger
from reports.sources import Results, StoredClaim
from theory.api import CLAIMS


def changed(results: Results, claim: str, **update: object) -> Results:
    claims = [c.model_copy(update=update) if c.claim == claim else c for c in results.claims]
    return replace(results, claims=claims)


def stored(results: Results, claim: str) -> StoredClaim:
    return next(found for found in results.claims if found.claim == claim)


def test_every_claim_is_there_with_verdict_and_evidence(results: Results) -> None:
    text = ledger.to_markdown(results)
    assert ledger.DISCLAIMER in text
    for name, claim in CLAIMS.items():
        found = stored(results, name)
        row = next(line for line in text.splitlines() if line.startswith(f"| **{name}** "))
        for part in (claim.title, claim.source, f"**{found.verdict.text}**", found.evidence, "synthetic (smoke)"):
            assert part.replace("|", "\\|") in row
        assert claim.statement in text


def test_rows_are_in_the_order_of_the_claims(results: Results) -> None:
    assert [row.claim for row in ledger.rows(results)] == [
        "C1",
        "C2",
        "C3",
        "C3r",
        "C4",
        "C5",
        "C6",
        "C7",
        "C8",
        "C9",
        "C10",
    ]


def test_a_failure_stands_in_the_row_and_in_the_summary(results: Results) -> None:
    verdict = stored(results, "C1").verdict.model_copy(
        update={"kind": "fails when", "condition": "it rains", "text": "fails when it rains"}
    )
    found = changed(results, "C1", verdict=verdict)
    text = ledger.to_markdown(found)
    assert "| **fails when it rains** |" in text
    assert any("1 fail (C1)" in line for line in ledger.summary(ledger.rows(found)))


def test_controls_that_held_are_named(results: Results) -> None:
    checks = stored(results, "C3").checks
    control = next(check for check in checks if check.control)
    others = [check for check in checks if check.name != control.name]
    found = changed(results, "C3", checks=[control.model_copy(update={"holds": True}), *others], controls_broken=False)
    row = next(row for row in ledger.rows(found) if row.claim == "C3").findings[0]
    assert not row.sound
    assert "held and prove nothing" in row.controls
    assert control.name in row.controls
    without = changed(results, "C3", checks=[check for check in checks if not check.control], controls_broken=False)
    assert next(r for r in ledger.rows(without) if r.claim == "C3").findings[0].controls == "there is no control"


def test_a_claim_that_was_not_checked_says_how(results: Results) -> None:
    found = replace(results, claims=[claim for claim in results.claims if claim.claim != "C5"])
    row = next(row for row in ledger.rows(found) if row.claim == "C5")
    assert row.findings[0].kind == "not checked"
    assert "python -m theory" in row.findings[0].evidence
    assert all(row.findings for row in ledger.rows(replace(results, claims=[])))


def test_claims_about_pictures_have_their_own_source(results: Results) -> None:
    row = next(row for row in ledger.rows(results) if row.claim == "C9")
    assert row.title == "Layer energies predict what people see"
    assert [found.layers for found in row.findings] == ["images"]
    assert "python -m bench predict" in row.findings[0].evidence
    judged = stored(results, "C1").model_copy(update={"claim": "C9", "layers": "images", "evidence": "rho .5"})
    found = replace(results, claims=[*results.claims, judged], suites={**results.suites, "images": "9 cells"})
    rows = {row.claim: row for row in ledger.rows(found)}
    assert rows["C9"].findings[0].evidence == "rho .5"
    assert {found.layers for found in rows["C1"].findings} == {"synthetic"}
    assert any(line.startswith("On images: 1 hold (C9)") for line in ledger.summary(ledger.rows(found)))


def test_broken_checks_come_first(results: Results) -> None:
    checks = stored(results, "C1").checks
    last = checks[-1].model_copy(update={"holds": False, "control": False, "name": "the broken one"})
    found = changed(results, "C1", checks=[*checks[:-1], last])
    assert ledger.rows(found)[0].findings[0].checks[0].name == "the broken one"


def test_changed_verdicts_are_said(results: Results) -> None:
    text = ledger.to_markdown(replace(results, changed=["C1 on synthetic: expected 'holds', it now fails"]))
    assert "- Verdict changed: C1 on synthetic: expected 'holds', it now fails." in text


@pytest.mark.parametrize(
    ("text", "latex"),
    [
        ("plain words; more", []),
        (r"with M = Q^\top S Q, all right", [r"Q^\top"]),
        ("a proxy kappa^2 and the boundary r^*", ["r^*"]),
        (r"\lambda_1, \dots hold", [r"\lambda_1", r"\dots"]),
    ],
)
def test_formulas_are_found_in_running_text(text: str, latex: list[str]) -> None:
    parts = ledger.pieces(text)
    assert [part for part, is_latex in parts if is_latex] == latex
    assert "".join(part for part, _ in parts).rstrip() == text
