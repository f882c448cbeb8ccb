"""What the forgetting penalty weighs: layers by their output energy or how past losses react to them, or outputs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from seqlora import ConceptSequence, SeqLoRAConfig
from seqlora.errors import StoredFileError
from seqlora.past import Past
from seqlora.start import empty_moments, gather_moments, gather_output_moments, gather_sensitivities


def output_gradients(model: torch.nn.Sequential, batches: list[Any]) -> dict[str, Tensor]:
    """dL/dy of both layers over all batches, by autograd alone, (rows, m)."""
    found: dict[str, list[Tensor]] = {"0": [], "2": []}
    for inputs, targets in batches:
        first = model[0](inputs)
        last = model[2](torch.tanh(first))
        gradients = torch.autograd.grad((last - targets).square().mean(), [first, last])
        for rows, gradient in zip(found.values(), gradients, strict=True):
            rows.append(gradient)
    return {name: torch.cat(rows) for name, rows in found.items()}


def test_sensitivities_and_output_moments_equal_autograd(mlp: SimpleNamespace) -> None:
    model, batches = mlp.model(dtype=torch.float64), mlp.batches(0, 3, dtype=torch.float64)
    gradients = output_gradients(model, batches)
    sequence = ConceptSequence(model, mlp.config())
    given = (sequence.model, sequence.layers, batches, mlp.loss)
    sensitivities, output_moments = gather_sensitivities(*given), gather_output_moments(*given)
    for name, rows in gradients.items():
        assert sensitivities[name] == pytest.approx(float(rows.square().sum()) / rows.shape[-1], rel=1e-12)
        torch.testing.assert_close(output_moments[name], rows.mT @ rows, rtol=1e-12, atol=1e-18)


@pytest.mark.parametrize("gather", [gather_sensitivities, gather_output_moments])
def test_one_pass_counts_the_same_moments_as_a_pass_of_their_own(mlp: SimpleNamespace, gather: Any) -> None:
    sequence = ConceptSequence(mlp.model(), mlp.config())
    given = (sequence.model, sequence.layers, mlp.batches(0, 3), mlp.loss)
    together = empty_moments(sequence.layers, sequence.config)
    gather(*given, together)
    for name, moment in gather_moments(*given, sequence.config).items():
        assert moment.count > 0
        assert torch.equal(together[name].matrix(), moment.matrix())


@pytest.mark.parametrize("scale", ["output", "gradient", "kronecker"])
def test_replacing_a_base_weight_by_nothing_costs_gamma(mlp: SimpleNamespace, scale: str) -> None:
    """With BA = -W0 in every layer the relative change is 1 for each remembered concept, whatever the layers weigh."""
    gamma, concepts = 0.7, 2
    sequence = ConceptSequence(mlp.model(), mlp.config(forgetting_weight=gamma, forgetting_scale=scale))
    for concept in range(concepts):
        mlp.learn(sequence, f"c{concept}", concept)
    weights, metrics = sequence.past.penalty_weights(sequence.base, sequence.config), sequence.past.output_metrics()
    assert set(metrics) == (set(sequence.base) if scale == "kronecker" else set())
    penalty = 0.0
    for name, W0 in sequence.base.items():
        change = W0.to(sequence.past.factors[name]) @ sequence.past.factors[name].mT
        H = metrics.get(name, torch.eye(len(change)).to(change))
        penalty += weights[name] / 2 * float((change.mT @ H @ change).trace())
    assert penalty == pytest.approx(gamma * concepts, rel=1e-9)


def test_a_layer_whose_output_does_not_matter_is_free(mlp: SimpleNamespace) -> None:
    """The last layer's weight is zero, so no loss reacts to the first layer; the other scale still charges for it."""
    charged = {}
    for scale in ("output", "gradient"):
        model = mlp.model()
        torch.nn.init.zeros_(model[2].weight)
        sequence = ConceptSequence(model, mlp.config(forgetting_weight=1.0, forgetting_scale=scale))
        sequence.remember(mlp.batches(0, 2), mlp.loss)
        weight, factor = sequence.past.penalty_weights(sequence.base, sequence.config)["0"], sequence.past.factors["0"]
        charged[scale] = weight * float(factor.square().sum())
    assert charged["gradient"] == 0.0
    assert charged["output"] > 0.0


