"""The bilevel optimiser: K steps on the coefficients B, then one Riemannian step on the bases A.

    lower:  B*(A) = argmin_B  loss(A, B) + ridge/2 ‖B‖^2 + w/2 tr(B A S_past A^T B^T)
    upper:  min over A, A A^T = I, A orthogonal to all earlier bases, of the same objective at B*(A)

Both levels share one objective, so by the envelope theorem the upper gradient at B* is the plain partial derivative:
no second-order terms and no unrolling. Stopping after K inner steps leaves an error that decays linearly in K (C5).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from seqlora.config import SeqLoRAConfig
from seqlora.errors import BadInputError
from seqlora.groups import LayerGroup
from seqlora.stiefel import RiemannianAdam

Level = Literal["lower", "both"]  # B moves in every step: its gradient comes with that of A


class BilevelOptimizer:
    """Steps on stacked LoRA factors; call `prepare`, run forward and backward, then `step`.

    Args:
        groups: the layers, stacked.
        config: learning rates, inner steps, ridge.
        extra: further parameters of the concept (token embeddings), part of the lower level.
        steps: length of the run, needed by the cosine schedule.
    """

    def __init__(
        self,
        groups: Sequence[LayerGroup],
        config: SeqLoRAConfig,
        extra: Mapping[str, nn.Parameter] | None = None,
        steps: int | None = None,
    ) -> None:
        self.groups = groups
        self.config = config
        self.extra = list((extra or {}).values())
        self.steps = steps
        self.count = 0
        trained = [group.B for group in groups]
        if config.basis == "free":
            trained += [group.A for group in groups]
        parameter_groups: list[dict[str, Any]] = [{"params": trained, "lr": config.coefficient_learning_rate}]
        if self.extra:
            parameter_groups.append({"params": self.extra, "lr": config.extra_learning_rate})
        make = getattr(torch.optim, config.coefficient_optimizer)
        try:
            self.lower = make(parameter_groups, lr=config.coefficient_learning_rate, **config.coefficient_options)
        except (TypeError, ValueError) as error:
            raise BadInputError(f"coefficient_options do not suit {config.coefficient_optimizer}: {error}") from error
        self.rates = [entry["lr"] for entry in self.lower.param_groups]
        self.upper = [RiemannianAdam.for_bases(group.A.detach()) for group in groups]

    @property
    def moves_bases(self) -> bool:
        """Whether the coming step needs the gradient of A: every (K + 1)-th one, when B has had its K steps."""
        cycle = self.config.inner_steps + 1
        return self.config.basis != "frozen" and self.count % cycle == cycle - 1

    def prepare(self) -> None:
        """Clear gradients, and ask for those of A only where the coming step uses them."""
        for group in self.groups:
            group.zero_grad()
            group.require_basis_gradient(self.moves_bases and group.mode != "spread")
        for parameter in self.extra:
            parameter.grad = None

    def step(self) -> Level:
        """Use the gradients of one backward pass; returns which levels moved."""
        moves_bases, factor = self.moves_bases, self._decay()
        for entry, rate in zip(self.lower.param_groups, self.rates, strict=True):
            entry["lr"] = rate * factor
        hidden = []
        for group, upper in zip(self.groups, self.upper, strict=True):
            group.add_regularisation(self.config.ridge, with_basis=moves_bases)
            if moves_bases and self.config.basis == "learned" and group.mode != "spread":
                assert group.A.grad is not None
                upper.step(group.A.data, group.A.grad, group.projector, self.config.basis_learning_rate * factor)
            if self.config.basis == "free" and not moves_bases:  # alternation: A waits for its turn
                hidden.append((group.A, group.A.grad))
                group.A.grad = None
        self.lower.step()
        for parameter, gradient in hidden:
            parameter.grad = gradient
        for group in self.groups:
            group.clip_to_cap()
        self.count += 1
        return "both" if moves_bases else "lower"

    def _decay(self) -> float:
        if self.config.schedule == "constant" or self.steps is None:
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * min(self.count / self.steps, 1.0)))

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that a resumed run needs: tensors, and JSON values."""
        tensors: dict[str, Tensor] = {}
        scalars: dict[str, Any] = {"count": self.count, "lower": {}}
        for index, entry in self.lower.state_dict()["state"].items():
            for key, value in entry.items():
                if isinstance(value, Tensor):
                    tensors[f"lower.{index}.{key}"] = value
                else:
                    scalars["lower"][f"{index}.{key}"] = value
        for g, (group, upper) in enumerate(zip(self.groups, self.upper, strict=True)):
            tensors[f"A.{g}"], tensors[f"B.{g}"] = group.A.data, group.B.data
            tensors[f"upper.{g}.mean"], tensors[f"upper.{g}.scale"] = upper.mean, upper.scale
        scalars["upper_counts"] = [upper.count for upper in self.upper]
        for g, parameter in enumerate(self.extra):
            tensors[f"extra.{g}"] = parameter.data
        return tensors, scalars

    def load_state_dict(self, tensors: Mapping[str, Tensor], scalars: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`, in place."""
        self.count = scalars["count"]
        state: dict[int, dict[str, Any]] = {}
        for key, value in [*tensors.items(), *((f"lower.{k}", v) for k, v in scalars["lower"].items())]:
            kind, _, rest = key.partition(".")
            if kind == "lower":
                index, _, name = rest.partition(".")
                state.setdefault(int(index), {})[name] = value.clone() if isinstance(value, Tensor) else value
        self.lower.load_state_dict({**self.lower.state_dict(), "state": state})
        targets = {f"extra.{g}": parameter.data for g, parameter in enumerate(self.extra)}
        for g, (group, upper) in enumerate(zip(self.groups, self.upper, strict=True)):
            targets |= {f"A.{g}": group.A.data, f"B.{g}": group.B.data}
            targets |= {f"upper.{g}.mean": upper.mean, f"upper.{g}.scale": upper.scale}
            upper.count = scalars["upper_counts"][g]
        for key, target in targets.items():
            if tensors[key].shape != target.shape:  # copying would broadcast
                raise ValueError(f"{key} has shape {tuple(tensors[key].shape)}, not {tuple(target.shape)}")
            target.copy_(tensors[key])
