"""`python -m bench timing`: run the micro-benchmarks and print every ratio beside its goal."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from seqlora.files import read_json, write_json

FOLDER = Path(__file__).parent
app = typer.Typer(add_completion=False)


@app.callback(invoke_without_command=True)
def timing(
    out: Annotated[Path, typer.Option(help="where the ratios are stored as JSON")] = Path("results/timing/timing.json"),
    only: Annotated[str, typer.Option("-k", help="run only benchmarks whose name contains this")] = "",
) -> None:
    """Run the benchmarks on one thread and print the ratios; a missed goal is reported, never an error."""
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "benchmark.json"
        command = [
            *(sys.executable, "-m", "pytest", str(FOLDER), "-o", "addopts=", "-o", "python_files=bench_*.py"),
            *("--import-mode=importlib", "-q", "--benchmark-only", "--benchmark-disable-gc"),
            *(f"--benchmark-json={raw}", "-W", "ignore", "-k", only),
        ]
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        code = subprocess.run(command, env={**os.environ, **threads}, check=False).returncode
        if code:
            raise typer.Exit(3)
        rows = [benchmark["extra_info"] for benchmark in read_json(raw)["benchmarks"]]
        machine = read_json(raw)["machine_info"]["cpu"].get("brand_raw", "unknown")
    for row in rows:
        row["goal_met"] = row["ratio"] <= row["goal"] if row["smaller_is_better"] else row["ratio"] >= row["goal"]
    write_json(out, {"machine": machine, "threads": 1, "ratios": rows})
    Console().print(table(rows))


def table(rows: list[dict[str, Any]]) -> Table:
    """The ratios as a table for people."""
    result = Table(title="Ratios, medians over pairs measured in turn (least to largest)")
    for heading in ("what", "ratio", "range", "goal", "ours", "theirs"):
        result.add_column(heading, justify="left" if heading == "what" else "right")
    for row in rows:
        sign = "<=" if row["smaller_is_better"] else ">="
        mark = "met" if row["goal_met"] else "[bold]missed[/bold]"
        result.add_row(
            row["name"],
            f"{row['ratio']:.3g}",
            f"{row['low']:.3g} to {row['high']:.3g}",
            f"{sign} {row['goal']:g} {mark}",
            f"{row['candidate_seconds'] * 1e3:.3g} ms",
            f"{row['reference_seconds'] * 1e3:.3g} ms",
        )
    return result
