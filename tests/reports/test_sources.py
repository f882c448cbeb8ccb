"""Reading stored results: all of it, or one line that says which file is wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from bench.collect import write_parquet
from reports.sources import Results, load
from seqlora.errors import BadInputError, StoredFileError


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def test_everything_is_read(results: Results) -> None:
    assert {claim.claim for claim in results.claims} >= {"C1", "C2", "C3", "C3r", "C4", "C5", "C6", "C7", "C8"}
    assert results.sources == ["synthetic"]
    assert results.suites == {"synthetic": "smoke"}
    assert len(results.records) == 21 + 24
    assert len(results.history) == 6
    assert all(results.has[name] for name in ("synthetic", "bench", "images", "timing", "history"))
    assert not results.has["minilm"]
    assert results.ratios[0].name == "copy / product"
    table = results.table("C3", "violations")
    assert {"source", "family", "delta", "rate"} <= set(table.columns)
    assert results.table("C3", "nothing").empty


def test_collected_parquet_gives_the_same_table(results: Results, copy: Path) -> None:
    write_parquet(copy / "bench" / "mine.parquet", "mine", results.records)
    shutil.rmtree(copy / "bench" / "cells")
    collected = load(copy)
    assert [record.to_cell() for record in collected.records] == [record.to_cell() for record in results.records]
    pd.testing.assert_frame_equal(collected.cells, results.cells)


def test_damaged_cells_are_left_out_and_said(copy: Path) -> None:
    path = next(iter((copy / "bench").glob("cells/*/*/*.json")))
    path.write_text(path.read_text()[:-20])
    found = load(copy)
    assert len(found.records) == 44
    assert found.damaged == [f"1 damaged cells in {copy / 'bench'} are left out"]


def broken_theory(copy: Path, change: str) -> Path:
    path = copy / "theory" / "synthetic.json"
    stored = json.loads(path.read_text())
    if change == "truncated":
        path.write_text(path.read_text()[:100])
    elif change == "another file":
        path.write_text(json.dumps([1, 2, 3]))
    elif change == "no verdict":
        del stored["results"][0]["verdict"]
        path.write_text(json.dumps(stored))
    elif change == "verdict of another kind":
        stored["results"][0]["verdict"]["kind"] = "maybe"
        path.write_text(json.dumps(stored))
    elif change == "twice":
        shutil.copy(path, copy / "theory" / "again.json")
    return path


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("truncated", "is not readable JSON"),
        ("another file", "was not written by `python -m theory --json`"),
        ("no verdict", r"results\.0\.verdict"),
        ("verdict of another kind", r"verdict\.kind"),
        ("twice", "both hold claim C1 on synthetic layers; delete one of them"),
    ],
)
def test_bad_theory_files_are_named(copy: Path, change: str, says: str) -> None:
    path = broken_theory(copy, change)
    with pytest.raises(StoredFileError, match=says) as error:
        load(copy)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_other_bad_files_are_named(copy: Path) -> None:
    (copy / "timing" / "timing.json").write_text('{"ratios": [{"name": "x"}]}')
    with pytest.raises(StoredFileError, match=r"timing\.json was not written by `python -m bench timing` \(0\.ratio"):
        load(copy)
    (copy / "timing" / "timing.json").unlink()
    shutil.rmtree(copy / "bench" / "cells")
    (copy / "bench" / "ci.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(StoredFileError, match=r"ci\.parquet was not written by `python -m bench collect`"):
        load(copy)


def test_bad_history_is_named(copy: Path) -> None:
    path = copy / "history.csv"
    path.write_text(path.read_text().replace("0.02", "little"))
    with pytest.raises(StoredFileError, match=r"history\.csv was not written by `python -m bench history`") as error:
        load(copy)
    assert "\n" not in str(error.value)
    path.write_text("revision,metric\na,b\n")
    with pytest.raises(StoredFileError, match=r"history\.csv is no history"):
        load(copy)


def test_history_of_the_folder_comes_before_that_of_the_repository(results: Results, copy: Path) -> None:
    other = (copy / "history.csv").rename(copy / "past.csv")
    assert load(copy).history.empty
    pd.testing.assert_frame_equal(load(copy, other).history, results.history)
    shutil.copy(other, copy / "history.csv")
    other.write_text("not read")
    assert len(load(copy, other).history) == 6


def test_no_folder() -> None:
    with pytest.raises(BadInputError, match="nowhere is no folder of results"):
        load("nowhere")
