"""Real text, split by topic: the documentation strings of packages that every installation has.

A concept of the text layers is a topic: `stats` is what scipy.stats says of itself, `python` what the standard
library does. The packages are dependencies of seqlora, their licences allow the use, nothing is downloaded, and
the files are parsed, never imported. Other versions give other sentences, so `provenance` records them.
"""

from __future__ import annotations

import ast
import platform
import re
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from seqlora.errors import BadInputError


@dataclass(frozen=True)
class Topic:
    """Where the text of one concept comes from."""

    package: str  # importable name; "python" is the standard library
    parts: tuple[str, ...]  # files or folders inside it
    licence: str


TOPICS: dict[str, Topic] = {
    "python": Topic(
        "python", ("asyncio", "email", "http", "logging", "multiprocessing", "unittest", "xml", "*.py"), "PSF-2.0"
    ),
    "numpy": Topic("numpy", (".",), "BSD-3-Clause"),
    "stats": Topic("scipy", ("stats",), "BSD-3-Clause"),
    "signal": Topic("scipy", ("signal", "ndimage", "fft"), "BSD-3-Clause"),
    "optimize": Topic("scipy", ("optimize", "integrate", "interpolate"), "BSD-3-Clause"),
    "torch": Topic("torch", ("nn", "optim", "distributions"), "BSD-3-Clause"),
    "transformers": Topic("transformers", ("*.py", "generation", "integrations", "quantizers", "utils"), "Apache-2.0"),
}

Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef

SKIPPED_FOLDERS = {"test", "tests", "site-packages", "dist-packages", "idlelib", "lib2to3"}
MIN_WORDS = 13  # fewer rarely give a window of 16 tokens
KEY_WORDS = 8  # passages that open with the same words are one passage: templates repeat whole paragraphs
NOT_PROSE = (">>>", "::", " : ", "%(", "{", "|", "----", "====")
MIN_LETTERS = 0.85  # share of letters and spaces below which a paragraph is a table, a formula or code


def passages(topic: str, count: int, rng: np.random.Generator) -> list[str]:
    """Draw up to `count` distinct passages (one paragraph of prose each) of a topic, in random order.

    Files are visited in an order drawn from `rng` and reading stops at twice `count`, so the time follows `count`.

    Args:
        topic: a key of `TOPICS`.
        count: how many passages are wanted; fewer come back where the packages hold no more.
        rng: draws the order of files and the subset of passages.

    Raises:
        BadInputError: the topic is unknown or its package is not installed.
    """
    found: dict[str, str] = {}
    files = _files(topic)
    for index in rng.permutation(len(files)):
        for text in _paragraphs(files[index]):
            found.setdefault(" ".join(text.lower().split()[:KEY_WORDS]), text)
        if len(found) >= 2 * count:
            break
    texts = list(found.values())
    return [texts[index] for index in rng.permutation(len(texts))[:count]]


def provenance() -> dict[str, str]:
    """Topic -> package, version and licence of the text that `passages` reads."""
    return {
        name: f"{topic.package} {_version(topic.package)}: {', '.join(topic.parts)} ({topic.licence})"
        for name, topic in TOPICS.items()
    }


def _version(package: str) -> str:
    return platform.python_version() if package == "python" else metadata.version(package)


def _files(topic: str) -> list[Path]:
    """Source files of a topic, in an order that does not depend on the file system."""
    if topic not in TOPICS:
        raise BadInputError(f"there is no text topic {topic!r}; choose one of {', '.join(TOPICS)}")
    root = _root(TOPICS[topic].package)
    files: set[Path] = set()
    for part in TOPICS[topic].parts:
        files.update(root.glob(part) if part.endswith(".py") else (root / part).rglob("*.py"))
    return sorted(file for file in files if not SKIPPED_FOLDERS & set(file.relative_to(root).parts))


def _root(package: str) -> Path:
    if package == "python":
        return Path(sysconfig.get_paths()["stdlib"])
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise BadInputError(f"the text of {package} is needed and {package} is not installed; pip install {package}")
    return Path(spec.origin).parent


def _paragraphs(file: Path) -> Iterator[str]:
    """Paragraphs of prose in the docstrings of one source file; a file that does not parse has none."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError, OSError):
        return
    documented: list[Documented] = [tree]
    for node in documented:
        for block in re.split(r"\n\s*\n", ast.get_docstring(node) or ""):
            text = _prose(block)
            if text:
                yield text
        # statements only: walking every expression of a file takes five times as long
        documented.extend(child for child in node.body if isinstance(child, Documented))


def _prose(block: str) -> str:
    """One block of a docstring as a line of prose, or "" if it is a table, a listing, a formula or too short."""
    lines = block.splitlines()
    described = len(lines) > 1 and not lines[0].startswith(" ") and lines[1].startswith(" ")
    text = " ".join(" ".join(lines[1:] if described else lines).split())  # "name : type" above its description goes
    prose = (
        text[:1].isupper()
        and len(text.split()) >= MIN_WORDS
        and not any(mark in text for mark in NOT_PROSE)
        and sum(map(len, re.findall(r"[^\W\d_]+| ", text))) >= MIN_LETTERS * len(text)
    )
    return text if prose else ""
