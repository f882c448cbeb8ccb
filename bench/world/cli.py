"""Commands of the embedded world: `python -m bench world pretrain | release | check | grid`."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from seqlora.errors import BadInputError, SeqLoRAError

app = typer.Typer(
    help="The embedded world: its recipe, weights and their check.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


class Part(StrEnum):
    """What can be trained."""

    portraits = "portraits"
    classifier = "classifier"
    identity = "identity"
    decoder = "decoder"
    clip = "clip"
    words = "words"
    diffusion = "diffusion"
    all = "all"


class Precision(StrEnum):
    """Number format of the forward and backward pass; master weights are always float32."""

    bfloat16 = "bfloat16"
    float32 = "float32"


@app.command()
def pretrain(
    part: Annotated[Part, typer.Argument(help="What to train; all = everything, in order, then release.")],
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps ...")] = "cpu",
    precision: Annotated[Precision, typer.Option(help="float32 where bfloat16 is slow.")] = Precision.bfloat16,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of torch.")] = 1,
) -> None:
    """Train from scratch; resumes from $SEQLORA_CACHE (default ~/.cache/seqlora) after any interruption."""
    import torch

    from bench.world import recipes
    from bench.world.data import POOLS, load_pool

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    torch.set_num_threads(threads)
    place = recipes.Place(check_device(device), getattr(torch, precision.value))
    trainings: dict[Part, Callable[[recipes.Place], None]] = {
        Part.classifier: recipes.train_classifier,
        Part.identity: recipes.train_identity,
        Part.decoder: recipes.train_decoder,
        Part.clip: recipes.train_clip,
        Part.words: recipes.train_words,
        Part.diffusion: recipes.train_diffusion,
    }
    if part in (Part.portraits, Part.all):
        for name in POOLS:
            load_pool(name)
    for name, training in trainings.items():
        if part in (name, Part.all):
            training(place)
    if part is Part.all:
        release()


def check_device(device: str) -> str:
    """Return the device if torch can use it.

    Raises:
        BadInputError: it cannot.
    """
    import torch

    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise BadInputError(f"device {device!r} cannot be used ({str(error).splitlines()[0]}); try cpu") from error
    return device


@app.command()
def release() -> None:
    """Write bench/world/weights and its manifest from what the trainings left in the cache."""
    from bench.world.release import LIMIT
    from bench.world.release import release as write

    size = write()
    typer.echo(f"weights: {size / 1e6:.2f} MB of {LIMIT / 1e6:.0f} MB allowed")
    if size > LIMIT:
        raise BadInputError(f"the weights take {size} bytes, more than the {LIMIT} allowed; make a model smaller")


@app.command()
def check(
    images: Annotated[int, typer.Option(min=8, help="Generated images to judge.")] = 192,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table in Markdown.")] = False,
) -> None:
    """Measure the quality floor on held-out data; exit code 1 if any line is below it."""
    from bench.world.check import as_markdown, measure, table

    lines = measure(images)
    if markdown:
        typer.echo(as_markdown(lines))
    else:
        Console().print(table(lines))
    below = [line for line in lines if not line.passed]
    if below:
        typer.echo(f"{len(below)} of {len(lines)} lines are below the floor", err=True)
        raise typer.Exit(1)


@app.command()
def grid(
    out: Annotated[Path, typer.Option("--out", help="PNG to write.")] = Path("world-grid.png"),
    prompt: Annotated[str, typer.Option(help="Draw only this prompt; default: captions of held-out portraits.")] = "",
    seed: Annotated[int, typer.Option(min=0, help="Seed of prompts and noise.")] = 0,
) -> None:
    """Draw a grid of samples from the released pipeline (default: real portraits above their re-drawings)."""
    from bench.world.gallery import draw_grid

    draw_grid(out, prompt, seed)
    typer.echo(f"wrote {out}", err=True)


def main() -> None:
    """Run as a program: errors a user can mend are one line and an exit code."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        app()
    except SeqLoRAError as error:
        typer.echo(f"error: {error}", err=True)
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        typer.echo("interrupted; the same command goes on where it stopped", err=True)
        raise SystemExit(130) from None
