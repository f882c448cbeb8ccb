"""The history: a CSV with one row a gated number and revision, appended to and never rewritten.

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

from bench.regression.numbers import GATED
from bench.regression.snapshot import Group, Snapshot
from seqlora.errors import BadInputError, StoredFileError
from seqlora.files import atomic_write

PATH = Path(__file__).parent / "history.csv"
COLUMNS = ("revision", "date", "fingerprint", "task", "method", "n_concepts", "number", "better", "mean", "sd", "seeds")


def rows(snapshot: Snapshot) -> Iterator[dict[str, Any]]:
    """One row a group of cells and gated number."""
    groups: dict[Group, list[dict[str, float]]] = {}
    for entry in snapshot.cells:
        if entry.status == "done":
            groups.setdefault(entry.group, []).append(entry.numbers)
    for (task, method, count), members in groups.items():
        fingerprints = {e.fingerprint for e in snapshot.cells if e.group == (task, method, count)}
        for name, gate in GATED.items():
            values = np.array([numbers[name] for numbers in members if name in numbers])
            if len(values):
                yield {
                    "revision": snapshot.git_revision,
                    "date": snapshot.created_utc,
                    "fingerprint": "+".join(sorted(fingerprints)),
                    "task": task,
                    "method": method,
                    "n_concepts": count,
                    "number": name,
                    "better": gate.orientation,
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
