"""Sixty orthogonal concepts, the four capacity policies, merging, hooks, and what interruptions leave behind."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from seqlora import ConceptSequence, SeqLoRAConfig
from seqlora.errors import BadInputError, CapacityError, NonFiniteError
from seqlora.stiefel import RiemannianAdam
from seqlora.subspace import overlap, welch_floor

WIDTH, RANK, CONCEPTS = 256, 4, 60


def worst_overlap(sequence: ConceptSequence, layer: str) -> float:
    A = torch.stack([concept.factors[layer][0] for concept in sequence.concepts.values()]).double()
    gram = torch.einsum("irn,jsn->ijrs", A, A)
    norms = torch.linalg.matrix_norm(gram, 2)
    return float((norms - torch.diag(norms.diagonal())).max())


def learn_many(mlp: SimpleNamespace, concepts: int, **changes: Any) -> ConceptSequence:
    config = SeqLoRAConfig(rank=RANK, target_modules=("0", "2"), inner_steps=1, start_batches=1, **changes)
    sequence = ConceptSequence(mlp.model(WIDTH), config)
    for concept in range(concepts):
        list(sequence.learn(f"c{concept}", mlp.batches(concept, 4, WIDTH), mlp.loss))
    return sequence


def test_sixty_concepts_stay_orthogonal_in_float32(mlp: SimpleNamespace) -> None:
    sequence = learn_many(mlp, CONCEPTS, planned_concepts=CONCEPTS)
    for layer in ("0", "2"):
        assert sequence.concepts["c0"].factors[layer][0].dtype == torch.float32
        assert worst_overlap(sequence, layer) <= 1e-6
        A = sequence.concepts["c59"].factors[layer][0].double()
        assert float((A @ A.mT - torch.eye(RANK, dtype=A.dtype)).abs().max()) <= 1e-6
    # merged = W0 + sum of B A, bit for bit as a sum in the order of learning
    for layer in sequence.layers:
        delta = torch.zeros_like(layer.weight)
        for concept in sequence.concepts.values():
            A, B = concept.factors[layer.name]
            delta.addmm_(B, A)
        assert torch.equal(layer.weight, sequence.base[layer.name] + delta)


def test_without_projection_they_overlap(mlp: SimpleNamespace) -> None:
    assert worst_overlap(learn_many(mlp, 6, orthogonal=False), "0") > 0.05


def test_steps_alone_stay_in_the_complement(mlp: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the final clean-up, too: the projector of each step does the work. Control: a step without it."""

    def before_polish() -> float:
        sequence = ConceptSequence(mlp.model(), mlp.config(inner_steps=0, basis_learning_rate=0.1))
        mlp.learn(sequence, "a")
        past = sequence.past_bases()["0"]
        worst = 0.0
        for _ in sequence.learn("b", mlp.batches(1, 30), mlp.loss):
            (A,) = (g.A.data[g.names.index("0")] for g in sequence.groups if "0" in g.names)
            worst = max(worst, float((A @ past.mT).abs().max()))
        return worst

    assert before_polish() < 1e-6
    step = RiemannianAdam.step
    monkeypatch.setattr(RiemannianAdam, "step", lambda self, A, G, projector, rate: step(self, A, G, None, rate))
    assert before_polish() > 1e-2


# --- capacity -------------------------------------------------------------------------------------------------------


def test_error_policy_refuses_before_training(mlp: SimpleNamespace) -> None:
    with pytest.raises(CapacityError, match="7 concepts of rank 2 need 14 directions, its width is 12"):
        ConceptSequence(mlp.model(), mlp.config(planned_concepts=7))
    sequence = ConceptSequence(mlp.model(), mlp.config())  # number of concepts unknown: refused when full
    for concept in range(6):
        mlp.learn(sequence, f"c{concept}", concept, 3)
    before = [layer.weight.clone() for layer in sequence.layers]
    with pytest.raises(CapacityError, match="6 concepts of rank 2 fill its width 12"):
        sequence.learn("c6", mlp.batches(6), mlp.loss)
    assert all(torch.equal(old, layer.weight) for old, layer in zip(before, sequence.layers, strict=True))


def narrow_and_wide() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 40), nn.Tanh(), nn.Linear(40, 6))


