"""The page: one file, no network, everything in it, nothing that a stored string could break."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from PIL import Image

from reports import gallery
from reports.figures import FIGURES
from reports.html import Drawn, mathml, page
from reports.inline import Glyphs, inline_svg
from reports.sources import Results
from reports.style import DARK
from theory.api import CLAIMS


class Elements(HTMLParser):
    """All start tags with their attributes, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def parse(text: str) -> list[tuple[str, dict[str, str | None]]]:
    parser = Elements()
    parser.feed(text)
    return parser.tags


@pytest.fixture
def text(built: Path) -> str:
    return built.read_text()


def addresses(tags: list[tuple[str, dict[str, str | None]]]) -> list[str]:
    """Whatever a browser would follow or load."""
    names = ("href", "src", "srcset", "xlink:href", "action", "poster", "data")
    return [value for _, attributes in tags for name in names if (value := attributes.get(name))]


def test_nothing_is_loaded_from_elsewhere(text: str) -> None:
    for address in addresses(parse(text)):
        assert address.startswith(("#", "data:")), address
    assert not re.search(r"url\((?!#)|@import|https?://", text)


def test_an_address_elsewhere_would_be_seen() -> None:
    found = addresses(parse('<img src="https://x/y.png"><use xlink:href="#a"></use>'))
    assert found == ["https://x/y.png", "#a"]


def test_ids_are_unique_and_links_within_the_page_lead_somewhere(text: str) -> None:
    tags = parse(text)
    ids = Counter(attributes["id"] for _, attributes in tags if attributes.get("id"))
    assert [name for name, count in ids.items() if count > 1] == []
    targets = [address[1:] for address in addresses(tags) if address.startswith("#")]
    targets += re.findall(r"url\(#([^)]+)\)", text)
    assert [name for name in targets if name not in ids] == []


def test_ledger_first_then_every_figure_with_command_and_numbers(text: str, built: Path) -> None:
    assert text.index('id="ledger"') < min(text.index(f'id="{name}"') for name in FIGURES)
    for name in CLAIMS:
        assert f'id="{name}"' in text
    for name in FIGURES:
        assert f"python -m reports figure {name} --results" in text
        assert f'download="{name}.csv"' in text
        for suffix in ("png", "svg", "csv", "txt"):
            assert (built.parent / "figures" / f"{name}.{suffix}").stat().st_size > 0
    for row in (built.parent / "ledger.md", built.parent / "tables.md"):
        assert row.stat().st_size > 0


def test_colours_follow_the_page(text: str) -> None:
    assert "prefers-color-scheme: dark" in text
    for light, dark in DARK.items():
        assert text.count(f"--c{light[1:]}: {light};") == 1
        assert text.count(f"--c{light[1:]}: {dark};") == 1
        assert f": {light};" not in text.replace(f"--c{light[1:]}: {light};", "")


def test_page_has_no_date_of_its_own(results: Results) -> None:
    empty = page(replace(results, claims=[], records=[]), [], [], [])
    assert empty == page(replace(results, claims=[], records=[]), [], [], [])
    assert not re.search(r"\b20\d\d-\d\d", empty)


def test_letters_are_kept_once_and_found(results: Results) -> None:
    spec = FIGURES["rank_star"]
    svg = spec.svg(spec.select(results))
    glyphs = Glyphs()
    first, second = (inline_svg(svg, name, "label", glyphs) for name in ("a", "b"))
    sprite = glyphs.sprite()
    assert first.replace("a-", "b-") == second.replace("a-", "b-")
    assert len(first) < len(svg) / 1.5
    assert len(re.findall(r"<path id=", sprite)) == len(set(re.findall(r' d="([^"]+)', sprite)))
    defined = re.findall(r'id="([^"]+)"', first + sprite)
    assert [use for use in re.findall(r'href="#([^"]+)"', first) if use not in defined] == []
    letters = len(re.findall(r"<use ", svg))
    assert len(re.findall(r"<use ", first)) == letters > 50


