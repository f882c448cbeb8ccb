"""Where cells run: here, in worker processes, on a dask cluster or on Slurm, behind one `map`.

The function that is mapped computes one cell and stores it; what comes back is small. Nothing that a cell computes
may depend on the executor: threads are pinned and every random number is addressed by the cell.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bench.api import Cell
from bench.registry import Registry
from seqlora.errors import BadInputError, SeqLoRAError


@dataclass(frozen=True)
class Outcome:
    """What running a cell came to; the result itself is in the store."""

    cell: Cell
    status: str  # "done", "failed", "skipped", or "busy" (another runner holds the cell), "died" (its worker did)
    reason: str = ""
    seconds: float = 0.0
    cached: bool = False  # it was in the store already
    revision: str | None = None  # git revision that computed it


Work = Callable[[Cell], Outcome]


@dataclass(frozen=True)
class Resources:
    """What the command line says about where to run.

    Attributes:
        workers: processes or jobs at the same time.
        threads: BLAS and torch threads in each of them.
        scheduler: dask: address of a scheduler, "" starts a local cluster; submitit: "slurm", "local", "" finds out.
        folder: where an executor may keep its own files.
    """

    workers: int
    threads: int
    scheduler: str
    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """Variables that pin the threads of a process; they work only if set before NumPy is imported."""
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
        return {**dict.fromkeys(names, str(self.threads)), "TOKENIZERS_PARALLELISM": "false"}


class Executor(Protocol):
    """Runs `work` on cells, in any order, and yields each outcome when it is there."""

    def map(self, work: Work, cells: Sequence[Cell]) -> Iterator[Outcome]:
        """Yield one outcome a cell; closing the iterator stops what is still running."""


@dataclass(frozen=True)
class Serial:
    """In this process, one after another."""

    resources: Resources

    def map(self, work: Work, cells: Sequence[Cell]) -> Iterator[Outcome]:
        """See `Executor.map`."""
        yield from map(work, cells)


@dataclass(frozen=True)
class Loky:
    """In worker processes of this machine.

    At most one cell a worker is handed out, so when a worker dies (killed, out of memory) the suspects are few: each
    is run again alone, and one that brings its worker down a second time is reported as "died".
    """

    resources: Resources

    def map(self, work: Work, cells: Sequence[Cell]) -> Iterator[Outcome]:
        """See `Executor.map`."""
        waiting = list(cells)
        while waiting:
            suspects: list[Cell] = []
            yield from self._pool(work, waiting, self.resources.workers, suspects)
            for cell in suspects:
                again: list[Cell] = []
                yield from self._pool(work, [cell], 1, again)
                if again:
                    yield Outcome(cell, "died", "its worker process died twice (killed, or out of memory)")

    def _pool(self, work: Work, waiting: list[Cell], workers: int, suspects: list[Cell]) -> Iterator[Outcome]:
        """Run `waiting` empty, or until a worker dies: the cells in flight are then added to `suspects`."""
        from joblib.externals.loky import ProcessPoolExecutor

        with held_interrupts() as interrupted:
            pool = ProcessPoolExecutor(workers, initializer=serve_parent, env=self.resources.environment)
            running: dict[Future[Outcome], Cell] = {}
            try:
                while waiting or running:
                    while waiting and len(running) < workers and not interrupted():
                        cell = waiting.pop(0)
                        running[pool.submit(work, cell)] = cell
                    while not (done := [future for future in running if future.done()]):
                        if interrupted():
                            time.sleep(0.1)  # loky's thread fails if told to stop before it has handed out a cell
                            raise KeyboardInterrupt
                        time.sleep(0.01)
                    for future in done:
                        outcome = future.result()
                        del running[future]
                        yield outcome
            except BrokenProcessPool:
                suspects += running.values()
            finally:
                pool.shutdown(wait=True, kill_workers=bool(running))  # at rest they leave by themselves, and tidy up


@dataclass(frozen=True)
class Dask:
    """On a dask cluster; the workers need the checkout on their path and the store's folder mounted."""

    resources: Resources

    def map(self, work: Work, cells: Sequence[Cell]) -> Iterator[Outcome]:
        """See `Executor.map`."""
        client = self._client()
        try:
            futures = dict(zip(client.map(work, list(cells), pure=False), cells, strict=True))
            for future in _optional("distributed", "distributed").as_completed(futures):
                error = future.exception()
                if isinstance(error, SeqLoRAError):
                    raise error  # the store cannot be written, from there either
                died = Outcome(futures[future], "died", f"its worker died ({error})")
                yield future.result() if error is None else died
        finally:
            client.close()
            if client.cluster is not None:
                client.cluster.close()

    def _client(self):  # type: ignore[no-untyped-def]
        distributed = _optional("distributed", "distributed")
        if self.resources.scheduler:
            try:
                return distributed.Client(self.resources.scheduler)
            except (OSError, ValueError) as error:
                raise BadInputError(
                    f"no dask scheduler answers at --scheduler {self.resources.scheduler!r} ({_first_line(error)}); "
                    "start one with `dask scheduler`, or leave --scheduler out for workers on this machine"
                ) from error
        os.environ.update(self.resources.environment)  # inherited by the cluster's processes
        cluster = distributed.LocalCluster(
            n_workers=self.resources.workers, threads_per_worker=1, dashboard_address=None
        )
        return distributed.Client(cluster)