def test_shrink_lowers_the_rank_of_narrow_layers_only(mlp: SimpleNamespace) -> None:
    config = mlp.config(rank=4, capacity="shrink", planned_concepts=6)
    sequence = ConceptSequence(narrow_and_wide(), config)
    assert (sequence.plan["0"].rank, sequence.plan["2"].rank) == (2, 4)
    for concept in range(6):
        mlp.learn(sequence, f"c{concept}", concept, 3)
    assert sequence.concepts["c5"].factors["0"][0].shape == (2, 12)
    assert max(worst_overlap(sequence, layer) for layer in ("0", "2")) <= 1e-6
    with pytest.raises(CapacityError, match="do not fit into width 12 even at rank 1"):
        ConceptSequence(narrow_and_wide(), mlp.config(capacity="shrink", planned_concepts=13))


def test_spread_reaches_the_floor_where_layers_are_narrow(mlp: SimpleNamespace) -> None:
    config = mlp.config(rank=4, capacity="spread", planned_concepts=9)
    sequence = ConceptSequence(narrow_and_wide(), config)
    assert (sequence.plan["0"].mode, sequence.plan["2"].mode) == ("spread", "orthogonal")
    for concept in range(9):
        mlp.learn(sequence, f"c{concept}", concept, 3)
    bases = [concept.factors["0"][0] for concept in sequence.concepts.values()]
    total = sum(overlap(bases[i], bases[j]) ** 2 for i in range(9) for j in range(9) if i != j)
    assert total == pytest.approx(welch_floor(12, 4, 9), rel=1e-5)
    assert worst_overlap(sequence, "2") <= 1e-6
    with pytest.raises(CapacityError, match="all are used"):
        sequence.learn("c9", mlp.batches(9), mlp.loss)


def test_penalise_lets_bases_overlap_but_charges_for_it(mlp: SimpleNamespace) -> None:
    def forgetting(gamma: float) -> float:
        config = mlp.config(
            rank=4, capacity="penalise", planned_concepts=9, forgetting_weight=gamma, coefficient_learning_rate=0.05
        )
        sequence = ConceptSequence(narrow_and_wide(), config)
        assert (sequence.plan["0"].mode, sequence.plan["2"].mode) == ("overlapping", "orthogonal")
        mlp.learn(sequence, "a", 0, 60)
        ((X, _),) = mlp.batches(0, 1)
        before = sequence.model(X)
        mlp.learn(sequence, "b", 1, 60)
        assert overlap(*(c.factors["0"][0] for c in sequence.concepts.values())) > 1e-3
        return float((sequence.model(X) - before).square().mean().detach())

    assert forgetting(10.0) < 0.5 * forgetting(1e-6)
    with pytest.raises(BadInputError, match="positive for capacity='penalise'"):
        mlp.config(capacity="penalise", planned_concepts=9)


def test_policies_need_to_know_how_many_concepts_come(mlp: SimpleNamespace) -> None:
    with pytest.raises(BadInputError, match="decides before training"):
        mlp.config(capacity="shrink")


# --- the merged model -----------------------------------------------------------------------------------------------


def test_activate_gives_any_weighted_subset(mlp: SimpleNamespace) -> None:
    sequence = ConceptSequence(mlp.model(), mlp.config())
    for concept in range(3):
        mlp.learn(sequence, f"c{concept}", concept)
    merged = [layer.weight.clone() for layer in sequence.layers]

    def expected(layer: Any, weights: dict[str, float]) -> Tensor:
        parts = [
            w * f[1].double() @ f[0].double()
            for k, w in weights.items()
            for f in [sequence.concepts[k].factors[layer.name]]
        ]
        return sequence.base[layer.name].double() + sum(parts)

    for chosen in (["c1"], ["c0", "c2"], {"c0": 0.5, "c1": -2.0}, []):
        sequence.activate(chosen)
        weights = chosen if isinstance(chosen, dict) else dict.fromkeys(chosen, 1.0)
        for layer in sequence.layers:
            torch.testing.assert_close(layer.weight.double(), expected(layer, weights), rtol=1e-6, atol=1e-6)
    sequence.activate(["c0", "c1", "c2"])  # a sum over all of them is the running sum, to the bit
    assert all(torch.equal(old, layer.weight) for old, layer in zip(merged, sequence.layers, strict=True))
    sequence.activate()
    assert all(torch.equal(old, layer.weight) for old, layer in zip(merged, sequence.layers, strict=True))
    with pytest.raises(BadInputError, match="unknown concept 'x'; learnt so far: c0, c1, c2"):
        sequence.activate(["x"])


