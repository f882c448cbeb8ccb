"""The history: a CSV with one row a gated number and revision, appended to and never rewritten.

Timing ratios of a baseline are rows of task "timing", their name standing for the method.

Columns: revision, date (UTC, of the last cell), fingerprint (several joined by +), task, method, n_concepts, number,
better ("lower" or "higher"), mean and sd over seeds, seeds.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bench.api import Array
from bench.regression.numbers import GATED
from bench.regression.snapshot import CellNumbers, Group, Snapshot
from seqlora.errors import BadInputError, StoredFileError
from seqlora.files import atomic_write

PATH = Path(__file__).parent / "history.csv"
COLUMNS = ("revision", "date", "fingerprint", "task", "method", "n_concepts", "number", "better", "mean", "sd", "seeds")


def rows(snapshot: Snapshot) -> Iterator[dict[str, Any]]:
    """One row a group of cells and gated number, and one a timing ratio."""
    groups: dict[Group, list[CellNumbers]] = {}
    for entry in snapshot.cells:
        if entry.status == "done":
            groups.setdefault(entry.group, []).append(entry)
    for group, members in groups.items():
        for name, gate in GATED.items():
            values = np.array([entry.numbers[name] for entry in members if name in entry.numbers])
            if len(values):
                fingerprints = {entry.fingerprint for entry in members}
                yield _row(snapshot, fingerprints, group, name, gate.orientation, values)
    for name, ratio in snapshot.ratios.items():
        better = "lower" if ratio.smaller_is_better else "higher"
        yield _row(snapshot, set(snapshot.comparable), ("timing", name, 0), "ratio", better, np.array([ratio.ratio]))


def _row(
    snapshot: Snapshot, fingerprints: set[str], group: Group, number: str, better: str, values: Array
) -> dict[str, Any]:
    task, method, count = group
    return {
        "revision": snapshot.git_revision,
        "date": snapshot.created_utc,
        "fingerprint": "+".join(sorted(fingerprints)),
        "task": task,
        "method": method,
        "n_concepts": count,
        "number": number,
        "better": better,
        "mean": repr(float(values.mean())),
        "sd": repr(float(values.std(ddof=1))) if len(values) > 1 else "",
        "seeds": len(values),
    }


def read(path: Path) -> list[dict[str, str]]:
    """All rows, oldest first; none if there is no file.

    Raises:
        StoredFileError: the file is no history.
    """
    if not path.exists():
        return []
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise StoredFileError(f"{path} cannot be read ({error}); restore it") from error
    reader = csv.DictReader(io.StringIO(text))
    found = list(reader)
    if tuple(reader.fieldnames or ()) != COLUMNS or any(None in row or None in row.values() for row in found):
        raise StoredFileError(f"{path} is no history (columns {', '.join(COLUMNS)}); give another file")
    return found


def append(snapshot: Snapshot, path: Path) -> list[dict[str, str]]:
    """Add a snapshot's rows, those that are not in the file yet; returns what was added.

    Raises:
        BadInputError: the cells come from no committed revision, so the row would say nothing.
    """
    if snapshot.git_revision is None or snapshot.git_dirty:
        raise BadInputError("history records committed revisions only; commit, run the suite again, then append")
    known = read(path)
    seen = {_key(row) for row in known}
    added = [row for row in ({k: str(v) for k, v in r.items()} for r in rows(snapshot)) if _key(row) not in seen]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows([*known, *added])
    with atomic_write(path) as temporary:
        temporary.write_text(buffer.getvalue(), encoding="utf-8")
    return added


def _key(row: dict[str, str]) -> tuple[str, ...]:
    return tuple(row[name] for name in ("revision", "fingerprint", "task", "method", "n_concepts", "number"))
