"""The synthetic layers once more, learnt step by step by the library's optimiser instead of in closed form."""

from __future__ import annotations

from dataclasses import dataclass

from bench.api import Cell
from bench.options import canonical_name, with_options
from bench.tasks.linear import SyntheticOptions, SyntheticTask

NAME = "linear-trained"


@dataclass(frozen=True)
class TrainedTask(SyntheticTask):
    """Data and measurements of "linear-synthetic", methods of the family "trained"."""

    family = "trained"

    @property
    def name(self) -> str:
        """See `Task.name`."""
        return canonical_name(NAME, self.options, SyntheticOptions())

    def estimate(self, cell: Cell) -> float:
        """See `Task.estimate`."""
        return 0.2 * cell.n_concepts


def trained(options: str) -> TrainedTask:
    """The task "linear-trained", with options as in `SyntheticOptions`."""
    return TrainedTask(with_options(SyntheticOptions(), options, f"task {NAME}"))
