"""The site keeps what it promises: links lead somewhere, formulas can be set, commands exist, nothing is fetched."""

from __future__ import annotations

import configparser
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import typer
import yaml
from mkdocs.exceptions import PluginError

import seqlora
import theory.claims  # noqa: F401 (registers the claims)
from bench.cli import MOUNTED
from bench.cli import app as bench_app
from bench.registry import load
from reports.__main__ import app as reports_app
from reports.figures import FIGURES
from theory.__main__ import app as theory_app
from theory.api import CLAIMS
from theory.claims.images import STATEMENTS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
APPS = {"bench": bench_app, "reports": reports_app, "theory": theory_app}
FENCE = re.compile(r"^( *)```.*?^\1```$", re.DOTALL | re.MULTILINE)
CODE = re.compile(r"```\w*\n(.*?)```|`([^`\n]+)`", re.DOTALL)
LINK = re.compile(r"(!?)\[[^\]]*\]\(([^)\s]+)\)")
FORMULA = re.compile(r"\$\$(.+?)\$\$|(?<!\$)\$([^$\n]+)\$(?!\$)", re.DOTALL)
COMMAND = re.compile(r"python -m (bench|reports|theory)\b([^\n|#;)]*)")


def page_id(path: Path) -> str:
    return str(path.relative_to(DOCS))


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def prose(path: Path) -> str:
    """A page without its code."""
    return re.sub(r"`[^`\n]*`", "", FENCE.sub("", text_of(path)))


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("site_hooks", DOCS / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- structure


def in_nav(entry: Any) -> Iterator[str]:
    if isinstance(entry, str):
        yield entry
    for inner in entry.values() if isinstance(entry, dict) else entry if isinstance(entry, list) else ():
        yield from in_nav(inner)


def test_every_page_is_in_the_navigation_and_exists() -> None:
    config = yaml.safe_load(text_of(ROOT / "mkdocs.yml"))
    assert sorted(in_nav(config["nav"])) == sorted(page_id(path) for path in PAGES)
    assert config["strict"] is True
    assert config["theme"]["font"] is False


def missing(mark: str, target: str, page: Path) -> bool:
    """Whether a link leads nowhere. A page may point elsewhere, an image (`mark` is "!") may not come from there."""
    if target.startswith("https://") and not mark:
        return False
    file = target.partition("#")[0]
    if not file:
        return False
    path = (page.parent / file).resolve()
    if path.is_relative_to(DOCS / "figures"):
        return not (ROOT / "reports" / "published" / "figures" / path.name).is_file()
    return path not in PAGES


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_link_leads_to_a_page_or_a_published_figure(page: Path) -> None:
    assert not [target for mark, target in LINK.findall(prose(page)) if missing(mark, target, page)]


def test_a_dead_link_would_be_seen() -> None:
    assert missing("", "nowhere.md", DOCS / "index.md")
    assert missing("!", "../figures/nothing.png", DOCS / "theory" / "c1.md")
    assert missing("!", "https://example.org/x.png", DOCS / "index.md")
    assert not missing("!", "../figures/frontier.png", DOCS / "theory" / "c8.md")
    assert LINK.findall("[a](b.md) ![c](d.png)") == [("", "b.md"), ("!", "d.png")]


# --- content


def test_every_public_name_is_documented() -> None:
    documented = re.findall(r"^::: (\S+)", text_of(DOCS / "api" / "seqlora.md"), re.MULTILINE)
    for name in seqlora.__all__:
        assert any(entry.startswith("seqlora.") and entry.endswith(f".{name}") for entry in documented), name


@pytest.mark.parametrize("claim", CLAIMS)
def test_every_claim_has_a_page_with_statement_derivation_control_and_measurement(claim: str) -> None:
    text = text_of(DOCS / "theory" / f"{claim.lower()}.md")
    assert f"<!-- claim {claim} -->" in text
    assert f"<!-- measured {claim} -->" in text
    for part in ("What the code checks", "that must fail", "What was measured"):
        assert part in text
    assert claim == "C3r" or "## Derivation" in text or claim == "C8"


def test_claims_about_images_have_pages_too(hooks: ModuleType) -> None:
    assert set(hooks.ON_IMAGES) == set(STATEMENTS)
    for claim in STATEMENTS:
        text = text_of(DOCS / "theory" / f"{claim.lower()}.md")
        assert {f"<!-- claim {claim} -->", f"<!-- measured {claim} -->"} <= set(text.splitlines())
        assert "that must fail" in text
        assert STATEMENTS[claim].statement in hooks.statement(claim)
        assert hooks.measured(claim)
    named = {name for page in PAGES for name in re.findall(r"<!-- figure (\w+) -->", text_of(page))}
    assert named <= set(FIGURES)
    assert named


def test_claims_and_measurements_come_from_code_and_ledger(hooks: ModuleType) -> None:
    filled = hooks.on_page_markdown("<!-- claim C2 -->\n<!-- measured C2 -->\n<!-- options -->")
    assert CLAIMS["C2"].statement in filled
    assert "synthetic (ci)" in filled
    assert "minilm (ci)" in filled
    assert "| `rank` | `4` |" in filled
    with pytest.raises(PluginError, match="no row for C99"):
        hooks.measured("C99")


@pytest.mark.parametrize("page", [page for page in PAGES if FORMULA.search(prose(page))], ids=page_id)
def test_every_formula_can_be_set(page: Path, hooks: ModuleType) -> None:
    for display, inline in FORMULA.findall(prose(page)):
        assert hooks.mathml(display or inline, bool(display), page_id(page)).count("<math") == 1


def test_a_formula_that_was_taken_for_words_is_refused(hooks: ModuleType) -> None:
    page = SimpleNamespace(file=SimpleNamespace(src_uri="here.md"))
    set_ = hooks.on_page_content('<p><span class="arithmatex">\\(x\\)</span> <code>$$</code></p>', page)
    assert "<math" in set_
    with pytest.raises(PluginError, match=r"here.md: a formula between \$\$"):
        hooks.on_page_content("<p>so $$ x $$ is left</p>", page)


def test_every_statement_can_be_set_and_an_unknown_command_is_refused(hooks: ModuleType) -> None:
    for claim in (*CLAIMS.values(), *STATEMENTS.values()):
        hooks.mathml(claim.statement, True, claim.id)
    assert 'class="overline"><mi>F</mi>' in hooks.mathml(r"\overline{F[t,j]} > 0", False, "here")
    with pytest.raises(PluginError, match="nosuchcommand"):
        hooks.mathml(r"\nosuchcommand{x}", True, "here")


# --- commands


def known_options(package: str, words: list[str]) -> set[str]:
    """Options of the command that these words call.

    Raises:
        KeyError: there is no such command.
    """
    command: Any = typer.main.get_command(APPS[package])
    while hasattr(command, "commands") and words:
        name = words.pop(0)
        if package == "bench" and name in MOUNTED and command.name != name:
            target: Any = load(MOUNTED[name][0])
            if not isinstance(target, typer.Typer):
                function, target = target, typer.Typer()
                target.command()(function)
            command = typer.main.get_command(target)
            continue
        command = command.commands[name]
    options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    return options | {"--help"}


def unknown(package: str, arguments: str) -> list[str]:
    """What a command line names that `--help` does not."""
    words = arguments.replace("\\\n", " ").split()
    given = [word for word in words if word.startswith("--") and word != "--"]
    first = next((index for index, word in enumerate(words) if word.startswith("-")), len(words))
    try:
        options = known_options(package, words[:first])
    except KeyError as error:
        return [str(error)]
    return [option for option in given if option.partition("=")[0] not in options]


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_command_is_one_that_help_knows(page: Path) -> None:
    snippets = ["".join(pair).replace("\\\n", " ") for pair in CODE.findall(text_of(page))]
    for snippet in snippets:
        for package, arguments in COMMAND.findall(snippet):
            assert not unknown(package, arguments), f"python -m {package}{arguments}"


def test_an_unknown_command_would_be_seen() -> None:
    assert unknown("bench", " run --suite smoke --nonsense") == ["--nonsense"]
    assert unknown("bench", " nonsense")
    assert unknown("bench", " world nonsense")
    assert unknown("theory", " C2 --layers synthetic --suit ci") == ["--suit"]
    assert not unknown("bench", " run --suite smoke --out x")


def test_every_tox_environment_that_is_named_exists() -> None:
    ini = configparser.ConfigParser(interpolation=None)
    ini.read(ROOT / "tox.ini")
    known = {section.partition(":")[2] for section in ini.sections()} | {"py"}
    for page in PAGES:
        for names in re.findall(r"tox -e ([\w,]+)", text_of(page)):
            assert set(names.split(",")) <= known, f"{page}: {names}"


# --- the built site


class Loads(HTMLParser):
    """What a browser would fetch for a page, and whether a formula was left as LaTeX."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.classes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.classes |= set((values.get("class") or "").split())
        if tag in ("img", "script", "iframe", "source"):
            self.addresses.append(values.get("src") or "")
        elif tag == "link" and values.get("rel") in ("stylesheet", "preload", "icon"):
            self.addresses.append(values.get("href") or "")


@pytest.mark.slow
def test_the_site_builds_strictly_and_fetches_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    formulas = 0
    for page in PAGES:
        html = text_of((tmp_path / page_id(page)).with_suffix(".html"))
        seen = Loads()
        seen.feed(html)
        assert "arithmatex" not in seen.classes, page
        assert not [address for address in seen.addresses if "//" in address], page
        formulas += html.count("<math")
    assert formulas > 200