def test_stored_strings_cannot_break_the_page(results: Results) -> None:
    hostile = '<script src="https://evil">alert(1)</script>"&'
    claims = [claim.model_copy(update={"evidence": hostile}) for claim in results.claims]
    found = page(replace(results, claims=claims, damaged=[hostile]), [], [], [hostile])
    assert "<script src" not in found
    assert sum(tag == "script" for tag, _ in parse(found)) == 1


def test_formulas_become_mathml() -> None:
    found = mathml(r"\frac{a}{b} \le \sum_{k\le r}\lambda_k")
    assert "<mfrac>" in found
    assert "http" not in found
    for claim in CLAIMS.values():
        assert mathml(claim.statement).startswith("<math")
    assert mathml("") == ""


def test_images_are_embedded_and_lazy(results: Results, tmp_path: Path) -> None:
    record = results.records[0]
    Image.new("RGB", (8, 8), "teal").save(tmp_path / "face.png")
    (tmp_path / "fake.png").write_text("no image")
    artifacts = {"merged": "face.png", "outside": "../face.png", "fake": "fake.png", "adapter": "x.safetensors"}
    found = replace(results, records=[record.model_copy(update={"artifacts": artifacts})], store=tmp_path)
    strips, left_out = gallery.strips(found)
    assert [picture.label for picture in strips[0].pictures] == ["merged"]
    assert len(left_out) == 2
    tags = parse(page(found, [], [], []))
    images = [attributes for tag, attributes in tags if tag == "img"]
    assert len(images) == 1
    assert images[0]["loading"] == "lazy"
    assert str(images[0]["src"]).startswith("data:image/png;base64,")


def test_sheets_stand_next_to_their_references_with_scores(results: Results) -> None:
    strips, left_out = gallery.strips(results)
    assert left_out == []
    assert len(strips) == 12  # six methods, two lengths, the lowest seed
    strip = next(s for s in strips if "T = 3" in s.title and "gamma=0.2" in s.title)
    assert list(strip.heads) == ["reference", "after 1", "after 2", "after 3"]
    assert [[bool(picture.source) for picture in row] for _, row in strip.rows] == [
        [True, True, True, True], [True, False, True, True], [True, False, False, True],
    ]  # fmt: skip
    assert strip.rows[0][0] == "person0"
    record = next(r for r in results.records if r.cell.method.endswith("0.2") and r.cell.n_concepts == 3)
    R = record.matrix("identity")
    assert R is not None
    assert strip.rows[0][1][3].score == f"{R.values[2, 0]:.2f}"
    images = [attributes for tag, attributes in parse(page(results, [], [], [])) if tag == "img"]
    assert len(images) == 6 * (5 + 9)  # T references and T (T + 1) / 2 images a method, T = 2 and 3
    assert {attributes["loading"] for attributes in images} == {"lazy"}


def test_long_sequences_show_the_first_people_just_trained_and_last(
    results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gallery, "PEOPLE", 2)
    strip = next(s for s in gallery.strips(results)[0] if "T = 3" in s.title)
    assert list(strip.heads) == ["reference", "just trained", "after 3"]
    assert len(strip.rows) == 2


def test_budget_of_images_is_kept_and_said(results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gallery, "MOST", 100)
    Image.effect_noise((64, 64), 50).save(tmp_path / "face.png")
    record = results.records[0].model_copy(update={"artifacts": {"a": "face.png"}})
    strips, left_out = gallery.strips(replace(results, records=[record], store=tmp_path))
    assert strips == []
    assert "the page would exceed" in left_out[0]


def test_the_numbers_behind_a_link_are_the_csv() -> None:
    csv = 'task,x\n"photos:a b/50%,steps=1",1.5\nθ & <ü> #1?,-1e-07\n'
    link = Drawn("tightness", "", "", "", csv, "", ()).download
    head, _, data = link.partition(",")
    assert head == "data:text/csv;charset=utf-8"
    assert unquote(data) == csv
    assert not set(data) & set(' \n"<>#&?')  # what a URI, or an attribute around it, would read otherwise
