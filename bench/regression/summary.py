"""A comparison as people and other programs read it: a table, Markdown for a pull request, JSON for a dashboard."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from bench.regression.comparison import Comparison, GateResult
from bench.regression.decision import FAMILY_LEVEL
from bench.regression.snapshot import Snapshot
from seqlora.files import atomic_write, write_json

HEADS = ("task", "method", "T", "number", "pairs", "base", "candidate", "worse by (90 % interval)", "margin", "verdict")
SHOWN = 20  # lines of a list; the rest is counted
MARKS = {"regression": "❌", "not comparable": "⚠️", "inconclusive": "❔", "unchanged": "✅", "equal": "✅"}


def headline(found: Comparison) -> str:
    """The outcome in one line, worst first."""
    parts = []
    if found.regressions:
        parts.append(f"{len(found.regressions)} of {len(found.gates)} gates are worse")
    if found.different:
        cells = len({difference.cell for difference in found.different})
        parts.append(f"{len(found.different)} numbers of {cells} cells changed on the same machine and libraries")
    if found.verdicts:
        parts.append(f"{len(found.verdicts)} verdicts of claims changed")
    if found.missing:
        parts.append(f"{len(found.missing)} cells are missing or failed")
    untested = sum(gate.verdict == "not comparable" for gate in found.gates)
    if untested:
        parts.append(f"{untested} gates could not be compared")
    return "; ".join(parts) if parts else f"no regression in {len(found.gates)} gates"


def row(gate: GateResult) -> list[str]:
    """A gate as a row of text; see `HEADS`."""
    interval = "one pair"
    if gate.test is not None:
        interval = f"{gate.test.mean:+.3g} ({gate.test.low:+.3g} to {gate.test.high:+.3g})"
    said = f"{gate.verdict}, better" if gate.better and gate.verdict == "inconclusive" else gate.verdict
    if gate.verdict == "regression":
        said += f", p = {gate.adjusted_p:.1g}"
    task, method, count = gate.group
    means = [f"{gate.base:.4g}", f"{gate.candidate:.4g}"]
    name = gate.number.pretty_name
    return [task, method, str(count), name, str(gate.pairs), *means, interval, f"{gate.margin:.2g}",
            f"{said}: {gate.reason}" if gate.reason else said]  # fmt: skip


def table(found: Comparison) -> Table:
    """The gates for a terminal."""
    colours = {"regression": "red", "not comparable": "yellow", "inconclusive": "yellow"}
    grid = Table(*HEADS, title=headline(found), title_justify="left")
    for gate in found.gates:
        grid.add_row(*row(gate), style=colours.get(gate.verdict, ""))
    return grid


def notes(found: Comparison) -> list[tuple[str, list[str]]]:
    """Everything but the gates: titles, and lines under them; empty lists are left out."""
    lists = [
        ("Verdicts of claims that changed", list(found.verdicts)),
        ("Numbers that had to be equal: same machine, libraries and cell", [str(entry) for entry in found.different]),
        ("Cells that are missing or failed", list(found.missing)),
        ("New cells, compared with nothing", [str(cell) for cell in found.new]),
        ("Slower by more than a quarter (advice, no failure)", list(found.advice)),
    ]
    return [(title, shortened(lines)) for title, lines in lists if lines]


def shortened(lines: Sequence[str]) -> list[str]:
    """The first lines, and how many more there are."""
    more = len(lines) - SHOWN
    return [*lines[:SHOWN], f"and {more} more"] if more > 0 else list(lines)


def markdown(found: Comparison) -> str:
    """The comparison for a pull request."""
    mark = "✅" if found.exit_code == 0 else "❌"
    lines = [
        f"## {mark} Regression check: {headline(found)}",
        "",
        f"Base {_revision(found.base)}, candidate {_revision(found.candidate)}. Differences are paired over seeds; "
        f"+ is worse. A gate fails iff its one-sided t-test is significant (Holm, all gates, level {FAMILY_LEVEL:g}) "
        "and the mean exceeds the margin; it is unchanged iff the 90 % interval lies within the margin.",
        "",
        "| | " + " | ".join(HEADS) + " |",
        "|" + "---|" * (len(HEADS) + 1),
    ]
    lines += [f"| {MARKS[gate.verdict]} | " + " | ".join(_cell(text) for text in row(gate)) + " |"
              for gate in found.gates]  # fmt: skip
    for title, entries in notes(found):
        lines += ["", f"**{title}**", "", *(f"- {_cell(entry)}" for entry in entries)]
    return "\n".join(lines) + "\n"


def write_markdown(found: Comparison, path: Path) -> None:
    """Write `markdown`, atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(markdown(found), encoding="utf-8")


def benchmark_json(found: Comparison) -> list[dict[str, Any]]:
    """The candidate's gated means for github-action-benchmark, tool `customSmallerIsBetter`.

    Its fields are name, unit, value, and optionally range and extra. Numbers of which more is better are negated, as
    the name says, so that smaller is better for all of them.
    """
    entries = []
    for gate in found.gates:
        task, method, count = gate.group
        higher = gate.number.orientation == "higher"
        value = {
            "name": f"{task} {method} T={count}: {'minus ' if higher else ''}{gate.number.pretty_name}",
            "unit": gate.number.unit or "1",
            "value": -gate.candidate if higher else gate.candidate,
            "extra": f"{gate.verdict}; {gate.pairs} pairs; margin {gate.margin:.2g}",
        }
        if gate.test is not None:
            value["range"] = f"± {(gate.test.high - gate.test.low) / 2:.2g}"
        entries.append(value)
    return entries


def write_benchmark_json(found: Comparison, path: Path) -> None:
    """Write `benchmark_json`, atomically."""
    write_json(path, benchmark_json(found))


def _revision(side: Snapshot) -> str:
    name = f"`{side.git_revision[:12]}`" if side.git_revision else "unknown or mixed revisions"
    return f"{name} (uncommitted changes)" if side.git_dirty else name


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
