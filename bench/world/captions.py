"""Captions in plain words: one fixed order of phrases, each of which may be left out.

Grammar (`[]` = may be missing):

    a photo of a person [with [HAIRCOLOR] [TYPE] hair] [SKIN skin] [FACIALHAIR] [ACCESSORY] [MOUTH] [EYES eyes]
    [wearing a [COLOR] [CLOTHES]] [on a [PATTERN] [COLOR] background]

"a person" may be replaced by "<new0> person". The longest caption has 28 tokens, of 32.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bench.world.attributes import VALUES
from bench.world.identities import Context, Identity, visible_attributes

CLASS_WORD = "person"
OPENINGS: tuple[str, ...] = ("a photo of", "a portrait of", "a picture of")
KEEP = 0.8  # probability that a caption names an attribute
_BARE_NAMES = ("clothing", "clothing_color", "background", "pattern", "mouth")
BARE = 0.15  # probability that it names nothing about the person, only about the context (as concept prompts do)


def caption(shown: Mapping[str, str], subject: str = f"a {CLASS_WORD}", opening: str = OPENINGS[0]) -> str:
    """Write the caption that names the given attributes.

    Args:
        shown: attribute name -> word, e.g. `{"hair": "bob", "background": "blue"}`; what is missing is not mentioned.
        subject: "a person", or a concept such as "<new0> person".
        opening: one of `OPENINGS`.
    """
    words = [opening, subject]
    hair = [shown[name] for name in ("hair_color", "hair") if name in shown]
    person = [*hair, "hair"] if hair else []
    person += [shown["skin"], "skin"] if "skin" in shown else []
    person += [shown[name] for name in ("facial_hair", "accessory", "mouth") if name in shown]
    person += [shown["eyes"], "eyes"] if "eyes" in shown else []
    words += ["with", *person] if person else []
    clothes = [shown[name] for name in ("clothing_color", "clothing") if name in shown]
    if clothes:
        words += ["wearing", "a", *clothes, *(() if "clothing" in shown else ("clothes",))]
    wall = [shown[name] for name in ("pattern", "background") if name in shown]
    words += ["on", "a", *wall, "background"] if wall else []
    return " ".join(words)


def keep_some(shown: Mapping[str, str], rng: np.random.Generator, keep: float = KEEP) -> dict[str, str]:
    """Leave every attribute out with probability 1 - keep, independently."""
    return {name: value for name, value in shown.items() if rng.random() < keep}


def describe(identity: Identity, context: Context, rng: np.random.Generator | None = None) -> str:
    """Caption a portrait: everything that can be seen, or (with `rng`) some of it."""
    return (
        random_caption(visible_attributes(identity, context), rng)
        if rng
        else caption(visible_attributes(identity, context))
    )


def choose(shown: Mapping[str, str], rng: np.random.Generator) -> dict[str, str]:
    """What a training caption mentions: attribute dropout, and now and then nothing about the person."""
    if rng.random() < BARE:
        shown = {name: word for name, word in shown.items() if name in _BARE_NAMES}
    return keep_some(shown, rng)


def random_caption(shown: Mapping[str, str], rng: np.random.Generator) -> str:
    """A training caption with a random opening, see `choose`."""
    return caption(choose(shown, rng), opening=OPENINGS[rng.integers(len(OPENINGS))])


def scene_caption(left: Mapping[str, str], right: Mapping[str, str], wall: Mapping[str, str]) -> str:
    """Caption a two-person scene; keep each side to five words to stay within 32 tokens."""

    def side(name: str, shown: Mapping[str, str]) -> str:
        return caption(shown, subject=f"{name} {CLASS_WORD}", opening="").strip()

    tail = caption(wall, subject="", opening="").strip()
    return " ".join(filter(None, ["a photo of", side("left", left), "and", side("right", right), tail]))


def vocabulary() -> list[str]:
    """Every word that a caption can hold, sorted."""
    glue = (
        "a photo portrait picture of person with hair skin eyes wearing clothes on background left right and two people"
    )
    words = set(glue.split())
    for values in VALUES.values():
        for value in values:
            words.update(value.split())
    return sorted(words)
