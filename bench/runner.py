"""Run the cells that are missing: compute under a lock, store, go on; a failure is a result."""

from __future__ import annotations

import errno
import resource
import shutil
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from bench import environment
from bench.api import Cell, Context
from bench.executors import Executor, Outcome
from bench.methods import load_method
from bench.schema import CellAxes, CellRecord, result_fields
from bench.store import Store
from bench.tasks import load_task
from seqlora.errors import CapacityError, SeqLoRAError, UnwritableError
from seqlora.files import unwritable

# What a cell cannot be blamed for: a full disk (or quota), a folder that became read-only, a failing device.
STORAGE_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}


@dataclass(frozen=True)
class Job:
    """What a worker needs to know besides the cell.

    Attributes:
        folder: the store.
        threads: BLAS and torch threads.
        force: compute cells that are stored already.
        retry_failed: compute failed cells again, with the same seed.
        options: passed to the tasks.
    """

    folder: Path
    threads: int = 1
    force: bool = False
    retry_failed: bool = False
    options: dict[str, str] = field(default_factory=dict)


@dataclass
class Summary:
    """What a run came to."""

    outcomes: list[Outcome] = field(default_factory=list)

    def count(self, status: str, cached: bool | None = None) -> int:
        """Cells with this status; with `cached`, only those that were stored before or only those computed now."""
        return sum(o.status == status and (cached is None or o.cached == cached) for o in self.outcomes)

    @property
    def exit_code(self) -> int:
        """3 if a cell failed, now or in an earlier run; 0 otherwise."""
        return 3 if self.count("failed") else 0

    def other_revisions(self) -> Counter[str]:
        """Stored cells that were computed by another revision of the code than this one, by revision."""
        current = environment.git_revision()
        revisions = (o.revision or "unknown" for o in self.outcomes if o.cached and o.revision != current)
        return Counter(revisions)


def run(
    cells: Sequence[Cell], job: Job, executor: Executor, watch: Callable[[Outcome], None] = lambda outcome: None
) -> Summary:
    """Run what is missing of `cells`.

    Cells that another runner holds are left to it and looked at again when everything else is done.

    Args:
        cells: without duplicates; neighbours should share task, concepts, order and seed (their data is then reused).
        job: how to compute them.
        executor: where.
        watch: called with every outcome, for progress.

    Returns:
        One outcome a cell.

    Raises:
        UnwritableError: the store cannot be written any more; what is stored stays.
        StoredFileError: the store holds records of another schema version.
    """
    store = Store(job.folder)
    store.check_writable()
    summary = Summary()
    todo = []
    for outcome in _known(cells, store, job):
        if outcome.status == "missing":
            todo.append(outcome.cell)
        else:
            summary.outcomes.append(outcome)
            watch(outcome)
    while todo:
        busy = []
        for outcome in executor.map(partial(run_cell, job), todo):
            if outcome.status == "busy":
                busy.append(outcome.cell)
                continue
            if outcome.status == "died":
                outcome = _record_death(outcome, store, job)
            summary.outcomes.append(outcome)
            watch(outcome)
        if len(busy) == len(todo):
            time.sleep(0.5)
        todo = busy
    return summary


def run_cell(job: Job, cell: Cell) -> Outcome:
    """Compute one cell and store it, unless it is stored or another process is at it. Runs in the worker."""
    store = Store(job.folder)
    with store.claim(cell) as mine:
        if not mine:
            return Outcome(cell, "busy")
        # Another runner may have finished it since this one looked.
        known = _stored(cell, store, job)
        if known is not None:
            return known
        if not store.path(cell).exists():  # nothing refers to what a killed process may have left there
            shutil.rmtree(store.artifacts(cell), ignore_errors=True)
        with pinned_threads(job.threads):
            record = compute(cell, store, job)
        store.write(record)
    return Outcome(cell, record.status, record.reason, record.timing["total_seconds"])


def compute(cell: Cell, store: Store, job: Job) -> CellRecord:
    """Compute one cell; whatever goes wrong inside is recorded, with the seed that it went wrong with.

    Raises:
        UnwritableError: the disk is full or read-only. That is no result: the run stops, the cell stays missing.
    """
    started = time.perf_counter()
    fields: dict[str, Any] = {"status": "done"}
    origin: dict[str, Any] = {"device": job.options.get("device", "cpu")}
    try:
        task = load_task(cell.task)
        _, method = load_method(task.family, cell.method)
        fields |= {"pretty_name": method.pretty_name, "role": method.role, "settings": dict(method.settings)}
        context = Context(cell.seeds, store.artifacts(cell), store.shared, job.options)
        result = task.run(cell, method, context)
        fields |= result_fields(result)
        fields["settings"] |= result.settings
        folder = context.artifacts.relative_to(store.folder)
        fields["artifacts"] = {name: (folder / path).as_posix() for name, path in result.artifacts.items()}
        origin |= {"dtype": result.dtype, "weights": result.weights}
        return _record(cell, fields, origin, job, started)
    except CapacityError as error:
        fields = {"status": "skipped", "reason": _one_line(error)}
    except UnwritableError:
        raise
    except Exception as error:  # a failed cell is a result; the run goes on
        if isinstance(error, OSError) and error.errno in STORAGE_ERRORS:
            raise unwritable(error.filename or store.artifacts(cell), error) from error
        fields = {"status": "failed", "reason": _one_line(error), "traceback": traceback.format_exc(limit=-8)}
    return _record(cell, fields, origin, job, started)


def _record(cell: Cell, fields: dict[str, Any], origin: dict[str, Any], job: Job, started: float) -> CellRecord:
    provenance = environment.provenance(job.threads, **origin)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    timing = {
        **fields.pop("timing", {}),
        "total_seconds": time.perf_counter() - started,
        "peak_process_bytes": float(peak),
    }
    return CellRecord(
        cell=CellAxes(**vars(cell)),
        provenance=provenance,
        fingerprint=environment.fingerprint(provenance),
        timing=timing,
        **fields,
    )


def _known(cells: Sequence[Cell], store: Store, job: Job) -> Iterator[Outcome]:
    for cell in cells:
        yield _stored(cell, store, job) or Outcome(cell, "missing")


def _stored(cell: Cell, store: Store, job: Job) -> Outcome | None:
    """The outcome that is in the store, None if the cell must be computed."""
    record = store.read_or_set_aside(cell)
    if record is None or job.force or (record.status == "failed" and job.retry_failed):
        return None
    seconds = record.timing.get("total_seconds", 0.0)
    return Outcome(cell, record.status, record.reason, seconds, cached=True, revision=record.provenance.git_revision)


def _record_death(outcome: Outcome, store: Store, job: Job) -> Outcome:
    """Store that the worker of a cell died, unless the cell was stored before it did."""
    with store.claim(outcome.cell) as mine:
        known = _stored(outcome.cell, store, job) if mine and not job.force else None
        if known is not None:
            return known
        store.write(_record(outcome.cell, {"status": "failed", "reason": outcome.reason}, {}, job, time.perf_counter()))
    return Outcome(outcome.cell, "failed", outcome.reason)


@contextmanager
def pinned_threads(threads: int) -> Iterator[None]:
    """Set the BLAS and torch threads of this process for the length of a block."""
    before = torch.get_num_threads()
    with threadpool_limits(threads):
        torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, SeqLoRAError) else f"{type(error).__name__}: {text}"
