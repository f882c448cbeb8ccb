"""Who is in a portrait (`Identity`), under which circumstances (`Context`), and how both are drawn at random.

An identity is what a concept has to keep; a context is what a prompt may change. The nose is left out on purpose: at 64
pixels it cannot be seen.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from bench.world import attributes
from bench.world.attributes import COVERS_EYES, HAIR, HELD_OUT_HAIR, VALUES
from seqlora.errors import BadInputError

ALL_HAIR: tuple[str, ...] = (*HAIR, *HELD_OUT_HAIR)


@dataclass(frozen=True, order=True)
class Identity:
    """The person: every field is a word of `bench.world.attributes` (hair may be a held-out type)."""

    hair: str
    hair_color: str
    skin: str
    facial_hair: str
    accessory: str

    def __post_init__(self) -> None:
        _check(self, {**{name: VALUES[name] for name in attributes.IDENTITY_FIELDS}, "hair": ALL_HAIR})

    @property
    def key(self) -> str:
        """Stable name, e.g. `bob/black/pale/shaven/glasses`."""
        return "/".join(getattr(self, name) for name in attributes.IDENTITY_FIELDS)

    @classmethod
    def from_key(cls, key: str) -> Identity:
        """Inverse of `key`."""
        parts = key.split("/")
        if len(parts) != len(attributes.IDENTITY_FIELDS):
            raise BadInputError(f"{key!r} is no identity; write {'/'.join(attributes.IDENTITY_FIELDS)}")
        return cls(*parts)

    def differences(self, other: Identity) -> int:
        """Number of attributes in which two identities differ (0 to 5)."""
        return sum(getattr(self, name) != getattr(other, name) for name in attributes.IDENTITY_FIELDS)


@dataclass(frozen=True)
class Context:
    """The circumstances: clothes, mood, background, and a small shift (pixels) and scale of the figure."""

    clothing: str = "shirt"
    clothing_color: str = "red"
    mouth: str = "smiling"
    eyes: str = "open"
    background: str = "blue"
    pattern: str = "plain"
    shift: tuple[int, int] = (0, 0)
    scale: float = 1.0

    def __post_init__(self) -> None:
        _check(self, {name: VALUES[name] for name in attributes.CONTEXT_FIELDS})

    def moved(self, shift: tuple[int, int]) -> Context:
        """The same context with the figure shifted by (right, down) pixels."""
        return replace(self, shift=shift)


def _check(instance: Identity | Context, allowed: dict[str, tuple[str, ...]]) -> None:
    for name, values in allowed.items():
        if getattr(instance, name) not in values:
            raise BadInputError(f"{name} {getattr(instance, name)!r} is unknown; choose one of {', '.join(values)}")


def held_out_combination(identity: Identity) -> bool:
    """Whether the pair (hair type, hair colour) is held out of base training although both words occur.

    Every captioned hair type lacks exactly one colour: type i lacks colour 3 i mod 7, which spreads the gaps evenly.
    """
    if identity.hair not in HAIR:
        return False
    hair, color = VALUES["hair"].index(identity.hair), VALUES["hair_color"].index(identity.hair_color)
    return color == 3 * hair % len(VALUES["hair_color"])


def is_novel(identity: Identity) -> bool:
    """Whether the base model has never seen this hair: a held-out type, or a held-out combination with a colour."""
    return identity.hair in HELD_OUT_HAIR or held_out_combination(identity)


def sample_identity(rng: np.random.Generator, hair: tuple[str, ...] = ALL_HAIR) -> Identity:
    """Draw every attribute uniformly (half of the faces are shaven, half wear nothing on the eyes)."""

    def half(name: str) -> str:
        values = VALUES[name]
        return values[0] if rng.random() < 0.5 else values[1 + rng.integers(len(values) - 1)]

    return Identity(
        hair=hair[rng.integers(len(hair))],
        hair_color=VALUES["hair_color"][rng.integers(len(VALUES["hair_color"]))],
        skin=VALUES["skin"][rng.integers(len(VALUES["skin"]))],
        facial_hair=half("facial_hair"),
        accessory=half("accessory"),
    )


def sample_base_identity(rng: np.random.Generator) -> Identity:
    """Draw an identity that the base model may see: captioned hair, no held-out combination."""
    while held_out_combination(identity := sample_identity(rng, tuple(HAIR))):
        pass
    return identity


def sample_context(rng: np.random.Generator) -> Context:
    """Draw a context uniformly; shift within 2 pixels, scale within 5 %."""
    words = {name: VALUES[name][rng.integers(len(VALUES[name]))] for name in attributes.CONTEXT_FIELDS}
    shift = (int(rng.integers(-2, 3)), int(rng.integers(-2, 3)))
    return Context(**words, shift=shift, scale=float(rng.uniform(0.95, 1.05)))


def visible_attributes(identity: Identity, context: Context) -> dict[str, str]:
    """The captioned attributes that this portrait really shows, in caption order.

    Held-out hair types have no word; eyes behind dark glasses cannot be seen.
    """
    shown: dict[str, str] = {}
    for name in VALUES:
        value = getattr(identity if name in attributes.IDENTITY_FIELDS else context, name)
        covered = name == "eyes" and identity.accessory in COVERS_EYES
        if value in VALUES[name] and not covered:
            shown[name] = value
    return shown
