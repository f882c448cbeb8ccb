"""The tables of README.md: generated between markers, from what is published.

<!-- table: ledger -->
...
<!-- /table -->
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from reports import ledger
from reports.entries import Entry, chosen, estimate, method_name, pipes, text
from reports.image_cells import longest, off_curve
from reports.sources import IMAGE_METRIC, Results
from reports.statistics import replications
from reports.style import in_order
from seqlora.errors import BadInputError, StoredFileError
from seqlora.files import atomic_write

MARKED = re.compile(r"(<!-- table: (\S+) -->\n)(.*?)(<!-- /table -->)", re.DOTALL)
SOURCES = {
    "synthetic": "synthetic layers",
    "minilm": "MiniLM, a real transformer",
    "diffusion": "layers of the small diffusion model",
    "images": "generated images",
}
LONGEST = 120  # characters of evidence beside a verdict
PORTRAITS = "portraits"
PORTRAIT_COLUMNS = {"single": "alone", "final": "merged", "forgetting": "forgotten"}
LINEAR = {"linear-synthetic": "synthetic", "linear-minilm": "MiniLM"}


def updated(readme: str, results: Results) -> str:
    """The text with every marked table made anew.

    Raises:
        BadInputError: a marker names no table of `TABLES`, or there is no marker.
    """
    if not MARKED.search(readme):
        raise BadInputError("no line `<!-- table: NAME -->` in the text; NAME is one of " + ", ".join(TABLES))

    def table(match: re.Match[str]) -> str:
        if match[2] not in TABLES:
            raise BadInputError(f"marker `table: {match[2]}` names no table; there are {', '.join(TABLES)}")
        return f"{match[1]}{TABLES[match[2]](results)}{match[4]}"

    return MARKED.sub(table, readme)


def update(path: Path, results: Results, check: bool) -> bool:
    """Write the tables into a file, or only compare them; returns whether the file agreed before.

    Raises:
        StoredFileError: the file cannot be read or written.
    """
    try:
        before = path.read_text(encoding="utf-8")
    except OSError as error:
        raise StoredFileError(f"cannot read {path}: {error.strerror or error}; give --file") from error
    after = updated(before, results)
    if after != before and not check:
        with atomic_write(path) as temporary:
            temporary.write_text(after, encoding="utf-8", newline="")
    return after == before


def ledger_table(results: Results) -> str:
    """One row a claim, one column a source of layers; a verdict's figures are in the full ledger."""
    found_rows = ledger.rows(results)
    sources = list(dict.fromkeys(found.layers for row in found_rows for found in row.findings))
    rows = []
    for row in found_rows:
        verdicts = [text(_verdict(next((f for f in row.findings if f.layers == name), None))) for name in sources]
        rows.append(
            (text(f"**{row.claim}** {row.title}"), text("yes" if row.origin == "abstract" else "ours"), *verdicts)
        )
    return pipes(("claim", "in the abstract?", *(SOURCES.get(name, name) for name in sources)), rows, frozenset())


def _verdict(found: ledger.Finding | None) -> str:
    """In words, bold unless it plainly holds, with the first piece of evidence where that is short."""
    if found is None or found.kind == "not checked":
        return "" if found is None else "not checked"
    short, first = found.verdict.partition(":")[0], re.split(r"[;:] |\. |\.$", found.evidence)[0]
    parts = [short if found.kind == "holds" else f"**{short}**", first if len(first) <= LONGEST else ""]
    return "; ".join([part for part in parts if part] + ([] if found.sound else ["a control did not fail"]))


def methods_table(results: Results) -> str:
    """Merged error and forgetting of every method on the linear tasks with default options, at their longest."""
    values = {item: longest(replications(results.linear, "relative_error", item)) for item in ("final", "forgetting")}
    tasks = [task for task in LINEAR if (values["final"].task == task).any()]
    heads, columns = [], []
    for task in tasks:
        T = values["final"].loc[values["final"].task == task, "n_concepts"].iloc[0]
        heads += [f"{LINEAR[task]}, T = {T}: error", "forgetting"]
        columns += [(values[item], task, T) for item in ("final", "forgetting")]
    if not tasks:
        return "No results on linear layers are published.\n"
    return _methods(values["final"][values["final"].task.isin(tasks)], heads, columns)


def images_table(results: Results) -> str:
    """Identity of a concept alone, in the merged model, and what is forgotten, at the longest sequence of each task."""
    values = {item: replications(results.images, IMAGE_METRIC, item) for item in PORTRAIT_COLUMNS}
    final = longest(off_curve(values["final"]))
    final = final[final.task.str.startswith(PORTRAITS)]
    if final.empty:
        return "No image results are published; `python -m bench run --suite images` makes them.\n"
    heads, columns = [], []
    for T, task in sorted({(int(row.n_concepts), str(row.task)) for row in final.itertuples()}):
        steps = re.search(r"\bsteps=(\d+)", task)
        name = f"T = {T}, {steps[1]} steps" if steps else f"T = {T}"
        name += ", convolutions" if "layers=convolution" in task else ""
        heads += [f"{name}: {head}" for head in PORTRAIT_COLUMNS.values()]
        columns += [(values[item], task, T) for item in PORTRAIT_COLUMNS]
    return _methods(final, heads, columns)


def _methods(shown: pd.DataFrame, heads: Sequence[str], columns: Sequence[tuple[pd.DataFrame, str, int]]) -> str:
    rows: list[tuple[Entry, ...]] = []
    for method in in_order(shown.method):
        one = shown[shown.method == method].iloc[0]
        numbers = [estimate(chosen(frame, task, count, method)) for frame, task, count in columns]
        name = method_name(one).text
        rows.append((text(f"**{name}**" if method.startswith("seqlora") else name), text(str(one.role)), *numbers))
    return pipes(("method", "role", *heads), rows, frozenset(range(2, 2 + len(heads))))


TABLES: dict[str, Callable[[Results], str]] = {
    "ledger": ledger_table,
    "methods": methods_table,
    "images": images_table,
}
