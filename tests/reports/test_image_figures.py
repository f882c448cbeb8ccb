"""Figures and tables of image cells: what is drawn is what was measured, for the cells that the caption names."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from bench.prediction import judge_prediction, predict
from bench.schema import CellRecord
from reports import image_tables, sheets
from reports.figures import FIGURES
from reports.figures.method_comparison import HEADLINES
from reports.image_cells import gammas, longest, names, off_curve
from reports.sources import Results
from reports.statistics import t_interval
from theory.ledger import generator


@pytest.fixture
def people(results: Results) -> list[CellRecord]:
    return [record for record in results.records if record.matrix("identity") is not None]


def final(people: list[CellRecord], method: str, count: int) -> list[float]:
    chosen = [record for record in people if (record.cell.method, record.cell.n_concepts) == (method, count)]
    return [float(record.matrix("identity").values[-1].mean()) for record in chosen]


def test_headlines_are_metrics_of_the_two_families(results: Results) -> None:
    assert set(HEADLINES) <= set(results.cells.metric)
    assert (results.images.metric == HEADLINES[1]).any()
    assert (results.linear.metric == HEADLINES[0]).any()
    assert set(results.linear.task).isdisjoint(results.images.task)


def test_identity_by_length_is_drawn_without_a_judge_of_text(results: Results) -> None:
    figure = FIGURES["identity_length"]
    data = figure.select(results)
    identity, text = figure.figure(data[data.metric == "identity"]).axes[:2]
    shown = data.loc[data.metric == "identity", "mean"]
    assert identity.get_ylim()[0] < shown.min() <= shown.max() < identity.get_ylim()[1]
    assert not text.lines[0].get_xdata().size


def test_identity_by_length_is_the_mean_over_people_then_seeds(results: Results, people: list[CellRecord]) -> None:
    data = FIGURES["identity_length"].select(results)
    assert set(data.axis) == {"sequences"}
    for method in ("plain-sum", "seqlora-penalty"):
        for count in (2, 3):
            row = data[(data.method == method) & (data.concepts == count) & (data.metric == "identity")].iloc[0]
            expected = t_interval(np.array(final(people, method, count)))
            assert (row["mean"], row.low, row.high) == pytest.approx((expected.mean, expected.low, expected.high))


def test_one_length_is_shown_by_stages(results: Results, people: list[CellRecord]) -> None:
    one = replace(results, cells=results.cells[results.cells.n_concepts == 3])
    data = FIGURES["identity_length"].select(one)
    assert set(data.axis) == {"stages"}
    row = data[(data.method == "fusion") & (data.concepts == 2) & (data.metric == "identity")].iloc[0]
    R = [r.matrix("identity").values for r in people if r.cell.method == "fusion" and r.cell.n_concepts == 3]
    assert row["mean"] == pytest.approx(np.mean([matrix[1, :2].mean() for matrix in R]))


def test_a_method_is_compared_once_and_its_weights_on_the_curve(results: Results) -> None:
    variant = "seqlora-penalty:gamma=0.2"
    assert variant in set(FIGURES["image_tradeoff"].select(results).method)
    for name in ("identity_length", "image_comparison", "image_matrices"):
        shown = set(FIGURES[name].select(results).method)
        assert "seqlora-penalty" in shown
        assert variant not in shown
    alone = replace(results, cells=results.cells[results.cells.method == variant])
    assert set(FIGURES["image_comparison"].select(alone).method) == {variant}
    other = pd.DataFrame({"method": ["seqlora-penalty", "seqlora-penalty:gamma=1,scale=output", "plain:gamma=1"]})
    assert len(off_curve(other)) == 3


def test_pictures_themselves_stand_beside_the_methods(results: Results) -> None:
    for name in ("identity_length", "image_comparison"):
        data = FIGURES[name].select(results)
        merged = (data.metric == "identity") & (data.get("quantity", "final") == "final")
        assert data.pictures[merged].to_numpy() == pytest.approx(0.9)
        assert data.pictures[~merged].isna().all()
    assert all("themselves" in table.note for table in image_tables.method_tables(results))
    without = replace(results, cells=results.cells[results.cells.metric != "identity_real"])
    assert FIGURES["image_comparison"].select(without).pictures.isna().all()
    assert not any("themselves" in table.note for table in image_tables.method_tables(without))


def test_tradeoff_is_just_trained_against_lost(results: Results, people: list[CellRecord]) -> None:
    data = FIGURES["image_tradeoff"].select(results).set_index("method")
    R = [r.matrix("identity").values for r in people if r.cell.method == "seqlora" and r.cell.n_concepts == 3]
    assert data.adaptation["seqlora"] == pytest.approx(np.mean([np.diag(matrix).mean() for matrix in R]))
    lost = [(np.diag(matrix) - matrix[-1])[:-1].mean() for matrix in R]
    assert data.forgetting["seqlora"] == pytest.approx(np.mean(lost))
    assert dict(data.gamma.dropna()) == {"seqlora": 0.0, "seqlora-penalty": 1.0, "seqlora-penalty:gamma=0.2": 0.2}


def test_who_is_beaten_is_counted(results: Results) -> None:
    spec = FIGURES["image_tradeoff"]
    data = spec.select(results)
    better = data.assign(adaptation=data.adaptation + 1.0, forgetting=-1.0, method="rival", gamma=np.nan).iloc[:1]
    counts = [
        int(re.search(r"(\d+) beat SeqLoRA with γ = 1 in both", spec.headline(shown))[1])
        for shown in (data, pd.concat([data, better]))
    ]
    assert counts[1] == counts[0] + 1


def test_identity_says_where_a_method_ended_that_did_not_go_all_the_way() -> None:
    rows = [
        (method, t, 0.9 - 0.1 * t) for method, last in (("seqlora", 4), ("plain-sum", 2)) for t in range(1, last + 1)
    ]
    data = pd.DataFrame(rows, columns=["method", "concepts", "mean"]).assign(task="portraits", metric="identity")
    told = FIGURES["identity_length"].headline(data)
    assert told == "portraits: identity from 1 to 4 people: SeqLoRA 0.80 to 0.50, plain sum 0.80 to 0.70 at 2"


def test_prediction_is_that_of_the_bench(results: Results, people: list[CellRecord]) -> None:
    data = FIGURES["energy_predicts"].select(results)
    expected = predict(people, np.random.default_rng(1))
    assert data.overall.iloc[0] == pytest.approx(expected.correlation)
    assert len(data) == len(expected.points)
    np.testing.assert_allclose(np.sort(data["drop"]), np.sort(expected.points[:, 1]))
    assert data.overall_low.iloc[0] <= expected.correlation <= data.overall_high.iloc[0]
    ledgers = judge_prediction(people, generator("C9", 0)).tables["correlations"][0]
    interval = data.overall_low.iloc[0], data.overall_high.iloc[0]
    assert interval == (ledgers["low"], ledgers["high"])  # one page, one interval
    within = expected.readings["within"]
    assert data.within.iloc[0] == pytest.approx(within.value)
    told = FIGURES["energy_predicts"].headline
    assert told(data.assign(overall_low=-0.2, overall_high=0.3)).split(";")[0].endswith("not told apart from none")
    assert told(data.assign(within_low=-0.2, within_high=-0.1)).endswith("below zero")


@pytest.mark.parametrize("narrow", [False, True])
def test_prediction_draws_what_was_measured_on_the_way_beside_the_energies(results: Results, narrow: bool) -> None:
    figure = FIGURES["energy_predicts"]
    data = figure.select(results)
    assert len(figure.draw(data, narrow).axes) == 1  # nothing was
    half = np.where(np.arange(len(data)) % 2, np.nan, 0.01 + data.energy)
    readings = {f"{name}{end}": 0.25 for name in ("plain", "fisher", "prediction") for end in ("", "_low", "_high")}
    drawn = figure.draw(data.assign(fisher_energy=half, prediction_change=half, **readings), narrow)
    points = [sum(len(line.get_xdata()) for line in panel.lines if len(line.get_xdata()) != 2) for panel in drawn.axes]
    assert points[1] == points[2] < points[0]
    assert [panel.get_title() for panel in drawn.axes] == ["0.25 [0.25, 0.25], same cells", *["0.25 [0.25, 0.25]"] * 2]


def test_energies_and_bounds_of_every_layer(results: Results) -> None:
    data = FIGURES["layer_energy"].select(results)
    layers, bounds = data[data.panel == "layers"], data[data.panel == "bounds"]
    assert set(layers.layer) == {f"block.{k}" for k in range(4)}
    assert len(bounds) == sum(len(record.claims) for record in results.records)
    assert (bounds.energy <= bounds.bound).all()
    headline = FIGURES["layer_energy"].headline
    assert f"C3, plain form on {len(bounds)} of {len(bounds)} (median " in headline(data)
    broken = data.assign(holds=data.holds.where(data.panel != "bounds", False))
    assert f"C3, plain form on 0 of {len(bounds)} (median " in headline(broken)


def test_leakage_of_one_and_of_two_people_in_a_picture(results: Results) -> None:
    data = FIGURES["leakage"].select(results)
    assert set(data.groupby("picture").size()) == {5}
    assert not data.method.str.contains("gamma").any()  # another weight of the penalty is for the curve
    sums = data[data.method == "plain-sum"].set_index("picture")
    assert sums.others.to_dict() == pytest.approx(
        {"one person a picture": 0.15, "two people, plain prompt": 0.1, "two people, regional": 0.02}
    )
    own = sums.own / sums.own["one person a picture"]
    assert own["two people, regional"] == pytest.approx(0.9)
    table = next(table for table in image_tables.leakage_tables(results) if table.name.endswith("T3"))
    assert {"to others, largest", "other, regional", "own, drawn by the world"} <= set(table.columns)


def test_gallery_holds_the_very_images(results: Results) -> None:
    data = FIGURES["gallery"].select(results)
    assert set(data.n_concepts) == {3}
    assert set(data.seed) == {0}
    shown = data.set_index(["method", "concept", "when"]).webp
    trained = sheets.decode(shown["plain-sum", 0, "just trained"]).astype(int)
    merged = sheets.decode(shown["plain-sum", 0, "merged"]).astype(int)
    kept = sheets.decode(shown["token-only", 0, "merged"]).astype(int)
    np.testing.assert_allclose(merged.mean((0, 1)) - 128, (trained.mean((0, 1)) - 128) / 4, atol=6)
    np.testing.assert_allclose(kept.mean((0, 1)), trained.mean((0, 1)), atol=6)
    assert len(data[data.when == "reference"]) == 3
    assert not data.method.str.contains("gamma").any()


def test_cost_follows_the_cells(results: Results) -> None:
    data = FIGURES["cost_length"].select(results)
    people = data[data.task.str.startswith("portraits")]
    assert set(people.n_concepts) == {2, 3}
    assert people[people.quantity == "stored_bytes_per_concept"]["mean"].eq(4.0).all()  # kB
    table = image_tables.cost_tables(results)[0]
    assert {"3.000 ± 0.000", "4.000 ± 0.000"} <= {entry.text for row in table.rows for entry in row}


def test_image_table_prints_text_alignment_beside_identity(results: Results) -> None:
    table = next(t for t in image_tables.method_tables(results) if t.name.endswith("T3"))
    assert {"identity, merged", "CLIP-T", "face found", "drift"} <= set(table.columns)
    assert [row[0].text for row in table.rows if "gamma" in row[0].text] == ["seqlora-penalty in words (gamma=0.2)"]


def test_history_names_tasks_by_what_tells_them_apart(results: Results) -> None:
    spec = FIGURES["history"]
    data = spec.select(results)
    long = data.assign(task="portraits:steps=30,images=4,references=4,prompts=3,sampler_steps=6")
    titles = [panel.get_title(loc="left") or panel.get_title() for panel in spec.figure(long).axes]
    assert {title.splitlines()[-1].partition(",")[0] for title in titles if title} == {"portraits"}


def test_history_says_what_moved_and_which_way(results: Results) -> None:
    spec = FIGURES["history"]
    data = spec.select(results)
    last = data.revision == data.revision.iloc[-1]
    quiet = data.assign(mean=0.5, low=0.4, high=0.6)
    assert spec.headline(quiet).endswith("at the last one: no number")
    moved = quiet.assign(mean=quiet["mean"].where(~(last & (data.number == "identity.final")), 0.3))
    assert spec.headline(moved).endswith("at the last one: SeqLoRA final identity 0.5 to 0.3, worse")
    assert len(data) == 6
    assert (data.high - data["mean"]).iloc[0] == pytest.approx(2.364624 * 0.02 / 8**0.5, rel=1e-6)


def test_longest_that_was_repeated() -> None:
    counts, seeds = [2, 2, 4, 4, 8], [0, 1, 0, 1, 0]
    rows = pd.DataFrame({"task": "a", "method": "m", "n_concepts": counts, "order": 0, "seed": seeds})
    assert set(longest(rows).n_concepts) == {4}
    assert set(longest(rows[rows.seed == 0]).n_concepts) == {8}


def test_longest_that_compares_methods() -> None:
    rows = pd.DataFrame({"task": "a", "method": [*"xyz", *"xy", "x"], "n_concepts": [2] * 3 + [4] * 2 + [8]})
    assert set(longest(rows.assign(order=0, seed=0)).n_concepts) == {4}


def test_most_methods_with_one_length_show_stages_of_their_longest(results: Results) -> None:
    cells = results.cells
    few = replace(results, cells=cells[(cells.n_concepts == 2) | (cells.method == "fusion")])
    data = FIGURES["identity_length"].select(few)
    assert set(data.axis) == {"stages"}
    assert data[data.method == "fusion"].concepts.max() == 3
    assert data[data.method == "plain-sum"].concepts.max() == 2


def test_names_are_as_short_as_they_can_be() -> None:
    assert names(["portraits:steps=2", "photos:a"]) == {"portraits:steps=2": "portraits", "photos:a": "photos"}
    assert names(["portraits:steps=2,rank=8", "portraits:steps=3,rank=8", "portraits:steps=2,rank=8"]) == {
        "portraits:steps=2,rank=8": "portraits steps=2",
        "portraits:steps=3,rank=8": "portraits steps=3",
    }
    assert names(["portraits:steps=2", "portraits"]) == {
        "portraits:steps=2": "portraits steps=2",
        "portraits": "portraits",
    }
    long, quick = "portraits:steps=240,batch=4,layers=transformer", "portraits:steps=60,batch=4,prompts=3"
    assert names([long, quick]) == {long: "portraits steps=240", quick: "portraits steps=60"}
    pairs = [f"portraits:steps={s},rank={r}" for s in (1, 2) for r in (3, 4)]  # no option alone tells four apart
    assert names(pairs) == {task: task.replace(":", " ").replace(",", " ") for task in pairs}


def test_only_gamma_bends_the_curve(people: list[CellRecord]) -> None:
    known = gammas(people)
    assert known["seqlora"] == 0.0
    assert known["seqlora-penalty:gamma=0.2"] == 0.2
    one = next(record for record in people if record.cell.method == "seqlora-penalty")
    slow = one.model_copy(update={"cell": one.cell.model_copy(update={"method": "seqlora-penalty:basis_rate=0.05"})})
    assert gammas([one, slow]).keys() == {"seqlora-penalty"}
    methods = pd.DataFrame({"method": ["seqlora-penalty", "seqlora-penalty:gamma=3.0", slow.cell.method]})
    assert list(off_curve(methods).method) == ["seqlora-penalty", slow.cell.method]
