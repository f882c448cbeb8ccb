"""Where activations come from: synthetic spectra, real transformers, the diffusion model.

`load` is the only door. A source is a module with `record(suite, rng) -> list[Layer]`; adding one is one line in
`SOURCES`. `hf:<folder>` feeds text to any local transformers or diffusers folder, `diffusion:<folder>` draws images
with any Stable Diffusion folder; `#<pattern>` after either picks the Linear layers whose names match a regular
expression.
"""

from __future__ import annotations

from importlib import import_module

import numpy as np

from seqlora.errors import BadInputError
from theory.layers.base import Layer

SOURCES: dict[str, str] = {
    "synthetic": "theory.layers.synthetic",
    "minilm": "theory.layers.minilm",
    "diffusion": "theory.layers.diffusion",
}
FOLDER_PREFIX = "hf:"
DRAWING_PREFIX = "diffusion:"


def load(source: str, suite: str, rng: np.random.Generator) -> list[Layer]:
    """Layers with the input activations of several concepts each.

    Args:
        source: "synthetic", "minilm", "diffusion", or "hf:<folder>" or "diffusion:<folder>" with an optional
            "#<pattern>".
        suite: "smoke", "ci" or "full"; decides how much is recorded.
        rng: draws synthetic activations, or which passages of text are read.

    Raises:
        BadInputError: an unknown source or suite, a folder without a usable model, a pattern that matches nothing.
    """
    from theory.api import SUITES  # here, because the vocabulary of claims imports this package

    if suite not in SUITES:
        raise BadInputError(f"unknown suite {suite!r}; choose one of {', '.join(SUITES)}")
    if source.startswith(FOLDER_PREFIX):
        from theory.layers import hf  # torch and transformers only where they are used

        folder, _, pattern = source.removeprefix(FOLDER_PREFIX).partition("#")
        return hf.record(folder, suite, rng, pattern=pattern or None)
    if source.startswith(DRAWING_PREFIX):
        from theory.layers import diffusion

        folder, _, pattern = source.removeprefix(DRAWING_PREFIX).partition("#")
        return diffusion.record(suite, rng, folder, pattern or None)
    if source not in SOURCES:
        raise BadInputError(
            f"unknown layer source {source!r}; choose one of {', '.join(SOURCES)}, hf:<folder>, diffusion:<folder>, "
            "the last two with #<pattern> if you like"
        )
    return list(import_module(SOURCES[source]).record(suite, rng))


def provenance(source: str) -> dict[str, dict[str, str]]:
    """What the recorded numbers depend on besides the code: texts that were read, weights that were drawn with."""
    if source.partition(":")[0] == "diffusion":
        from theory.layers import diffusion

        folder = source.removeprefix(DRAWING_PREFIX).partition("#")[0] if ":" in source else None
        return {"text": {}, "weights": diffusion.provenance(folder)}
    from theory.layers import text

    return {"text": {} if source in ("synthetic", "images") else text.provenance()}