def test_only_adapters_are_trained(mlp: SimpleNamespace) -> None:
    model = mlp.model()
    biases = [model[k].bias.detach().clone() for k in (0, 2)]
    sequence = ConceptSequence(model, mlp.config())
    mlp.learn(sequence, "c")
    for layer, bias in zip(sequence.layers, biases, strict=True):
        assert torch.equal(layer.module.get_base_layer().bias, bias)
        assert not layer.module.get_base_layer().weight.requires_grad


@pytest.mark.parametrize("train_on", ["merged", "base"])
def test_what_later_concepts_are_trained_on(mlp: SimpleNamespace, train_on: str) -> None:
    sequence = ConceptSequence(mlp.model(), mlp.config(train_on=train_on))
    mlp.learn(sequence, "a")
    merged = sequence.layers[0].weight.clone()
    seen = [sequence.layers[0].weight.clone() for _ in sequence.learn("b", mlp.batches(1), mlp.loss)]
    expected = merged if train_on == "merged" else sequence.base["0"]
    assert all(torch.equal(W, expected) for W in seen)


def test_hooks_run_in_order_around_each_concept(mlp: SimpleNamespace) -> None:
    events: list[tuple[str, str, int]] = []
    sequence = ConceptSequence(mlp.model(), mlp.config())
    for tag in ("first", "second"):
        sequence.add_hook(
            "concept_start", lambda s, name, tag=tag: events.append((f"{tag} start", name, len(s.concepts)))
        )
        sequence.add_hook("concept_end", lambda s, name, tag=tag: events.append((f"{tag} end", name, len(s.concepts))))
    for name in "ab":
        mlp.learn(sequence, name)
    expected = [
        (f"{tag} {when}", name, k + (when == "end"))
        for k, name in enumerate("ab")
        for when in ("start", "end")
        for tag in ("first", "second")
    ]
    assert events == expected
    with pytest.raises(BadInputError, match="unknown event 'step'"):
        sequence.add_hook("step", lambda s, name: None)  # type: ignore[arg-type]


def test_extra_parameters_are_trained_stored_and_restored(mlp: SimpleNamespace, tmp_path: Any) -> None:
    token = nn.Parameter(torch.zeros(12))

    def loss(model: nn.Module, batch: Any) -> Tensor:
        return mlp.loss(model, (batch[0] + token, batch[1]))

    sequence = ConceptSequence(mlp.model(), mlp.config(), tmp_path)
    for _ in sequence.learn("broken", mlp.batches(0), loss, extra={"token": token}):
        if token.abs().max() > 0:
            break
    assert token.abs().max() == 0  # an abandoned concept leaves no trace
    list(sequence.learn("c", mlp.batches(0), loss, extra={"token": token}))
    assert token.abs().max() > 0
    again = nn.Parameter(torch.zeros(12))
    resumed = ConceptSequence(mlp.model(), mlp.config(), tmp_path)
    assert list(resumed.learn("c", mlp.batches(0), loss, extra={"token": again})) == []
    assert torch.equal(again, token)
    with pytest.raises(BadInputError, match="stored without a 'other'"):
        resumed.learn("c", mlp.batches(0), loss, extra={"other": again})


# --- what goes wrong --------------------------------------------------------------------------------------------------


def weights(sequence: ConceptSequence) -> list[Tensor]:
    return [layer.weight.clone() for layer in sequence.layers]


def test_a_loss_of_nan_is_one_line_and_harms_nothing(mlp: SimpleNamespace, tmp_path: Any) -> None:
    sequence = ConceptSequence(mlp.model(), mlp.config(), tmp_path)
    mlp.learn(sequence, "good")
    before, ((X, _),) = weights(sequence), mlp.batches(0, 1)
    output = sequence.model(X)
    calls = iter(range(100))

    def turns_bad(model: nn.Module, batch: Any) -> Tensor:
        return mlp.loss(model, batch) * (float("nan") if next(calls) > 5 else 1.0)

    with pytest.raises(NonFiniteError, match="concept 'bad': the loss is nan at step 4") as caught:
        list(sequence.learn("bad", mlp.batches(1), turns_bad))
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 3
    assert list(sequence.concepts) == ["good"]
    assert all(map(torch.equal, before, weights(sequence)))
    assert torch.equal(output, sequence.model(X))
    assert list(ConceptSequence.from_pretrained(mlp.model(), tmp_path).concepts) == ["good"]
    mlp.learn(sequence, "next", 1)  # and the sequence goes on


