"""What stands beside the gates: verdicts of claims, which may not change, and timing ratios, which only advise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from bench.regression.snapshot import Ratio
from seqlora.errors import StoredFileError
from seqlora.files import read_json
from theory.ledger import expected_kinds

SLOWER = 0.25  # shared machines differ by 10 to 30 % on the same code: below this, time says nothing


class _Verdict(BaseModel):
    model_config = ConfigDict(extra="ignore")
    kind: str


class _Row(BaseModel):
    model_config = ConfigDict(extra="ignore")
    claim: str
    layers: str
    verdict: _Verdict


class _NamedRatio(Ratio):
    model_config = ConfigDict(extra="ignore", frozen=True)
    name: str


def read_verdicts(paths: Sequence[Path]) -> dict[str, str]:
    """Kinds of verdict in files of `python -m theory --json`, by claim and source of layers.

    Raises:
        StoredFileError: a file holds no ledger.
    """
    found: dict[str, str] = {}
    for path in paths:
        rows = _validated(list[_Row], path, "results", "python -m theory --json")
        found |= {f"{row.claim} on {row.layers} layers": row.verdict.kind for row in rows}
    return found


def known_verdicts(base: Mapping[str, str], candidate: Mapping[str, str]) -> dict[str, str]:
    """What a candidate's verdicts are held against: the base's, or those that the repository expects.

    The latter for sources of layers on which the base checked nothing.
    """
    known = dict(base)
    covered = {_layers(name) for name in base}
    for layers in sorted({_layers(name) for name in candidate} - covered):
        kinds = expected_kinds(layers.removesuffix(" layers")) or {}
        known |= {f"{claim} on {layers}": kind for claim, kind in kinds.items()}
    return known


def changed_verdicts(base: Mapping[str, str], candidate: Mapping[str, str]) -> list[str]:
    """One line a claim whose verdict changed or is gone; only sources of layers that the candidate was checked on."""
    sources = {_layers(name) for name in candidate}
    lines = []
    for name, before in base.items():
        if _layers(name) not in sources:
            continue
        after = candidate.get(name, "not checked any more")
        if after != before:
            lines.append(f"{name}: was '{before}', is '{after}'")
    return lines


def _layers(name: str) -> str:
    """Source of layers in "C1 on synthetic layers"."""
    return name.partition(" on ")[2]


def read_ratios(path: Path) -> dict[str, Ratio]:
    """Timing ratios by name.

    Raises:
        StoredFileError: the file holds none.
    """
    rows = _validated(list[_NamedRatio], path, "ratios", "python -m bench timing")
    return {row.name: Ratio(**row.model_dump(exclude={"name"})) for row in rows}


def slower(base: Mapping[str, Ratio], candidate: Mapping[str, Ratio]) -> list[str]:
    """One line a ratio that got worse by more than a quarter and beyond the range of both measurements."""
    lines = []
    for name, before in base.items():
        after = candidate.get(name)
        if after is None:
            continue
        if before.smaller_is_better:
            worse, apart = after.ratio / before.ratio - 1, after.low > before.high
        else:
            worse, apart = before.ratio / after.ratio - 1, after.high < before.low
        if worse > SLOWER and apart:
            lines.append(f"{name}: {before.ratio:.3g} was, {after.ratio:.3g} is ({worse:.0%} worse)")
    return lines


def _validated(kind: type, path: Path, key: str, command: str) -> list:  # type: ignore[type-arg]
    data = read_json(path)
    try:
        rows: list = TypeAdapter(kind).validate_python(data.get(key) if isinstance(data, dict) else None)  # type: ignore[type-arg]
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or key
        raise StoredFileError(f"{path} was not written by `{command}` ({place}: {first['msg']}); check it") from error
    return rows
