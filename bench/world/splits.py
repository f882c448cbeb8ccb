"""Which identities may be used for what: five disjoint sets, listed once in `splits.json`.

* training: every identity that is not listed (the base model moreover sees only captioned hair and no held-out
  combination, see `identities.is_novel`);
* calibration: thresholds (false-accept rate, face found);
* tuning: hyper-parameters of personalisation methods;
* concept: examples, galleries and tests;
* evaluation: 101 identities on which results are reported.

All listed identities are novel to the base model, and two of one set differ in at least two attributes.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

from bench.world.attributes import HAIR, HELD_OUT_HAIR
from bench.world.identities import Identity, is_novel, sample_identity
from seqlora.errors import BadInputError
from seqlora.files import read_json, write_json

FILE = Path(__file__).with_name("splits.json")
SIZES: dict[str, int] = {"evaluation": 101, "concept": 16, "tuning": 32, "calibration": 200}
_HELD_OUT_SHARE = 0.7  # share of listed identities with a hair type that has no word; the others are new combinations
_ENTROPY = 101  # of the generator that wrote splits.json; the draw was made once


def build_splits(rng: np.random.Generator) -> dict[str, list[Identity]]:
    """Draw the four listed sets, disjoint, all novel, pairs of one set differing in two attributes or more."""
    used: set[Identity] = set()
    sets: dict[str, list[Identity]] = {}
    for name, size in SIZES.items():
        members: list[Identity] = []
        while len(members) < size:
            hair = tuple(HELD_OUT_HAIR) if rng.random() < _HELD_OUT_SHARE else tuple(HAIR)
            identity = sample_identity(rng, hair)
            distinct = all(identity.differences(other) >= 2 for other in members)
            if is_novel(identity) and identity not in used and distinct:
                members.append(identity)
                used.add(identity)
        sets[name] = members
    return sets


def write_splits() -> None:
    """Write `splits.json` anew (only when the vocabulary changes: weights and results then belong to other people)."""
    sets = build_splits(np.random.default_rng(_ENTROPY))
    write_json(FILE, {name: [identity.key for identity in members] for name, members in sets.items()})


@cache
def _splits() -> dict[str, tuple[Identity, ...]]:
    return {name: tuple(map(Identity.from_key, keys)) for name, keys in read_json(FILE).items()}


def identities(split: str) -> tuple[Identity, ...]:
    """The identities of a listed split, in their fixed order.

    Raises:
        BadInputError: the split is not one of `SIZES`.
    """
    if split not in SIZES:
        raise BadInputError(f"split {split!r} is unknown; choose one of {', '.join(SIZES)}")
    return _splits()[split]


def listed() -> frozenset[Identity]:
    """All identities that no training may see."""
    return frozenset(identity for split in SIZES for identity in identities(split))
