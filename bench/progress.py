"""How a run shows itself: a bar on a terminal, plain lines elsewhere; always on stderr, so that stdout stays data."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from bench.executors import Outcome
from theory.commandline import say

SECONDS_BETWEEN_LINES = 5.0


class Watch:
    """Shows outcomes as they come; a context manager, because a bar must be taken down.

    Args:
        total: cells of the run.
        quiet: show failures only.
    """

    def __init__(self, total: int, quiet: bool = False) -> None:
        self.total, self.quiet = total, quiet
        self.seen = self.failed = 0
        self.bar = _bar() if sys.stderr.isatty() and not quiet else None
        self._last_line = float("-inf")

    def __enter__(self) -> Watch:
        if self.bar:
            self.bar.start()
            self._task = self.bar.add_task("cells", total=self.total)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar:
            self.bar.stop()

    def __call__(self, outcome: Outcome) -> None:
        """Take note of one outcome."""
        self.seen += 1
        self.failed += outcome.status == "failed"
        if self.bar:
            label = f"{self.failed} failed · {outcome.cell}" if self.failed else str(outcome.cell)
            self.bar.update(self._task, advance=1, description=label)
        if outcome.status != "done" and not outcome.cached:
            self._line(f"{outcome.status}: {outcome.cell}: {outcome.reason}")
        elif not self.bar and not self.quiet:
            self._line_if_due(outcome)

    def _line_if_due(self, outcome: Outcome) -> None:
        now = time.monotonic()
        if self.seen in (1, self.total) or now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            source = "stored" if outcome.cached else f"{outcome.seconds:.2f} s"
            self._line(f"[{self.seen}/{self.total}] {outcome.cell} ({source})")

    def _line(self, text: str) -> None:
        if self.bar:
            self.bar.console.print(text, highlight=False, markup=False, soft_wrap=True)
        else:
            say(text)


def _bar() -> Progress:
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
               TextColumn("{task.description}", markup=False))  # fmt: skip
    return Progress(*columns, console=Console(stderr=True))
