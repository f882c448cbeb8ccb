"""The vocabulary of the world: what a portrait can look like, and the plain word for each choice.

Every table maps the word used in captions to the drawing library's part or colour. A value is offered only if it can be
told apart at 64 x 64 pixels, so that a caption never promises what the picture cannot show.
"""

from __future__ import annotations

from typing import Final

# Hair types the base model sees in training; the words are those of the captions.
HAIR: Final[dict[str, str]] = {
    "bob": "BOB",
    "bun": "BUN",
    "curly": "CURLY",
    "afro": "FRO",
    "long": "STRAIGHT_STRAND",
    "wavy": "LOOSE_HAIR",
    "dreadlock": "DREADS",
    "spiky": "EVIL_SPIKE",
    "mohawk": "MOHAWK",
    "short": "SHORT_FLAT",
    "shaggy": "SHAGGY",
    "swept": "QUIFF",
}

# Hair types held out of the base model's training: a concept that has one is new to it. They are never captioned.
HELD_OUT_HAIR: Final[dict[str, str]] = {
    "flower-crown": "FRIDA",
    "ponytail-braids": "BRAIDS",
    "pigtails": "DREADLOCKS",
    "frizzy": "EINSTEIN_HAIR",
    "half-shaved": "HALF_SHAVED",
    "tousled": "MOWGLI",
    "pixie": "PIXIE",
    "twists": "TWIST_LONG_HAIR",
    "curtains": "WICK",
    "roll": "ELVIS",
    "side-locks": "CURVY",
    "head-band": "FRO_BAND",
    "wild": "WILD",
    "balding": "SIDES",
}

HAIR_COLOR: Final[dict[str, str]] = {
    "black": "#221A18",
    "brown": "#7A4526",
    "blonde": "#E3BE62",
    "ginger": "#D2521B",
    "pink": "#F48FB1",
    "silver": "#D6D9DE",
    "blue": "#3B66C9",
}

SKIN: Final[dict[str, str]] = {"pale": "#FCDCBF", "tan": "#E0A46A", "brown": "#A8632F", "dark": "#5C3A26"}

FACIAL_HAIR: Final[dict[str, str]] = {"shaven": "NONE", "beard": "BEARD_MAGESTIC", "moustache": "MOUSTACHE_MAGNUM"}

ACCESSORY: Final[dict[str, str]] = {
    "no glasses": "NONE",
    "glasses": "PRESCRIPTION_2",
    "sunglasses": "SUNGLASSES",
    "goggles": "KURT",
    "eyepatch": "EYEPATCH",
}

# Accessories behind which the eyes cannot be seen: captions and scores then leave the eyes out.
COVERS_EYES: Final[frozenset[str]] = frozenset({"sunglasses", "goggles"})

CLOTHING: Final[dict[str, str]] = {"shirt": "SHIRT_CREW_NECK", "hoodie": "HOODIE", "overalls": "OVERALL"}

CLOTHING_COLOR: Final[dict[str, str]] = {
    "red": "#E04040",
    "blue": "#2F6FDB",
    "green": "#2FA84F",
    "yellow": "#F2CF3B",
    "white": "#F4F4F4",
    "black": "#2A2E33",
    "purple": "#8A4BC8",
}

MOUTH: Final[dict[str, str]] = {
    "smiling": "SMILE",
    "serious": "SERIOUS",
    "grinning": "GRIMACE",
    "shouting": "SCREAM_OPEN",
}

EYES: Final[dict[str, str]] = {"open": "DEFAULT", "closed": "CLOSED", "heart": "HEART", "wide": "SURPRISED"}

BACKGROUND: Final[dict[str, str]] = {
    "red": "#D64545",
    "orange": "#F5A142",
    "yellow": "#F7E26B",
    "green": "#7CC67A",
    "blue": "#79B4F2",
    "purple": "#A98BDB",
    "white": "#F7F7F7",
    "gray": "#8E9399",
}

PATTERN: Final[tuple[str, ...]] = ("plain", "striped", "dotted")

IDENTITY_FIELDS: Final[tuple[str, ...]] = ("hair", "hair_color", "skin", "facial_hair", "accessory")
CONTEXT_FIELDS: Final[tuple[str, ...]] = ("clothing", "clothing_color", "mouth", "eyes", "background", "pattern")

# Words of every captioned attribute, in the order of captions; index = class number of the classifier.
VALUES: Final[dict[str, tuple[str, ...]]] = {
    "hair": tuple(HAIR),
    "hair_color": tuple(HAIR_COLOR),
    "skin": tuple(SKIN),
    "facial_hair": tuple(FACIAL_HAIR),
    "accessory": tuple(ACCESSORY),
    "mouth": tuple(MOUTH),
    "eyes": tuple(EYES),
    "clothing_color": tuple(CLOTHING_COLOR),
    "clothing": tuple(CLOTHING),
    "background": tuple(BACKGROUND),
    "pattern": PATTERN,
}