@dataclass(frozen=True)
class Submitit:
    """As jobs of Slurm (or of submitit's local executor), each computing an equal share of the cells."""

    resources: Resources

    def map(self, work: Work, cells: Sequence[Cell]) -> Iterator[Outcome]:
        """See `Executor.map`."""
        submitit = _optional("submitit", "submitit")
        folder, cluster = self.resources.folder / "submitit", self.resources.scheduler or None
        try:
            executor = submitit.AutoExecutor(folder, cluster=cluster)
        except (RuntimeError, ValueError) as error:  # an unknown cluster, or one that is not here
            raise BadInputError(
                f"submitit cannot use --scheduler {cluster!r} ({_first_line(error)}); write slurm or local"
            ) from error
        executor.update_parameters(
            name="seqlora-bench", cpus_per_task=self.resources.threads, tasks_per_node=1, timeout_min=24 * 60
        )
        os.environ.update(self.resources.environment)  # exported to the jobs
        shares = [list(cells)[i :: self.resources.workers] for i in range(min(self.resources.workers, len(cells)))]
        with executor.batch():
            jobs = {executor.submit(_Share(work, share)): share for share in shares}
        try:
            for job in submitit.helpers.as_completed(list(jobs), poll_frequency=1):
                if job.exception() is not None:
                    reason = f"its job {job.job_id} failed; see {job.paths.stderr}"
                    yield from (Outcome(cell, "died", reason) for cell in jobs[job])
                elif isinstance(result := job.result(), SeqLoRAError):
                    raise result  # the store cannot be written, from there either
                else:
                    yield from result
        finally:
            for job in jobs:
                job.cancel()


@dataclass(frozen=True)
class _Share:
    """The cells of one job; callable, and able to be queued again when Slurm preempts it or its time is over."""

    work: Work
    cells: Sequence[Cell]

    def __call__(self) -> list[Outcome] | SeqLoRAError:
        try:
            return [self.work(cell) for cell in self.cells]
        except SeqLoRAError as error:
            return error  # as a value: submitit would wrap it in the text of a traceback

    def checkpoint(self) -> object:
        """What submitit queues instead: the same cells, of which those that are stored cost nothing."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


EXECUTORS: Registry[Callable[[Resources], Executor]] = Registry("executor")
EXECUTORS.add("serial", Serial)
EXECUTORS.add("loky", Loky)
EXECUTORS.add("dask", Dask)
EXECUTORS.add("submitit", Submitit)


def serve_parent() -> None:
    """Leave Ctrl-C and SIGTERM to the parent process, which stops its workers itself; go when it is gone (kill -9)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)  # nothing is half-written that matters: a record is there whole or not at all

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def held_interrupts() -> Iterator[Callable[[], bool]]:
    """While open, Ctrl-C (and SIGTERM, if it is handled as one) is taken note of and not raised.

    Raised in the middle of what executors do with locks, it is lost in an error of the lock.

    Yields:
        Whether one has come.
    """
    seen: list[int] = []
    main = threading.current_thread() is threading.main_thread()  # no other thread gets signals
    held = [n for n in (signal.SIGINT, signal.SIGTERM) if main and signal.getsignal(n) is signal.default_int_handler]
    for number in held:
        signal.signal(number, lambda which, _: seen.append(which))
    try:
        yield lambda: bool(seen)
    finally:
        for number in held:
            signal.signal(number, signal.default_int_handler)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _optional(module: str, package: str):  # type: ignore[no-untyped-def]
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise BadInputError(f"the executor needs {package}; pip install '{package}' or use --executor loky") from error
