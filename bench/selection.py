"""From the texts on the command line to cells: suites, numbers, seeds, shards, task options."""

from __future__ import annotations

from collections.abc import Mapping

from bench.api import Cell
from bench.disturbance import OPTION
from bench.options import split_name
from bench.suites import SUITES
from bench.tasks import ON_MODELS, on_models
from seqlora.errors import BadInputError

MODELS = ("base", "clip", "identity", "dino", "threshold", "dtype", "checkpointing", "download")  # of `bench.models`
SETTINGS = (*MODELS, "device", OPTION)  # what tasks understand
MANY = 100_000  # numbers that an option may stand for: more is a slip of the keyboard


def selected(
    suite: str,
    tasks: list[str] | None,
    methods: list[str] | None,
    concepts: str,
    seeds: str,
    shard: str = "",
    options: Mapping[str, str] | None = None,
) -> list[Cell]:
    """The cells that the options choose; `options` are those for the tasks, models for example.

    Raises:
        BadInputError: an unknown name, a malformed number, or a model that no task would use.
    """
    given = [name for name in MODELS if (options or {}).get(name)]
    if given and not any(split_name(task)[0] in ON_MODELS for task in tasks or ()):
        raise BadInputError(f"{', '.join(given)}: only tasks on your own models use this; add --task photos:<folder>")
    names = [on_models(task, options or {}) for task in tasks or ()]
    chosen = SUITES[suite].restricted(names, methods or (), numbers(concepts, "--concepts"), seed_range(seeds))
    return in_shard(chosen.cells(), shard)


def numbers(text: str, option: str) -> tuple[int, ...]:
    """Non-negative integers from "2,4,8" or "8-15"; () from ""."""
    values: list[int] = []
    for part in filter(None, text.split(",")):
        first, dash, last = part.partition("-")
        if not (first.isascii() and first.isdecimal()) or (dash and not (last.isascii() and last.isdecimal())):
            raise BadInputError(f"{option} {text!r} is no list of numbers; write for example 2,4,8 or 0-7")
        if max(len(first), len(last)) > 9 or (dash and int(last) - int(first) > MANY):
            raise BadInputError(f"{option} {text[:40]!r} asks for more than {MANY} numbers; write for example 0-7")
        values += range(int(first), int(last) + 1) if dash else [int(first)]
    if text and not values:
        raise BadInputError(f"{option} {text!r} holds no number; write for example 2,4,8 or 0-7")
    return tuple(values)


def seed_range(text: str) -> tuple[int, ...]:
    """Seeds from "8" (the first eight), "3,5" or "8-15"; () from ""."""
    values = numbers(text, "--seeds")
    if text.isdecimal():
        if values == (0,):
            raise BadInputError("--seeds 0 asks for no seed at all; --seeds 1 is seed 0 alone, 0-0 too")
        if values[0] > MANY:
            raise BadInputError(f"--seeds {text} asks for more than {MANY} seeds; write for example 8 or 0-7")
        return tuple(range(values[0]))
    return values


def in_shard(cells: list[Cell], shard: str) -> list[Cell]:
    """The i-th of n shares, by groups that share their data."""
    if not shard:
        return cells
    index, _, count = shard.partition("/")
    plain = shard.isascii() and index.isdecimal() and count.isdecimal() and len(shard) < 20
    if not (plain and 1 <= int(index) <= int(count)):
        raise BadInputError(f"--shard {shard!r} is not i/n with 1 <= i <= n")
    groups = list(dict.fromkeys((c.task, c.n_concepts, c.order, c.seed) for c in cells))
    mine = set(groups[int(index) - 1 :: int(count)])
    return [c for c in cells if (c.task, c.n_concepts, c.order, c.seed) in mine]


def settings(options: list[str]) -> dict[str, str]:
    """Task options from "name=value".

    Raises:
        BadInputError: another form, or a name that no task knows.
    """
    pairs = [option.partition("=") for option in options]
    for name, equals, _ in pairs:
        if not (name and equals):
            raise BadInputError(f"--set {name!r} is not name=value")
        if name not in SETTINGS:
            raise BadInputError(f"--set {name}: no task knows this; known: {', '.join(SETTINGS)}")
    return {name: value for name, _, value in pairs}
