"""The store: one JSON a cell, at a path that is a function of the cell, written whole or not at all.

Several runners may share a folder. A cell is computed under its own lock; a record that does not parse is set aside
and counts as missing; one of another schema version stops the run, because the folder belongs to other code.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from bench.api import Cell
from bench.schema import CellRecord, CorruptRecordError, parse
from seqlora.errors import DamagedFileError, StoredFileError, UnwritableError
from seqlora.files import read_json, remove_leftovers, unwritable, write_json

State = Literal["done", "failed", "skipped", "missing", "corrupt"]
PROBE = 1 << 16  # bytes that must fit before a run starts


class Store:
    """A folder of cell records.

    Args:
        folder: where it is; made on the first write.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def path(self, cell: Cell) -> Path:
        """Where the cell's record is, whether or not it exists."""
        name = f"T{cell.n_concepts}-o{cell.order}-s{cell.seed}-{cell.digest}.json"
        return self.folder / "cells" / slug(cell.task) / slug(cell.method) / name

    def artifacts(self, cell: Cell) -> Path:
        """Folder of the cell's images and adapters."""
        return self.path(cell).with_suffix("")

    def lock_path(self, cell: Cell) -> Path:
        """File whose lock means that someone computes the cell."""
        return self.folder / ".locks" / f"{cell.digest}.lock"

    @property
    def shared(self) -> Path:
        """Folder for what several cells use, concept trainings for example."""
        return self.folder / "shared"

    def check_writable(self) -> None:
        """Fail now, not after the first cell.

        Raises:
            UnwritableError: the folder cannot be made or written, or the disk is full.
        """
        cells = self.folder / "cells"
        try:
            cells.mkdir(parents=True, exist_ok=True)
            # A file without a name where the system has them: a kill leaves nothing, two runners do not collide.
            with tempfile.TemporaryFile(dir=cells) as probe:
                probe.write(bytes(PROBE))
                probe.flush()
                os.fsync(probe.fileno())
        except (OSError, ValueError) as error:  # ValueError: a NUL character in the name
            raise _unwritable(cells, error) from error

    def read(self, cell: Cell) -> CellRecord | None:
        """The cell's record, None if there is none.

        Raises:
            CorruptRecordError: truncated, changed, or the record of another cell.
            SchemaVersionError: written by another version of the code.
            StoredFileError: the file is there and the operating system refuses to read it.
        """
        path = self.path(cell)
        try:
            record = self._parse_file(path)
        except FileNotFoundError:
            return None
        if record.to_cell() != cell:
            raise CorruptRecordError(f"{path} is the record of another cell ({record.to_cell()})")
        return record

    def state(self, cell: Cell) -> State:
        """What is known about a cell, without changing anything."""
        try:
            record = self.read(cell)
        except CorruptRecordError:
            return "corrupt"
        return record.status if record else "missing"

    def read_or_set_aside(self, cell: Cell) -> CellRecord | None:
        """Like `read`, but a corrupt record is renamed to `<name>.corrupt` and counts as missing."""
        try:
            return self.read(cell)
        except CorruptRecordError:
            self._set_aside(self.path(cell))
            return None

    def write(self, record: CellRecord) -> None:
        """Store a record, atomically.

        Raises:
            UnwritableError: the folder cannot be written or the disk is full.
        """
        write_json(self.path(record.to_cell()), record.sealed().model_dump(mode="json"))

    @contextmanager
    def claim(self, cell: Cell) -> Iterator[bool]:
        """Hold the cell's lock; yields False at once if another process holds it. A dead process holds nothing.

        Under the lock, what a killed process left half-written for this cell is removed.
        """
        path = self.lock_path(cell)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(path, timeout=0)
            lock.acquire()
        except Timeout:
            yield False
            return
        except (OSError, NotImplementedError) as error:  # the latter: a file system without locks
            raise UnwritableError(
                f"cannot lock {path}: {getattr(error, 'strerror', None) or error}; free space or choose another folder"
            ) from error
        try:
            remove_leftovers(self.path(cell).parent, self.path(cell).name)
            yield True
        finally:
            lock.release()

    def records(self, cells: Iterable[Cell]) -> Iterator[CellRecord]:
        """Records of those of `cells` that are stored and sound."""
        for cell in cells:
            try:
                record = self.read(cell)
            except CorruptRecordError:
                continue
            if record is not None:
                yield record

    def all_records(self) -> Iterator[CellRecord]:
        """Every sound record in the folder, in the order of their paths.

        Raises:
            SchemaVersionError: one was written by another version of the code.
        """
        for path in sorted(self.folder.glob("cells/*/*/*.json")):
            try:
                yield self._parse_file(path)
            except (CorruptRecordError, FileNotFoundError):  # another runner may set it aside while we read
                continue

    @staticmethod
    def _parse_file(path: Path) -> CellRecord:
        try:
            data = read_json(path)
        except DamagedFileError as error:
            raise CorruptRecordError(str(error)) from error
        except StoredFileError as error:
            if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
                raise FileNotFoundError(path) from error
            raise  # not to be read now (a permission, a stale mount) is not corrupt: nothing may be set aside
        return parse(data, str(path))

    def _set_aside(self, path: Path) -> None:
        number = 0
        while (target := path.with_name(f"{path.name}.corrupt{number or ''}")).exists():
            number += 1
        try:
            path.rename(target)
        except FileNotFoundError:  # another runner was faster
            return
        except OSError as error:
            raise UnwritableError(f"cannot set {path} aside: {error.strerror or error}; check the folder") from error


def _unwritable(path: Path, error: OSError | ValueError) -> UnwritableError:
    return unwritable(path, error if isinstance(error, OSError) else OSError(str(error)))


def slug(name: str) -> str:
    """`name` as a folder name: unchanged if it is plain, otherwise its plain characters and a hash of the whole."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "_", name)[:60]
    return plain if plain == name else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
