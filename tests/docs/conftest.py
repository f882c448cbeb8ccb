"""Pages as programs: run their blocks in order, compare what they print with what the page shows."""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
NUMBER = re.compile(r"-?\d+\.\d+")
LAST_DIGIT = 0.02  # outputs show two decimals; other processors may round a training differently


def blocks(text: str) -> list[tuple[str, str]]:
    """Language and body of every fenced block."""
    return BLOCK.findall(text)


def run_shell(command: str) -> str:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-euc", command], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_python(source: str, module: ModuleType, page: Path) -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(source, str(page), "exec"), module.__dict__)
    return printed.getvalue()


def agree(printed: str, shown: str) -> bool:
    """Equal words, decimals within the last digit or two."""
    words = [NUMBER.sub("#", text).split() for text in (printed, shown)]
    numbers = [[float(number) for number in NUMBER.findall(text)] for text in (printed, shown)]
    return words[0] == words[1] and numbers[0] == pytest.approx(numbers[1], abs=LAST_DIGIT)


@pytest.fixture
def run_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run a page of `docs/` in an empty folder; returns how many outputs were compared."""

    def run(name: str, languages: tuple[str, ...] = ("python",)) -> int:
        monkeypatch.chdir(tmp_path)
        module = ModuleType(f"docs_{Path(name).stem}")
        monkeypatch.setitem(sys.modules, module.__name__, module)  # dataclasses look their module up
        page, printed, compared = ROOT / "docs" / name, "", 0
        for language, body in blocks(page.read_text(encoding="utf-8")):
            if language == "text":
                assert agree(printed, body), f"{name} shows\n{body}\nbut the block before it prints\n{printed}"
                compared += 1
            elif language in languages:
                printed = run_shell(body) if language == "sh" else run_python(body, module, page)
        return compared

    return run


@pytest.fixture
def page_tools() -> SimpleNamespace:
    return SimpleNamespace(root=ROOT, blocks=blocks, agree=agree)
