"""`python -m bench report` hands over to the report's own program, exit code and all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def report(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    program = "import sys; from bench.report_command import report; import typer; typer.run(report)"
    root = str(Path(__file__).resolve().parents[2])
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {root!r}); {program}", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def test_page_is_built_and_bad_input_keeps_its_line_and_code(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    found = report(cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip() == "results/report/index.html"
    assert (tmp_path / "results" / "report" / "index.html").is_file()
    found = report("--results", "nowhere", cwd=tmp_path)
    assert found.returncode == 2
    assert found.stderr.startswith("error: nowhere is no folder of results")
