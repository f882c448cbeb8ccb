"""`python -m bench report`: hands over to `python -m reports build`, since bench must not know the reports."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

CHECKOUT = Path(__file__).resolve().parents[1]


def report(
    results: Annotated[Path, typer.Option(help="Folder with theory/, bench/ and timing/.")] = Path("results"),
    out: Annotated[Path, typer.Option(help="Folder of the page.")] = Path("results/report"),
) -> None:
    """Draw every figure and table from stored results into one page; nothing is measured."""
    command = [sys.executable, "-m", "reports", "build", "--results", str(results), "--out", str(out)]
    search = os.pathsep.join([str(CHECKOUT), *filter(None, [os.environ.get("PYTHONPATH")])])
    raise typer.Exit(subprocess.run(command, env={**os.environ, "PYTHONPATH": search}, check=False).returncode)