def dense(past: Past) -> Tensor:
    """H ⊗ F^T F of the only layer, the quadratic form that the penalty takes of vec(M)."""
    (H,), (F,) = past.output_metrics().values(), past.factors.values()
    return torch.kron(H, F.mT @ F)


class Known:
    """A moment that is given, not streamed."""

    def __init__(self, S: Tensor) -> None:
        self.S = S

    def factor(self) -> Tensor:
        return torch.linalg.cholesky(self.S).mT


@pytest.mark.parametrize(("same", "exact"), [("inputs", True), ("outputs", True), ("nothing", False)])
def test_what_stands_for_a_sum_of_kronecker_products(same: str, exact: bool) -> None:
    """Its trace is always that of the sum; the sum itself it is where one factor is shared, and else it is not."""
    generator, m, n = torch.Generator().manual_seed(0), 3, 5
    config, past = SeqLoRAConfig(forgetting_scale="kronecker"), Past.empty({"layer": n})
    true = torch.zeros(m * n, m * n, dtype=torch.float64)
    draws = [torch.randn(2, 8, width, generator=generator, dtype=torch.float64) for width in (n, m)]
    for concept in range(2):
        X = draws[0][0 if same == "inputs" else concept]
        g = draws[1][0 if same == "outputs" else concept] * (1 + concept)  # a later loss may react more strongly
        S, G = X.mT @ X / 8, g.mT @ g
        past.add({"layer": Known(S)}, {"layer": float(G.trace()) / m}, config, output_moments={"layer": G})  # type: ignore[dict-item]
        true += torch.kron(G, S)
    found = dense(past)
    assert float(found.trace()) == pytest.approx(float(true.trace()), rel=1e-12)
    assert torch.allclose(found, true, rtol=1e-9, atol=1e-9) == exact


def test_an_output_that_does_not_matter_is_free(mlp: SimpleNamespace) -> None:
    """The last layer ignores unit 3 of the first, so no loss reacts to it; the other scale charges all units alike."""
    charged = {}
    for scale in ("gradient", "kronecker"):
        model = mlp.model()
        model[2].weight.data[:, 3] = 0
        sequence = ConceptSequence(model, mlp.config(forgetting_weight=1.0, forgetting_scale=scale, basis="frozen"))
        sequence.remember(mlp.batches(0, 2), mlp.loss)
        sequence._begin("second", mlp.batches(1), mlp.loss, 10, {})
        group = next(group for group in sequence.groups if group.names == ["0"])
        group.B.data[0, 3] = 1.0
        group.zero_grad()
        group.add_regularisation(ridge=0.0, with_basis=False)
        assert group.B.grad is not None
        charged[scale] = float(group.B.grad.abs().max())
    assert charged["kronecker"] <= 1e-12
    assert charged["gradient"] > 1e-6


def test_a_folder_keeps_what_outputs_weigh(mlp: SimpleNamespace, tmp_path: Path) -> None:
    sequence = ConceptSequence(mlp.model(), mlp.config(forgetting_weight=1.0, forgetting_scale="kronecker"), tmp_path)
    mlp.learn(sequence, "a")
    again = ConceptSequence.from_pretrained(mlp.model(), tmp_path)
    assert again.past.output_moments.keys() == sequence.base.keys()
    for layer, G in sequence.past.output_moments.items():
        assert torch.equal(again.past.output_moments[layer], G)
        assert torch.equal(again.past.factors[layer], sequence.past.factors[layer])
    path = tmp_path / "moments-1.safetensors"
    save_file({name: tensor for name, tensor in load_file(path).items() if not name.startswith("outputs:")}, path)
    with pytest.raises(StoredFileError, match="not those of this model"):  # as if outputs were all alike
        ConceptSequence.from_pretrained(mlp.model(), tmp_path)
