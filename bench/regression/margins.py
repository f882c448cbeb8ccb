"""Practical margins of the gates and round-off of every number, from the committed pilot.

A margin is a quarter of the standard deviation between seeds: a change that is small against what another draw of
the data does to the same number matters to nobody. It is stated in the number's own unit and never widened by hand.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from bench.regression.numbers import GATED
from seqlora.errors import StoredFileError
from seqlora.files import read_json

PATH = Path(__file__).parent / "margins.json"
SHARE_OF_SD = 0.25
# Equal fingerprints: same processor, libraries and threads, so every operation rounds alike, but for the edges of
# arrays where memory alignment decides which instruction is used. That is less than disturbing all inputs by one unit
# in the last place, whose largest effect the pilot measured; twice that, because the pilot is finite.
ROUND_OFF_FACTOR = 2.0

Group = tuple[str, str, int]  # task, method, number of concepts


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class GateMargin(_Strict):
    """One gate: the pilot's summary of it, and its margin.

    Attributes:
        pairs: seeds that the gate suite runs.
        mean: over the pilot's seeds; `sd`, `low`, `high` likewise.
        noise_sd: standard deviation of what one unit in the last place of the inputs does.
        margin: practical margin.
    """

    task: str
    method: str
    n_concepts: int
    number: str
    pairs: int
    mean: float
    sd: float
    low: float
    high: float
    noise_sd: float
    margin: float


class RoundOff(_Strict):
    """Largest change of each number of a group of cells by disturbed inputs."""

    task: str
    method: str
    n_concepts: int
    numbers: dict[str, float]


class MarginsFile(_Strict):
    """What the pilot came to."""

    kind: Literal["seqlora-margins"] = "seqlora-margins"
    schema_version: Literal[1] = 1
    git_revision: str | None
    cpu: str
    seeds: int
    disturbed: int  # cells a group that were run again with disturbed inputs
    gates: list[GateMargin]
    round_off: list[RoundOff]

    def margin(self, group: Group, number: str) -> float:
        """The practical margin of a gate: the pilot's, or the metric's own where there was no pilot."""
        return self._margins.get((*group, number), GATED[number].margin or 0.0)

    def tolerance(self, group: Group, number: str) -> float:
        """How much equal cells may differ; 0, bit for bit, where there was no pilot."""
        return ROUND_OFF_FACTOR * self._round_off.get(group, {}).get(number, 0.0)

    @property
    def _margins(self) -> dict[tuple[str, str, int, str], float]:
        return {(g.task, g.method, g.n_concepts, g.number): g.margin for g in self.gates}

    @property
    def _round_off(self) -> dict[Group, dict[str, float]]:
        return {(r.task, r.method, r.n_concepts): r.numbers for r in self.round_off}


NO_PILOT = MarginsFile(git_revision=None, cpu="", seeds=0, disturbed=0, gates=[], round_off=[])


def load_margins(path: Path = PATH) -> MarginsFile:
    """Read a margins file.

    Raises:
        StoredFileError: missing, or not written by `python -m bench pilot`.
    """
    data: Any = read_json(path)
    try:
        return MarginsFile.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "file"
        raise StoredFileError(
            f"{path} was not written by `python -m bench pilot` ({place}: {first['msg']}); restore it"
        ) from error


def practical_margin(sd: float) -> float:
    """A quarter of a standard deviation, rounded up to two digits."""
    if sd == 0:
        return 0.0
    unit = 10.0 ** (math.floor(math.log10(SHARE_OF_SD * sd)) - 1)
    return float(f"{math.ceil(SHARE_OF_SD * sd / unit - 1e-9) * unit:.2g}")
