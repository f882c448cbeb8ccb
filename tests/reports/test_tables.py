"""Tables: the numbers of the store, with intervals, in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from bench.api import Cell
from reports import tables
from reports.sources import Results, load
from reports.tables import Entry, Table, all_tables, to_markdown


def named(results: Results, name: str) -> Table:
    return next(table for table in all_tables(results) if table.name.startswith(name))


def test_methods_with_intervals(results: Results) -> None:
    table = named(results, "methods")
    assert table.note.startswith("3 replications")
    row = next(row for row in table.rows if row[0].text == "SeqLoRA")
    linear = [r for r in results.records if r.cell.task.startswith("linear")]
    finals = [r.matrix("relative_error").values[-1].mean() for r in linear if r.cell.method == "seqlora"]
    assert row[2].text.startswith(f"{np.mean(finals):.3f} ± ")
    assert row[2].sort == pytest.approx(np.mean(finals))
    assert [row[1].text for row in table.rows if row[0].text.startswith("joint")] == ["reference"]


def test_differences_say_which_way_they_go(results: Results) -> None:
    for metric, sign, methods in (("relative_error", 1, 6), ("identity", -1, 10)):
        rows = named(results, f"differences-{metric}").rows
        assert len(rows) == methods
        assert_told(rows, sign)


def assert_told(rows: Sequence[tuple[Entry, ...]], sign: int) -> None:
    for row in rows:
        if row[-1].text == "better than SeqLoRA":
            assert sign * row[3].sort < 0
        elif row[-1].text == "worse than SeqLoRA":
            assert sign * row[3].sort > 0
        else:
            assert row[-1].text == "not told apart"


def test_rank_star_timing_settings_and_machines(results: Results) -> None:
    assert named(results, "rank-star").columns[-1] == "r*"
    assert named(results, "timing").rows[0][0].text == "copy / product"
    assert any("gamma = 1.0" in row[-1].text for row in named(results, "settings").rows)
    assert sum(row[7].sort for row in named(results, "machines").rows) == 45


def test_markdown_is_a_pipe_table() -> None:
    rows = [(Entry("a|b", "a|b"), Entry("1.5", 1.5))]
    text = to_markdown(Table("t", "Title", "Note.", ("what", "value"), rows, frozenset({1})))
    assert text == "### Title\n\nNote.\n\n| what | value |\n| --- | ---: |\n| a\\|b | 1.5 |\n"


def test_numbers_are_short_and_sort_as_numbers() -> None:
    assert tables.number(0.123456) == Entry("0.123", 0.123456)
    assert tables.number(1e-9).text == "1.0e-09"
    assert tables.number(None).text == "–"
    assert tables.estimate([2.0]).text == "2.000 (1 seed)"
    assert tables.estimate([]).text == "–"


def test_failed_cells_are_listed(results: Results, tmp_path: pytest.TempPathFactory) -> None:
    from bench.runner import Job, compute
    from bench.store import Store

    store = Store(tmp_path / "bench")
    full = Cell("linear-synthetic:width=16,samples=100,rank=2", "frozen-orthonormal", 9)  # 9 * 2 > 16
    store.write(compute(full, store, Job(store.folder)))
    table = named(load(tmp_path), "not-done")
    assert table.rows[0][1].text == "skipped"
    assert "do not fit into width 16" in table.rows[0][2].text
