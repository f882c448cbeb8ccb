"""What the forgetting penalty weighs layers by: their own output energy, or how much past losses react to them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from seqlora import ConceptSequence
from seqlora.start import empty_moments, gather_moments, gather_sensitivities


def test_sensitivities_equal_autograd(mlp: SimpleNamespace) -> None:
    model, batches = mlp.model(dtype=torch.float64), mlp.batches(0, 3, dtype=torch.float64)
    expected = {"0": 0.0, "2": 0.0}
    for inputs, targets in batches:
        first = model[0](inputs)
        last = model[2](torch.tanh(first))
        gradients = torch.autograd.grad((last - targets).square().mean(), [first, last])
        for name, gradient in zip(expected, gradients, strict=True):
            expected[name] += float(gradient.square().sum()) / gradient.shape[-1]
    sequence = ConceptSequence(model, mlp.config())
    found = gather_sensitivities(sequence.model, sequence.layers, batches, mlp.loss)
    assert found == pytest.approx(expected, rel=1e-12)


def test_one_pass_counts_the_same_moments_as_a_pass_of_their_own(mlp: SimpleNamespace) -> None:
    sequence = ConceptSequence(mlp.model(), mlp.config())
    given = (sequence.model, sequence.layers, mlp.batches(0, 3), mlp.loss)
    together = empty_moments(sequence.layers, sequence.config)
    gather_sensitivities(*given, together)
    for name, moment in gather_moments(*given, sequence.config).items():
        assert moment.count > 0
        assert torch.equal(together[name].matrix(), moment.matrix())


@pytest.mark.parametrize("scale", ["output", "gradient"])
def test_replacing_a_base_weight_by_nothing_costs_gamma(mlp: SimpleNamespace, scale: str) -> None:
    """With BA = -W0 in every layer the relative change is 1 for each remembered concept, whatever the layers weigh."""
    gamma, concepts = 0.7, 2
    sequence = ConceptSequence(mlp.model(), mlp.config(forgetting_weight=gamma, forgetting_scale=scale))
    for concept in range(concepts):
        mlp.learn(sequence, f"c{concept}", concept)
    weights = sequence.past.penalty_weights(sequence.base, sequence.config)
    penalty = 0.0
    for name, W0 in sequence.base.items():
        change = W0.to(sequence.past.factors[name]) @ sequence.past.factors[name].mT
        penalty += weights[name] / 2 * float(change.square().sum())
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
