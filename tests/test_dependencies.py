"""Imports point one way, seqlora <- theory <- bench <- reports, and only the method may be packaged."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("seqlora", "theory", "bench", "reports")  # each may import itself and what stands left of it
METHOD_ONLY = {
    "numpy",
    "torch",
    "peft",
    "safetensors",
}  # what the wheel depends on


def imported(source: str) -> set[str]:
    """Top-level names that a module imports, wherever in the file; strings handed to import_module count too."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the direction"
            names.add((node.module or "").partition(".")[0])
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            head, dot, rest = node.value.partition(".")
            if head in PACKAGES and dot and rest.replace(".", "").replace("_", "").replace(":", "").isalnum():
                names |= {head} if (ROOT / head / (rest.split(".")[0].split(":")[0] + ".py")).exists() else set()
    return names


def wrong_way(package: str, names: set[str]) -> set[str]:
    return names & set(PACKAGES[PACKAGES.index(package) + 1 :])


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_only_what_stands_left_of_it(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    offending = {
        str(file.relative_to(ROOT)): names
        for file in files
        if (names := wrong_way(package, imported(file.read_text())))
    }
    assert not offending


def test_a_wrong_import_would_be_seen() -> None:
    for source in (
        "import bench",
        "from bench.api import Cell",
        "def f():\n    from bench import api",
        "import_module('bench.api')",
    ):
        assert wrong_way("theory", imported(source)) == {"bench"}
    assert wrong_way("theory", imported("from seqlora.errors import BadInputError\nimport numpy")) == set()


def test_the_method_needs_nothing_beyond_its_declared_dependencies() -> None:
    import sys

    for file in (ROOT / "seqlora").rglob("*.py"):
        foreign = imported(file.read_text()) - set(sys.stdlib_module_names) - METHOD_ONLY - {"seqlora"}
        assert foreign <= {"diffusers", "transformers"}, file  # optional, imported where used
