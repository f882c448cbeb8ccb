"""The claims ledger: what holds, where, under which condition, on what evidence, and whether a control could tell."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module

from reports.sources import COMMANDS, Results, StoredCheck
from theory.api import CLAIMS
from theory.claims.images import STATEMENTS

ORIGINS = {"abstract": "asserted in the paper's abstract, in words", "ours": "ours"}
PICTURES = "images"  # the source of claims that are judged on generated images, not on layers
JUDGE = "python -m bench predict --out results/bench --json results/theory/images.json"
DISCLAIMER = (
    "Every statement is a reconstruction from the abstract of arXiv 2605.22743, derived from first principles; none is "
    "a theorem quoted from the paper."
)


@dataclass(frozen=True)
class Finding:
    """One claim on one source of layers.

    Attributes:
        layers: source of the layers.
        suite: how much was run.
        kind: "holds", "holds when", "fails when", or "not checked".
        verdict: with its condition.
        evidence: the decisive numbers.
        controls: what became of the controls, in words.
        sound: whether there are controls and all were broken.
        checks: every inequality, broken ones first.
    """

    layers: str
    suite: str
    kind: str
    verdict: str
    evidence: str
    controls: str
    sound: bool
    checks: Sequence[StoredCheck] = ()


@dataclass(frozen=True)
class Row:
    """One claim, with what every source of layers says of it."""

    claim: str
    title: str
    origin: str  # "abstract" or "ours"
    statement: str  # LaTeX
    assumptions: Sequence[str]
    findings: Sequence[Finding] = field(default_factory=tuple)


def rows(results: Results) -> list[Row]:
    """The ledger, in the order of the claims; a claim that a source does not cover says so in its row."""
    import_module("theory.claims")  # registers them
    ids = list(dict.fromkeys([*CLAIMS, *STATEMENTS, *(found.claim for found in results.claims)]))
    layers = [name for name in results.sources if name != PICTURES] or ["synthetic"]
    return [_row(results, claim, [PICTURES] if claim in STATEMENTS else layers) for claim in sorted(ids, key=_natural)]


def _natural(claim: str) -> tuple[int, str]:
    digits = "".join(character for character in claim if character.isdigit())
    return (int(digits or 0), claim)


def _row(results: Results, claim: str, sources: Sequence[str]) -> Row:
    known = CLAIMS.get(claim) or STATEMENTS.get(claim)
    findings = [_finding(results, claim, source) for source in sources]
    if known is None:
        return Row(claim, claim, "ours", "", (), findings)
    return Row(claim, known.title, known.source, known.statement, known.assumptions, findings)


def _finding(results: Results, claim: str, source: str) -> Finding:
    stored = next((found for found in results.claims if found.claim == claim and found.layers == source), None)
    suite = results.suites.get(source, "")
    if stored is None:
        command = JUDGE if source == PICTURES else COMMANDS.get(
            source, f"python -m theory --layers {source} --json results/theory/{claim}.json"
        )  # fmt: skip
        return Finding(source, suite, "not checked", "not checked", f"run `{command}`", "–", False)
    checks = sorted(stored.checks, key=lambda check: (check.holds == (not check.control), check.control))
    return Finding(
        source, suite, stored.verdict.kind, stored.verdict.text, stored.evidence, _controls(stored.controls),
        stored.controls_broken, checks,
    )  # fmt: skip


def _controls(controls: Sequence[StoredCheck]) -> str:
    """What became of the controls, the ones that held by name."""
    if not controls:
        return "there is no control"
    held = list(dict.fromkeys(check.name for check in controls if check.holds))
    if not held:
        return f"broken, as it must be: {controls[0].name}" if len(controls) == 1 else (
            f"all {len(controls)} broken, as they must be"
        )  # fmt: skip
    named = ", ".join(held[:3]) + (f" and {len(held) - 3} more" if len(held) > 3 else "")
    return f"{sum(check.holds for check in controls)} of {len(controls)} held and prove nothing: {named}"


def summary(ledger: Sequence[Row]) -> list[str]:
    """One line a source of layers: how many claims hold, hold under a condition, fail, and which."""
    lines = []
    for source in dict.fromkeys(found.layers for row in ledger for found in row.findings):
        by_kind: dict[str, list[str]] = {}
        for row in ledger:
            for found in row.findings:
                if found.layers == source:
                    by_kind.setdefault(found.kind, []).append(row.claim)
        words = {
            "holds": "hold",
            "holds when": "hold under a condition",
            "fails when": "fail",
            "not checked": "unchecked",
        }
        counts = Counter({kind: len(names) for kind, names in by_kind.items()})
        parts = [f"{counts[kind]} {word} ({', '.join(by_kind[kind])})" for kind, word in words.items() if counts[kind]]
        lines.append(f"On {source}{'' if source == PICTURES else ' layers'}: {'; '.join(parts)}.")
    return lines


def pieces(text: str) -> list[tuple[str, bool]]:
    """Split running text into words and LaTeX: any word with a backslash or `_{`, or a single letter with a `^`."""
    found: list[tuple[str, bool]] = []
    for word in text.split(" "):
        body = word.rstrip(",;:")
        latex = re.search(r"\\|_\{|\b[A-Za-z]\^", body) is not None
        found += [(body, True), (word[len(body) :] + " ", False)] if latex else [(word + " ", False)]
    return found


def changes(results: Results) -> list[str]:
    """Verdicts that came out otherwise than this revision expects."""
    return [f"Verdict changed: {line}." for line in results.changed]


def to_markdown(results: Results) -> str:
    """The ledger for a pull request or a README."""
    ledger = rows(results)
    lines = [
        "## Claims ledger",
        "",
        DISCLAIMER,
        "",
        *(f"- {line}" for line in [*summary(ledger), *changes(results)]),
        "",
    ]
    lines += ["| claim | source | layers | verdict and condition | evidence | controls |", "|---|---|---|---|---|---|"]
    for row in ledger:
        for found in row.findings:
            name, layers = f"**{row.claim}** {row.title}", f"{found.layers} ({found.suite})"
            parts = (name, row.origin, layers, f"**{found.verdict}**", found.evidence, found.controls)
            lines.append("| " + " | ".join(_plain(part) for part in parts) + " |")
    lines += ["", "### What the claims say", ""]
    for row in ledger:
        if row.statement:
            words = pieces("; ".join(row.assumptions))
            given = "".join(f"$`{word}`$" if latex else word for word, latex in words).rstrip()
            lines += [f"- **{row.claim}** ({ORIGINS[row.origin]}): $`{row.statement}`$. Assumes: {given}."]
    return "\n".join(lines) + "\n"


def _plain(part: str) -> str:
    return part.replace("|", "\\|").replace("\n", " ")
