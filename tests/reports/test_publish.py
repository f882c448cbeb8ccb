"""What is published: all numbers in few bytes, the same report from them, nothing of the machine."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from bench.collect import read_parquet, write_parquet
from reports import build, ledger, publish, readme, tables
from reports.collected import records_of
from reports.sources import Results, load
from seqlora.errors import BadInputError, StoredFileError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def published(results: Results, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store alone: the page built from it is looked at elsewhere."""
    out = tmp_path_factory.mktemp("published")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(publish, "build", lambda found, to, workers: build.Built(to, [], []))
        publish.publish(results, out)
        (out / "store" / "stale.txt").write_text("left by an earlier revision")
        publish.publish(results, out)
    return out


def test_published_numbers_are_the_measured_ones(results: Results, published: Path) -> None:
    found = load(published / "store")
    pd.testing.assert_frame_equal(found.cells, results.cells)
    pd.testing.assert_frame_equal(found.history, results.history)
    assert ledger.to_markdown(found) == ledger.to_markdown(results)
    texts = [[tables.to_markdown(table) for table in tables.all_tables(source)] for source in (found, results)]
    assert texts[0] == texts[1]


def test_published_images_are_those_of_the_gallery(results: Results, published: Path) -> None:
    kept = [record for record in load(published / "store").records if record.artifacts]
    assert {(record.cell.method, record.cell.n_concepts) for record in kept} == {
        (record.cell.method, record.cell.n_concepts) for record in results.records if record.artifacts
    }
    assert {record.cell.seed for record in kept} == {0}
    for record in kept:
        assert (published / "store" / "bench" / record.artifacts["gallery"]).stat().st_size > 0


def test_publishing_what_was_published_loses_nothing(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish, "build", lambda found, to, workers: build.Built(to, [], []))
    publish.publish(load(published / "store"), tmp_path)
    images = sorted((published / "store").rglob("*.webp"))
    assert images
    for path in images:
        assert (tmp_path / path.relative_to(published)).read_bytes() == path.read_bytes()


def test_nothing_stale_and_no_path_of_a_machine(published: Path) -> None:
    assert not (published / "store" / "stale.txt").exists()
    for record in load(published / "store").records:
        assert not any(word.startswith("/") for word in record.provenance.argv)


def test_publishing_needs_results_from_elsewhere(published: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="published already"):
        publish.publish(load(published / "store"), published)
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInputError, match="holds no results"):
        publish.publish(load(tmp_path / "empty"), tmp_path / "out")


def test_records_come_back_from_parquet(results: Results, tmp_path: Path) -> None:
    write_parquet(tmp_path / "cells.parquet", "mine", results.records)
    unkept = {"checksum": "", "traceback": ""}
    for before, after in zip(results.records, records_of(*read_parquet(tmp_path / "cells.parquet")), strict=True):
        assert after.model_dump() == before.model_copy(update=unkept).model_dump()


# --- README


def test_readme_agrees_with_what_is_published() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme.updated(text, load(ROOT / "reports" / "published" / "store")) == text


def test_published_folder_is_small() -> None:
    files = [path for path in (ROOT / "reports" / "published").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 78e6  # 528 cells, two of 32 people and seventeen of 16


def test_marked_tables_are_made_anew(results: Results, tmp_path: Path) -> None:
    text = "".join(f"<!-- table: {name} -->\nOUTDATED\n<!-- /table -->\nwords stay\n" for name in readme.TABLES)
    (tmp_path / "README.md").write_text(text)
    assert readme.update(tmp_path / "README.md", results, check=True) is False
    assert (tmp_path / "README.md").read_text() == text
    assert readme.update(tmp_path / "README.md", results, check=False) is False
    assert readme.update(tmp_path / "README.md", results, check=True) is True
    after = (tmp_path / "README.md").read_text()
    assert "OUTDATED" not in after
    assert after.count("words stay") == 3
    assert "| **C1** " in after
    assert "T = 3, 2 steps: alone | T = 3, 2 steps: merged | T = 3, 2 steps: forgotten" in after


def test_tables_without_results_say_what_to_run(tmp_path: Path) -> None:
    empty = load(tmp_path)
    assert "python -m bench run --suite images" in readme.images_table(empty)
    assert "No results" in readme.methods_table(empty)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("no marker", "no line `<!-- table: NAME -->`"),
        ("<!-- table: x -->\n<!-- /table -->", "`table: x` names no table"),
    ],
)
def test_bad_markers_are_one_line(text: str, says: str, results: Results) -> None:
    with pytest.raises(BadInputError, match=says):
        readme.updated(text, results)


def test_missing_readme_is_one_line(results: Results, tmp_path: Path) -> None:
    with pytest.raises(StoredFileError, match="cannot read"):
        readme.update(tmp_path / "README.md", results, check=True)
