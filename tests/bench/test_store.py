"""The store: whole records or none, corrupt ones set aside, other schemas refused, one holder a cell."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.api import Cell
from bench.schema import SCHEMA_VERSION, CellRecord, CorruptRecordError, SchemaVersionError, parse
from bench.store import Store, slug
from seqlora.errors import StoredFileError


def test_what_is_written_is_read(store: Store, record: CellRecord) -> None:
    cell = record.to_cell()
    assert store.read(cell) is None
    assert store.state(cell) == "missing"
    store.write(record)
    assert store.read(cell) == record.sealed()
    assert store.state(cell) == "done"
    assert list(store.all_records()) == [record.sealed()]


def test_matrices_survive_bit_for_bit(store: Store, record: CellRecord) -> None:
    store.write(record)
    stored = store.read(record.to_cell())
    assert stored is not None
    for metric in ("relative_error", "output_change"):
        before, after = record.matrix(metric), stored.matrix(metric)
        assert before is not None
        assert after is not None
        assert np.array_equal(before.values, after.values, equal_nan=True)
    assert np.isnan(stored.matrix("output_change").values[0, 1])  # type: ignore[union-attr]
    assert stored.matrix("no such metric") is None


cells = st.builds(
    Cell, st.text(min_size=1), st.text(min_size=1), st.integers(1, 99), st.integers(0, 9), st.integers(0, 99)
)


@settings(derandomize=True, deadline=None, max_examples=100)
@given(cells, cells)
def test_the_path_is_a_function_of_the_cell_and_stays_inside(first: Cell, second: Cell) -> None:
    store = Store("store")
    assert (store.path(first) == store.path(second)) == (first == second)
    assert store.path(first).resolve().is_relative_to(Path("store/cells").resolve())
    assert len(store.path(first).relative_to("store/cells").parts) == 3


@pytest.mark.parametrize("name", ["../../etc/passwd", "photos:/home/me/x", ".", "..", "a\0b", "Ä", "x" * 300])
def test_hostile_names_become_plain_folders(name: str) -> None:
    assert set(slug(name)) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
    assert 0 < len(slug(name)) < 100


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[]",
        lambda text: text.replace('"done"', '"fine"', 1),
        lambda text: text.replace('"rank": 2', '"rank": 3', 1),  # still a valid record: only the checksum tells
        lambda text: text.replace('"reason"', '"raeson"', 1),
        lambda text: text + "{",
    ],
    ids=["truncated", "empty", "no object", "no such status", "number changed", "unknown field", "trailing"],
)
def test_a_corrupt_record_is_set_aside(store: Store, record: CellRecord, damage) -> None:
    cell = record.to_cell()
    store.write(record)
    path = store.path(cell)
    damaged = damage(path.read_text(encoding="utf-8"))
    assert damaged != path.read_text(encoding="utf-8")
    path.write_text(damaged, encoding="utf-8")
    assert store.state(cell) == "corrupt"
    assert path.exists()  # looking changes nothing
    assert list(store.all_records()) == []
    assert store.read_or_set_aside(cell) is None
    assert not path.exists()
    assert path.with_name(path.name + ".corrupt").read_text(encoding="utf-8") == damaged
    # a second one does not overwrite the first
    path.write_text("again", encoding="utf-8")
    assert store.read_or_set_aside(cell) is None
    assert path.with_name(path.name + ".corrupt1").read_text(encoding="utf-8") == "again"


def test_binary_rubbish_is_corrupt(store: Store, record: CellRecord) -> None:
    store.write(record)
    store.path(record.to_cell()).write_bytes(b"\xff\xfe\x00rubbish")
    assert store.state(record.to_cell()) == "corrupt"


def test_the_record_of_another_cell_is_corrupt(store: Store, record: CellRecord) -> None:
    store.write(record)
    other = replace(record.to_cell(), seed=5)
    store.path(other).write_bytes(store.path(record.to_cell()).read_bytes())
    with pytest.raises(CorruptRecordError, match="record of another cell"):
        store.read(other)


def test_another_schema_version_is_refused_in_one_line_and_left_alone(store: Store, record: CellRecord) -> None:
    store.write(record)
    path = store.path(record.to_cell())
    data = json.loads(path.read_text(encoding="utf-8")) | {"schema_version": SCHEMA_VERSION + 1}
    path.write_text(json.dumps(data), encoding="utf-8")
    for look in (store.read, store.read_or_set_aside, store.state):
        with pytest.raises(SchemaVersionError, match=r"has schema version 2, this version reads 1; .*--out") as caught:
            look(record.to_cell())
        assert "\n" not in str(caught.value)
    assert path.exists()


def test_records_refuse_what_json_cannot_hold(record: CellRecord) -> None:
    dump = record.model_dump(mode="json")
    dump["timing"]["total_seconds"] = float("inf")
    with pytest.raises(CorruptRecordError):
        parse(dump, "here")


def test_a_failed_write_leaves_the_old_record(
    store: Store, record: CellRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write(record)
    before = store.path(record.to_cell()).read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoredFileError, match="No space left on device; free space"):
        store.write(record.model_copy(update={"reason": "new"}))
    assert store.path(record.to_cell()).read_bytes() == before
    assert not list(store.folder.rglob("*.tmp"))


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder", encoding="utf-8")
    store = Store(tmp_path / "file")
    with pytest.raises(StoredFileError, match="cannot write"):
        store.check_writable()
    with pytest.raises(StoredFileError, match="cannot lock"), store.claim(Cell("t", "m", 1)):
        pass


def test_one_process_holds_a_cell_and_a_dead_one_does_not(store: Store) -> None:
    cell, other = Cell("t", "m", 1), Cell("t", "m", 2)
    with store.claim(cell) as mine:
        assert mine
    code = (
        "import sys, filelock; lock = filelock.FileLock(sys.argv[1]); lock.acquire(); print('held', flush=True); "
        "sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(store.lock_path(cell))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with store.claim(cell) as mine:
            assert not mine
        with store.claim(other) as mine:
            assert mine
        holder.kill()  # SIGKILL: nothing is cleaned up
        holder.wait(60)
    with store.claim(cell) as mine:
        assert mine


@contextmanager
def bound_by_permissions() -> Iterator[None]:
    """Permissions do not bind root: be nobody for the length of a block."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_a_read_only_folder_is_one_line(record: CellRecord) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o555)
        store = Store(folder)
        with bound_by_permissions():
            for write in (store.check_writable, lambda: store.write(record)):
                with pytest.raises(StoredFileError, match="Permission denied; free space or choose another folder"):
                    write()
            with pytest.raises(StoredFileError, match="cannot lock"), store.claim(record.to_cell()):
                pass
