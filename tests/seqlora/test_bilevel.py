"""The two levels: gradients, the envelope theorem, the exact optimum of a linear layer, the cap, the modes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from seqlora import ConceptSequence, SeqLoRAConfig, solve_linear
from seqlora.adapters import inject
from seqlora.bilevel import BilevelOptimizer
from seqlora.capacity import LayerPlan
from seqlora.errors import BadInputError
from seqlora.groups import LayerGroup, group_layers

n, m, r = 9, 5, 2


def linear_group(seed: int = 0) -> LayerGroup:
    """Two float64 layers of one shape, with random factors, past moments and weights."""
    torch.manual_seed(seed)
    model = nn.ModuleDict({"a": nn.Linear(n, m, bias=False), "b": nn.Linear(n, m, bias=False)}).double()
    plan = {"a": LayerPlan(r), "b": LayerPlan(r)}
    (group,) = group_layers(inject(model, plan), plan)
    group.set_bases(torch.linalg.qr(torch.randn(2, n, r, dtype=torch.float64)).Q.mT)
    group.B.data.normal_()
    group.past_factor = torch.randn(2, 4, n, dtype=torch.float64)
    group.penalty_weight = torch.tensor([0.7, 1.9], dtype=torch.float64)
    return group


@pytest.mark.parametrize("weighed", [False, True], ids=["outputs alike", "outputs weighed"])
def test_gradients_of_the_regularisation_equal_autograd(weighed: bool) -> None:
    group, ridge = linear_group(), 0.3
    H = torch.eye(m, dtype=torch.float64).expand(2, m, m)
    if weighed:
        roots = torch.randn(2, m, m, dtype=torch.float64)
        group.output_metric = H = roots @ roots.mT
    A, B = group.A.detach().clone().requires_grad_(), group.B.detach().clone().requires_grad_()
    assert group.past_factor is not None
    assert group.penalty_weight is not None
    S_past = group.past_factor.mT @ group.past_factor
    BA = B @ A
    penalty = (group.penalty_weight * torch.einsum("lpm,lmn,lnk,lpk->l", H, BA, S_past, BA)).sum() / 2
    (ridge / 2 * B.square().sum() + penalty).backward()
    group.zero_grad()
    group.add_regularisation(ridge, with_basis=True)
    np.testing.assert_allclose(group.B.grad, B.grad, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(group.A.grad, A.grad, rtol=1e-12, atol=1e-12)


def test_the_envelope_theorem() -> None:
    """At B* the partial derivative in A is the derivative of the value function: finite differences agree.

    The control takes the same partial derivative at a B that is not the minimiser, and is wrong.
    """
    group, ridge = linear_group(), 0.3
    rng = torch.Generator().manual_seed(1)
    X = torch.randn(2, n, 30, generator=rng, dtype=torch.float64)
    Y = torch.randn(2, m, 30, generator=rng, dtype=torch.float64)
    assert group.past_factor is not None
    assert group.penalty_weight is not None
    S_past = group.penalty_weight[:, None, None] * group.past_factor.mT @ group.past_factor
    M = X @ X.mT / 30 + S_past

    def best(A: Tensor) -> Tensor:
        return Y @ X.mT @ A.mT / 30 @ torch.linalg.inv(A @ M @ A.mT + ridge * torch.eye(r, dtype=A.dtype))

    def value(A: Tensor) -> float:
        B = best(A)
        fit = (Y - B @ A @ X).square().sum() / 30
        penalty = torch.einsum("lmn,lnk,lmk->", B @ A, S_past, B @ A)
        return float(0.5 * (fit + ridge * B.square().sum() + penalty))

    def partial(B: Tensor) -> Tensor:
        group.B.data.copy_(B)
        group.zero_grad()
        group.A.requires_grad_(True)
        fit = 0.5 * (Y - group.B @ group.A @ X).square().sum() / 30
        fit.backward()
        group.add_regularisation(ridge, with_basis=True)
        assert group.A.grad is not None
        return group.A.grad.clone()

    A = group.A.detach().clone()
    direction = torch.randn(A.shape, generator=rng, dtype=A.dtype)
    h = 1e-5
    slope = (value(A + h * direction) - value(A - h * direction)) / (2 * h)
    at_best = float((partial(best(A)) * direction).sum())
    elsewhere = float((partial(best(A) + 0.3) * direction).sum())
    assert at_best == pytest.approx(slope, rel=1e-7)
    assert elsewhere != pytest.approx(slope, rel=1e-2)


def objective_layer(seed: int, past: bool) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, 200)) * np.arange(1, n + 1)[:, None] ** -0.5
    Z = rng.standard_normal((n, 100)) if past else np.zeros((n, 1))
    return {"X": X, "Y": rng.standard_normal((m, n)) @ X, "Z": Z}


@pytest.mark.parametrize(
    ("gamma", "start"),
    [
        (0.0, "moments"),
        (2.0, "random"),
        pytest.param(0.0, "random", marks=pytest.mark.slow),
        pytest.param(2.0, "moments", marks=pytest.mark.slow),
    ],
)
def test_a_sequence_reaches_the_closed_form_on_a_linear_layer(gamma: float, start: str) -> None:
    """Squared loss on nn.Linear: after enough steps the second concept is at solve_linear's optimum."""
    ridge, steps = 0.05, 800
    first, second = objective_layer(0, past=False), objective_layer(1, past=True)
    model = nn.Sequential(nn.Linear(n, m, bias=False)).double()
    config = SeqLoRAConfig(
        rank=r,
        target_modules=("0",),
        ridge=ridge,
        forgetting_weight=gamma,
        forgetting_scale="none",
        start=start,
        start_batches=1,
        schedule="cosine",
        coefficient_learning_rate=0.05,
        basis_learning_rate=0.1,
        record_moments=True,
    )

    def loss(net: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return 0.5 * (net(batch[0]) - batch[1]).square().sum(1).mean()

    sequence = ConceptSequence(model, config)
    for name, data in (("first", first), ("second", second)):
        X = torch.from_numpy(data["X"])
        target = torch.from_numpy(data["Y"]).mT
        target = target + X.mT @ sequence.base["0"].mT
        if name == "second":
            A_1, B_1 = (factor.numpy() for factor in sequence.concepts["first"].factors["0"])
        list(sequence.learn(name, [(X.mT, target)] * steps, loss))
    A, B = (factor.numpy() for factor in sequence.concepts["second"].factors["0"])
    wanted = second["Y"] - B_1 @ A_1 @ second["X"]  # what the first concept leaves to do
    S_past = first["X"] @ first["X"].T / 200
    exact = solve_linear(second["X"], wanted, r, ridge, gamma, A_1, S_past)
    reached = 0.5 * (
        np.sum((wanted - B @ A @ second["X"]) ** 2) / 200
        + ridge * np.sum(B**2)
        + gamma * np.trace(B @ A @ S_past @ A.T @ B.T)
    )
    constant = 0.5 * np.sum(wanted**2) / 200
    assert reached >= float(exact.value) - 1e-12
    assert reached - float(exact.value) <= 1e-4 * (constant - float(exact.value))
    random = np.linalg.qr(np.random.default_rng(0).standard_normal((n, r)))[0].T
    assert float(exact.value) < 0.98 * constant  # there is something to gain
    assert np.abs(A @ A_1.T).max() < 1e-12 < np.abs(random @ A_1.T).max()


@pytest.mark.parametrize("cap", [0.05, 0.4])
def test_the_cap_holds_and_binds(mlp: SimpleNamespace, cap: float) -> None:
    def largest(limit: float | None) -> float:
        model = mlp.model()
        sequence = ConceptSequence(model, mlp.config(max_update_norm=limit, coefficient_learning_rate=0.1))
        for concept in range(3):
            for _ in sequence.learn(f"c{concept}", mlp.batches(concept), mlp.loss):
                for group in sequence.groups:
                    earlier = [c.factors for c in sequence.concepts.values()]
                    for index, name in enumerate(group.names):
                        B = torch.cat([*(f[name][1] for f in earlier), group.B.data[index]], 1)
                        if limit is not None:
                            assert float(torch.linalg.matrix_norm(B, 2)) <= limit * (1 + 1e-5)
        stacks = [torch.cat([c.factors[k][1] for c in sequence.concepts.values()], 1) for k in ("0", "2")]
        return max(float(torch.linalg.matrix_norm(B, 2)) for B in stacks)

    assert largest(cap) == pytest.approx(cap, rel=1e-4)  # used up
    assert largest(None) > 1.5 * cap  # and exceeded without it


def moved(mlp: SimpleNamespace, **changes: Any) -> list[tuple[str, bool, bool]]:
    """(level, A moved, B moved) for each step."""
    sequence = ConceptSequence(mlp.model(), mlp.config(**changes))
    result, before = [], None
    for step in sequence.learn("c", mlp.batches(0, 9), mlp.loss):
        now = [(g.A.data.clone(), g.B.data.clone()) for g in sequence.groups]
        if before is not None:
            changed = [
                not all(torch.equal(old[k], new[k]) for old, new in zip(before, now, strict=True)) for k in (0, 1)
            ]
            result.append((step.level, changed[0], changed[1]))
        before = now
    return result


@pytest.mark.parametrize("basis", ["learned", "free"])
def test_bases_move_every_k_plus_first_step(mlp: SimpleNamespace, basis: str) -> None:
    steps = moved(mlp, basis=basis, inner_steps=2)
    assert steps == [("both", True, True) if k % 3 == 2 else ("lower", False, True) for k in range(1, 9)]
    assert moved(mlp, basis=basis, inner_steps=0) == [("both", True, True)] * 8


def test_frozen_bases_never_move(mlp: SimpleNamespace) -> None:
    assert moved(mlp, basis="frozen", inner_steps=0) == [("lower", False, True)] * 8


def test_free_bases_leave_the_manifold_and_learned_ones_do_not(mlp: SimpleNamespace) -> None:
    defect = {}
    for basis in ("learned", "free"):
        sequence = ConceptSequence(mlp.model(), mlp.config(basis=basis, orthogonal=basis == "learned", inner_steps=0))
        mlp.learn(sequence, "c")
        A = sequence.concepts["c"].factors["0"][0]
        defect[basis] = float((A @ A.mT - torch.eye(2)).abs().max())
    assert defect["learned"] < 1e-6 < 1e-3 < defect["free"]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("SGD", {}),
        ("SGD", {"momentum": 0.9}),
        ("Adam", {"amsgrad": True}),
        ("AdamW", {"weight_decay": 0.0}),
        ("RMSprop", {}),
        ("Adagrad", {}),
    ],
)
def test_any_optimiser_learns_and_resumes(
    mlp: SimpleNamespace, name: str, options: dict[str, Any], tmp_path: Any
) -> None:
    config = mlp.config(coefficient_optimizer=name, coefficient_options=options, schedule="cosine")
    whole = ConceptSequence(mlp.model(), config)
    losses = [step.loss for step in mlp.learn(whole, "c", count=30)]
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    halted = ConceptSequence(mlp.model(), config, tmp_path, checkpoint_every=7)
    for step in halted.learn("c", mlp.batches(0, 30), mlp.loss):
        if step.index == 17:
            break
    resumed = ConceptSequence(mlp.model(), config, tmp_path, checkpoint_every=7)
    steps = mlp.learn(resumed, "c", count=30)
    assert steps[0].index == 14
    for layer in ("0", "2"):
        for ours, theirs in zip(whole.concepts["c"].factors[layer], resumed.concepts["c"].factors[layer], strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", ["LBFGS", "SparseAdam", "Optimizer", "nonsense"])
def test_optimisers_that_cannot_work_are_refused(mlp: SimpleNamespace, name: str) -> None:
    with pytest.raises(BadInputError, match="coefficient_optimizer"):
        mlp.config(coefficient_optimizer=name)


def test_unknown_options_are_named(mlp: SimpleNamespace) -> None:
    sequence = ConceptSequence(mlp.model(), mlp.config(coefficient_options={"wieght_decay": 0.0}))
    with pytest.raises(BadInputError, match="do not suit AdamW"):
        BilevelOptimizer(sequence.groups, sequence.config)