@pytest.mark.parametrize("cap", [None, 1.0])
def test_gradients_of_nan_are_one_line(mlp: SimpleNamespace, cap: float | None) -> None:
    sequence = ConceptSequence(mlp.model(), mlp.config(start="random", max_update_norm=cap))
    before = weights(sequence)

    def bad_gradient(model: nn.Module, batch: Any) -> Tensor:
        residual = model(batch[0]) * 0.0
        return residual.abs().sqrt().mean()  # 0 with derivative 0 * inf

    with pytest.raises(NonFiniteError, match="concept 'bad'"):
        list(sequence.learn("bad", mlp.batches(0), bad_gradient))
    assert all(map(torch.equal, before, weights(sequence)))


def test_breaking_out_restores_the_model(mlp: SimpleNamespace) -> None:
    sequence = ConceptSequence(mlp.model(), mlp.config(train_on="base"))
    mlp.learn(sequence, "a")
    before, ((X, _),) = weights(sequence), mlp.batches(1, 1)
    output = sequence.model(X)
    for step in sequence.learn("b", mlp.batches(1), mlp.loss):
        if step.index == 5:
            break
    assert list(sequence.concepts) == ["a"]
    assert all(map(torch.equal, before, weights(sequence)))
    assert torch.equal(output, sequence.model(X))


def test_an_error_in_the_loss_restores_the_model_too(mlp: SimpleNamespace) -> None:
    sequence = ConceptSequence(mlp.model(), mlp.config(start="random"))
    before = weights(sequence)

    def fails(model: nn.Module, batch: Any) -> Tensor:
        raise KeyError("pixels")

    with pytest.raises(KeyError, match="pixels"):
        list(sequence.learn("b", mlp.batches(1), fails))
    assert all(map(torch.equal, before, weights(sequence)))


def test_bad_requests_are_named(mlp: SimpleNamespace) -> None:
    sequence = ConceptSequence(mlp.model(), mlp.config())
    for hostile in ("../up", "a/b", "", ".hidden", "a\n", "a" * 101, "naïve", "a b", "c:d", "nul\0"):
        with pytest.raises(BadInputError, match="cannot be a file name"):
            sequence.learn(hostile, mlp.batches(0), mlp.loss)
    with pytest.raises(BadInputError, match="no batches"):
        list(sequence.learn("empty", [], mlp.loss))
    with pytest.raises(BadInputError, match="10 batches for 12 steps"):
        list(sequence.learn("short", mlp.batches(0), mlp.loss, steps=12))
    mlp.learn(sequence, "a")
    with pytest.raises(BadInputError, match="'a' is already learnt"):
        sequence.learn("a", mlp.batches(0), mlp.loss)
    with pytest.raises(BadInputError, match="already carries PEFT adapters"):
        ConceptSequence(sequence.model, mlp.config(target_modules=("0.base_layer",)))
    with pytest.raises(BadInputError, match="matches no layer; the model has"):
        ConceptSequence(mlp.model(), mlp.config(target_modules=("to_q",)))
    with pytest.raises(BadInputError, match=r"selects 1 \(Tanh\)"):
        ConceptSequence(mlp.model(), mlp.config(target_modules=("1",)))
    with pytest.raises(BadInputError, match="is no regular expression"):
        ConceptSequence(mlp.model(), mlp.config(target_modules="(to_q"))
    with pytest.raises(CapacityError, match="rank 13 is larger than its width 12"):
        ConceptSequence(mlp.model(), mlp.config(rank=13))


@pytest.mark.parametrize(
    ("field", "value"),
    [("rank", 0), ("rank", 2.5), ("rank", "4"), ("ridge", -1.0), ("ridge", float("nan")), ("basis", "learnt"),
     ("target_modules", ()), ("max_update_norm", 0.0), ("planned_concepts", 0), ("coefficient_learning_rate", 0.0)],
)  # fmt: skip
def test_bad_configurations_name_their_field(field: str, value: Any) -> None:
    with pytest.raises(BadInputError, match=rf"SeqLoRAConfig\.{field} is"):
        SeqLoRAConfig(**{field: value})


def test_names_that_are_endings_of_others_are_not_taken_for_them() -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict({"fc": nn.Linear(6, 6), "block": nn.ModuleDict({"fc": nn.Linear(6, 6)})})
    sequence = ConceptSequence(model, SeqLoRAConfig(rank=1, target_modules="fc"))
    assert [layer.name for layer in sequence.layers] == ["fc"]
    assert isinstance(model["block"]["fc"], nn.Linear)
