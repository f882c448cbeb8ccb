"""`python -m bench predict`: judge the claims about pictures (C9, C10) on the image cells of a store."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bench.ablation import judge_penalty
from bench.prediction import judge_prediction
from bench.store import Store
from seqlora.errors import BadInputError
from seqlora.files import write_json
from theory import ledger
from theory.__main__ import PLAIN_WIDTH, table
from theory.api import ClaimResult
from theory.claims.images import STATEMENTS


def predict_command(
    out: Annotated[Path, typer.Option("--out", help="Folder of the store.")] = Path("results/bench"),
    json: Annotated[Path, typer.Option(help="The ledger that is written.")] = Path("results/theory/images.json"),
    task: Annotated[list[str] | None, typer.Option(help="Only cells of this task (repeatable).")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Entropy of the resampling.")] = 0,
) -> None:
    """Judge whether layer energies predict lost identity (C9), and what the forgetting penalty achieves (C10)."""
    if not out.is_dir():
        raise BadInputError(f"--out {out} is no store; run image cells first: python -m bench run --suite images")
    records = [r for r in Store(out).all_records() if r.status == "done" and (not task or r.cell.task in task)]
    judges: dict[str, Callable[[], ClaimResult]] = {
        "C9": lambda: judge_prediction(records, ledger.generator("C9", seed)),
        "C10": lambda: judge_penalty(records),
    }
    results, missing = [], []
    for claim, judge in judges.items():
        try:
            results.append(judge())
        except BadInputError as error:  # the other claim may still have what it needs
            missing.append(f"{claim} is not judged: {error}")
    if not results:
        raise BadInputError(f"{out} has no image cells to judge: {'; '.join(missing)}")
    for line in missing:
        print(line, file=sys.stderr)
    write_json(json, ledger.to_json(results, "images", f"{len(records)} cells", seed, []))
    chosen = [STATEMENTS[result.claim] for result in results]
    Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH).print(table(chosen, results))
    print(f"written to {json}", file=sys.stderr)
