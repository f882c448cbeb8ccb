"""What rounding elsewhere may do: every input of a cell moved to a neighbouring floating-point number.

Another processor, BLAS or library version rounds differently, which is no worse than disturbing the inputs by a few
units in the last place (backward error analysis). Cells run with `--set disturbance=1` show what that does to their
numbers: by how much a result may differ between machines although nothing is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from bench.methods.linear.api import LinearProblem
from bench.seeds import Seeds
from seqlora.errors import BadInputError

OPTION = "disturbance"
STREAM = 1_000_000  # of the cell's "data" streams; tasks number theirs from 0


def disturbance(options: Mapping[str, str]) -> int:
    """Which disturbance is asked for: 0 is none, k > 0 the k-th random one.

    Raises:
        BadInputError: not a whole number.
    """
    text = options.get(OPTION, "0")
    if not text.isdecimal():
        raise BadInputError(f"{OPTION}={text!r} is no whole number; 0 is none, 1 the first disturbance")
    return int(text)


def disturbed_problem(problem: LinearProblem, rng: np.random.Generator) -> LinearProblem:
    """Coordinate i of all activations times 1 + e or 1 - e, e being the spacing of numbers at 1.

    `X -> Δ X`, Δ = diag(1 ± e), hence `Σ -> Δ Σ Δ` and `K -> K Δ`: what the concepts want stays the same.
    """
    scale = 1 + np.finfo(np.float64).eps * rng.choice([-1.0, 1.0], problem.width)
    moments = scale[:, None] * problem.moments * scale
    return replace(problem, moments=moments, cross_moments=problem.cross_moments * scale)


@torch.no_grad()
def disturb_weights(module: nn.Module, rng: np.random.Generator) -> None:
    """Move every parameter to the next number above or below, at random, in place."""
    for parameter in module.parameters():
        up = torch.from_numpy(rng.random(tuple(parameter.shape)) < 0.5)
        towards = torch.where(up, torch.inf, -torch.inf).to(parameter)
        parameter.copy_(torch.nextafter(parameter, towards))


def stream(seeds: Seeds, which: int, *index: int) -> np.random.Generator:
    """Random numbers of disturbance `which` of a cell."""
    return seeds.rng("data", STREAM, which, *index)
