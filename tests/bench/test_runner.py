"""Running cells: what is computed, what is left alone, and what becomes of failures."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.api import Cell, Context
from bench.executors import Outcome, Resources, Serial
from bench.runner import Job, Summary, pinned_threads, run, run_cell
from bench.store import Store
from seqlora.errors import CapacityError, NonFiniteError, StoredFileError

from .conftest import ScriptedTask

CELLS = [Cell("scripted", method, 3, 0, seed) for seed in range(2) for method in ("seqlora", "plain-sum")]


def go(store: Store, cells: list[Cell] = CELLS, **job: object) -> Summary:
    serial = Serial(Resources(1, 1, "", store.folder))
    return run(cells, Job(store.folder, **job), serial)  # type: ignore[arg-type]


def test_what_is_stored_is_not_computed_again(scripted: ScriptedTask, store: Store) -> None:
    first = go(store)
    assert first.count("done", cached=False) == 4
    assert first.exit_code == 0
    files = {path: path.read_bytes() for path in store.folder.glob("cells/*/*/*.json")}
    assert len(files) == 4
    second = go(store)
    assert second.count("done", cached=True) == 4
    assert scripted.ran == CELLS
    assert all(path.read_bytes() == content for path, content in files.items())


def test_force_computes_again(scripted: ScriptedTask, store: Store) -> None:
    go(store)
    assert go(store, force=True).count("done", cached=False) == 4
    assert len(scripted.ran) == 8


def test_a_failed_cell_is_recorded_and_the_run_goes_on(scripted: ScriptedTask, store: Store) -> None:
    def fail(cell: Cell, context: Context) -> None:
        if cell == CELLS[1]:
            raise NonFiniteError("the loss became NaN\nat step 3")

    scripted.script = fail
    summary = go(store)
    assert summary.exit_code == 3
    assert (summary.count("done"), summary.count("failed")) == (3, 1)
    record = store.read(CELLS[1])
    assert record is not None
    assert record.reason == "the loss became NaN at step 3"
    assert "NonFiniteError" in record.traceback
    assert record.matrices == []


def test_a_failure_is_final_unless_asked_for_and_keeps_its_seed(scripted: ScriptedTask, store: Store) -> None:
    def fail(cell: Cell, context: Context) -> None:
        raise ValueError("bad luck")

    scripted.script = fail
    go(store, CELLS[:1])
    scripted.script = lambda cell, context: None
    again = go(store, CELLS[:1])
    assert again.exit_code == 3
    assert scripted.ran == CELLS[:1]  # not tried again
    assert go(store, CELLS[:1], retry_failed=True).exit_code == 0
    assert scripted.ran == [CELLS[0], CELLS[0]]  # tried again with the very same seed
    assert store.read(CELLS[0]).reason == ""  # type: ignore[union-attr]


def test_past_capacity_is_skipped_not_failed(scripted: ScriptedTask, store: Store) -> None:
    def full(cell: Cell, context: Context) -> None:
        raise CapacityError("rank 4 does not fit")

    scripted.script = full
    summary = go(store)
    assert summary.exit_code == 0
    assert summary.count("skipped") == 4
    assert store.read(CELLS[0]).reason == "rank 4 does not fit"  # type: ignore[union-attr]


def test_a_method_that_does_not_exist_fails_its_cell(scripted: ScriptedTask, store: Store) -> None:
    go(store, [Cell("scripted", "seqlorra", 2)])
    record = store.read(Cell("scripted", "seqlorra", 2))
    assert record is not None
    assert record.status == "failed"
    assert "did you mean 'seqlora'" in record.reason


def test_infinite_numbers_fail_the_cell(scripted: ScriptedTask, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = scripted.run

    def infinite(cell: Cell, method: object, context: Context):
        result = honest(cell, method, context)
        result.matrices[0].values[0, 0] = float("inf")
        return result

    monkeypatch.setattr(scripted, "run", infinite)
    assert go(store, CELLS[:1]).exit_code == 3
    assert "finite" in store.read(CELLS[0]).reason  # type: ignore[union-attr]


def test_a_corrupt_cell_is_computed_again_and_kept_aside(scripted: ScriptedTask, store: Store) -> None:
    go(store)
    whole = store.read(CELLS[2])
    store.path(CELLS[2]).write_text("{", encoding="utf-8")
    summary = go(store)
    assert summary.count("done", cached=False) == 1
    assert store.read(CELLS[2]).matrices == whole.matrices  # type: ignore[union-attr]
    assert store.path(CELLS[2]).with_name(store.path(CELLS[2]).name + ".corrupt").exists()


def test_interrupting_keeps_what_is_done(scripted: ScriptedTask, store: Store) -> None:
    def interrupt(cell: Cell, context: Context) -> None:
        if cell == CELLS[2]:
            raise KeyboardInterrupt

    scripted.script = interrupt
    with pytest.raises(KeyboardInterrupt):
        go(store)
    assert [store.state(cell) for cell in CELLS] == ["done", "done", "missing", "missing"]
    scripted.script = lambda cell, context: None
    assert go(store).count("done", cached=False) == 2


def test_a_disk_that_fills_up_stops_the_run(
    scripted: ScriptedTask, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench import store as store_module

    go(store, CELLS[:1])

    def full(path: Path, value: object) -> None:
        raise StoredFileError("cannot write: No space left on device")

    monkeypatch.setattr(store_module, "write_json", full)
    with pytest.raises(StoredFileError, match="No space left"):
        go(store)
    assert store.state(CELLS[0]) == "done"
    assert store.state(CELLS[1]) == "missing"


def test_a_cell_that_another_runner_holds_is_left_to_it(scripted: ScriptedTask, store: Store) -> None:
    with store.claim(CELLS[0]) as mine:
        assert mine
        assert run_cell(Job(store.folder), CELLS[0]).status == "busy"
    assert run_cell(Job(store.folder), CELLS[0]).status == "done"
    assert len(scripted.ran) == 1


def test_busy_cells_are_waited_for(scripted: ScriptedTask, store: Store) -> None:
    calls = []

    class Shy(Serial):
        """Says "busy" to the first look at every cell."""

        def map(self, work, cells):
            for cell in cells:
                calls.append(cell)
                yield Outcome(cell, "busy") if calls.count(cell) == 1 else work(cell)

    summary = run(CELLS, Job(store.folder), Shy(Resources(1, 1, "", store.folder)))
    assert summary.count("done") == 4
    assert len(calls) == 8


def test_a_worker_that_died_is_a_failed_cell(scripted: ScriptedTask, store: Store) -> None:
    class Deadly(Serial):
        def map(self, work, cells):
            yield from (Outcome(cell, "died", "killed") for cell in cells)

    summary = run(CELLS[:1], Job(store.folder), Deadly(Resources(1, 1, "", store.folder)))
    assert summary.exit_code == 3
    assert store.read(CELLS[0]).reason == "killed"  # type: ignore[union-attr]


def test_cells_of_another_revision_are_told(
    scripted: ScriptedTask, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench import environment

    go(store)
    assert not go(store).other_revisions()
    monkeypatch.setattr(environment, "git_revision", lambda: "another")
    assert sum(go(store).other_revisions().values()) == 4


def test_artifacts_are_named_from_the_store(
    scripted: ScriptedTask, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    honest = scripted.run

    def draw(cell: Cell, method: object, context: Context):
        context.artifacts.mkdir(parents=True)
        (context.artifacts / "image.txt").write_text("image", encoding="utf-8")
        return replace(honest(cell, method, context), artifacts={"image": "image.txt"}, weights={"w": "abc"})

    monkeypatch.setattr(scripted, "run", draw)
    go(store, CELLS[:1])
    record = store.read(CELLS[0])
    assert record is not None
    assert (store.folder / record.artifacts["image"]).read_text(encoding="utf-8") == "image"
    assert record.provenance.weights == {"w": "abc"}


def test_provenance_and_fingerprint(scripted: ScriptedTask, store: Store) -> None:
    from bench.environment import fingerprint

    go(store, CELLS[:2])
    first, second = (store.read(cell) for cell in CELLS[:2])
    assert first is not None
    assert second is not None
    p = first.provenance
    assert p.packages["numpy"]
    assert p.threads == 1
    assert p.torch_build
    assert first.fingerprint == second.fingerprint == fingerprint(p)
    # what can move numbers changes it, what cannot does not
    for moving in ({"threads": 2}, {"dtype": "float32"}, {"cpu": "other"}, {"weights": {"w": "1"}}):
        assert fingerprint(p.model_copy(update=moving)) != first.fingerprint
    for still in ({"git_revision": "other"}, {"argv": ["x"]}, {"created_utc": "later"}):
        assert fingerprint(p.model_copy(update=still)) == first.fingerprint


def test_threads_are_pinned_and_given_back() -> None:
    import torch
    from threadpoolctl import threadpool_info

    before = torch.get_num_threads()
    with pinned_threads(1):
        assert torch.get_num_threads() == 1
        assert all(pool["num_threads"] == 1 for pool in threadpool_info() if pool["user_api"] == "blas")
    assert torch.get_num_threads() == before
