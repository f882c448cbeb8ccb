"""Claims C3, C3r and C4 on small layers, and each of them broken on purpose."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from theory.api import CLAIMS, ClaimResult
from theory.claims import c3_forgetting_bound as c3
from theory.claims import c3r_real_activations as c3r
from theory.claims import c4_certificate as c4
from theory.layers import synthetic
from theory.layers.base import Layer
from theory.subgaussian import Proxy, estimate_proxy


def layers(samples: int = 1024, family: str = "gaussian") -> list[Layer]:
    rng = np.random.default_rng(20)
    return [synthetic.layer(32, 3, samples, decay, rng, family=family) for decay in (1.0, 2.0)]


def run(claim: str, given: list[Layer], seed: int = 0) -> ClaimResult:
    return CLAIMS[claim].check(given, "synthetic", "smoke", np.random.default_rng(seed))


@pytest.mark.parametrize("claim", ["C3", "C3r", "C4"])
def test_claims_hold_and_their_controls_break(claim: str) -> None:
    result = run(claim, layers())
    assert str(result.verdict) == "holds", result.verdict
    assert result.controls_broken
    assert result.to_json()["claim"] == claim
    assert all("layer" in row for rows in result.tables.values() for row in rows)


def test_c3_has_every_family_and_delta_and_the_documented_columns() -> None:
    result = run("C3", layers())
    seen = {(row["family"], row["delta"]) for row in result.tables["violations"]}
    assert seen == {(f, d) for f in synthetic.FAMILIES for d in c3.DELTAS}
    columns = {"layer", "family", "delta", "n_samples", "trials", "violations", "rate", "lower", "upper", "bound"}
    assert columns | {"quantile", "tightness", "control"} <= set(result.tables["violations"][0])
    ratios = [float(row["ratio"] or 0) for row in result.tables["tightness"]]
    assert all(1 <= ratio < 2.5 for ratio in ratios)  # never below the exact quantile


@pytest.mark.parametrize("share", [0.5, 0.8])
def test_c3_with_a_wrong_constant_fails(monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    right = c3.forgetting_bound
    monkeypatch.setattr(c3, "forgetting_bound", lambda *args, **kwargs: share * right(*args, **kwargs))
    result = run("C3", layers())
    assert result.verdict.kind == "fails when"
    assert "gaussian" in result.verdict.condition


def test_c3_without_the_column_proxy_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    right = c3.forgetting_bound
    monkeypatch.setattr(c3, "forgetting_bound", lambda G, n, delta, Psi=None, **rest: right(G, n, delta, **rest))
    assert "dependent columns" in run("C3", layers()).verdict.condition


def test_c3_without_the_mean_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    right = c3.forgetting_bound
    monkeypatch.setattr(c3, "forgetting_bound", lambda *args, mean_energy=0.0: right(*args))
    assert "with a mean" in run("C3", layers()).verdict.condition


def test_c3r_without_column_dependence_estimate_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def blind(windows: np.ndarray, rng: np.random.Generator) -> Proxy:
        proxy = estimate_proxy(windows, rng)
        return replace(proxy, row=proxy.covariance, column=np.eye(windows.shape[2]), kappa2=1.0)

    monkeypatch.setattr(c3r, "estimate_proxy", blind)
    result = run("C3r", layers(4096))
    assert result.verdict.kind == "fails when"
    assert "proxy form" in result.verdict.condition


def test_c3r_on_independent_gaussian_columns_has_an_idle_control() -> None:
    """Where nothing is planted the plain form holds too, and the verdict says that the control could not tell."""
    independent = [replace(layer, window=8) for layer in layers(2048)]
    result = run("C3r", independent)
    assert not result.controls_broken
    assert "controls" in result.verdict.condition


def test_c3r_tests_on_windows_that_nothing_was_learned_from(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, np.ndarray] = {}
    right = c3r.learn_sequence

    def spy(activations, *rest):  # type: ignore[no-untyped-def]
        seen.update(activations)
        return right(activations, *rest)

    monkeypatch.setattr(c3r, "learn_sequence", spy)
    layer = c3r.plant_dependence(layers()[0], 64, np.random.default_rng(1))
    c3r.hold_out(layer, np.random.default_rng(1))
    for concept, X in layer.activations.items():
        learned = {tuple(column) for column in seen[concept].T}
        assert len(learned) == X.shape[1] // 2
        assert learned < {tuple(column) for column in X.T}


def test_c3r_planted_dependence_is_what_it_says() -> None:
    rng = np.random.default_rng(2)
    plain = synthetic.layer(16, 1, 4000, 1.0, rng)
    layer = c3r.plant_dependence(plain, 10_000, rng, correlation=0.9)
    X = layer.activations["concept0"].reshape(16, -1, c3.COLUMNS)
    between = np.einsum("nka,nkb->ab", X, X) / (X.shape[1] * np.trace(layer.second_moment("concept0")))
    # 10,000 windows of effective rank about 7: standard error 1/sqrt(70,000) = 0.004
    assert np.abs(between - c3.autoregressive(c3.COLUMNS, 0.9)).max() < 0.03
    alike = layer.second_moment("concept0") - np.cov(plain.activations["concept0"])
    assert np.linalg.norm(alike, 2) < 0.1 * np.linalg.norm(plain.second_moment("concept0"), 2)


@pytest.mark.parametrize("broken", ["budget", "projection"])
def test_c4_with_a_missing_term_fails(monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    if broken == "budget":  # the certificate forgets to square beta
        right = c4.certificate
        monkeypatch.setattr(c4, "certificate", lambda s, q, beta, *rest: right(s, q, np.sqrt(beta), *rest))
    else:  # the spectrum of fewer directions than later concepts use
        right = c4.certificate
        monkeypatch.setattr(c4, "certificate", lambda s, q, *rest: right(s, q // 2, *rest))
    result = run("C4", layers())
    assert result.verdict.kind == "fails when"
    assert "certificate covers the spectrum" in result.verdict.condition


def test_c4_table_orders_its_bounds() -> None:
    for row in run("C4", layers(2048)).tables["certificate"]:
        assert float(row["realised"] or 0) <= float(row["a_posteriori"] or 0) <= float(row["certificate"] or 0)
        assert float(row["distribution_free"] or 0) > float(row["realised_largest"] or 0) * 0.5


def test_c4_says_where_a_declared_norm_bound_was_broken() -> None:
    heavy = run("C4", layers(2048, family="student")).tables["certificate"]
    light = run("C4", layers(2048, family="uniform")).tables["certificate"]
    assert all(row["norm_bound_kept"] and row["distribution_free_mean"] is not None for row in light)
    for row in heavy:
        assert bool(row["norm_bound_kept"]) == (row["distribution_free_mean"] is not None)


def test_results_do_not_depend_on_other_claims() -> None:
    given = layers()
    alone = run("C3r", given)
    run("C3", given)
    again = run("C3r", given)
    assert alone.to_json() | {"seconds": 0} == again.to_json() | {"seconds": 0}
