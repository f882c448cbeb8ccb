"""Every choice of the method in one frozen, validated object."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args, get_type_hints

import torch

from seqlora.errors import BadInputError

CapacityPolicy = Literal["error", "shrink", "spread", "penalise"]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _option(default: Any, text: str) -> Any:
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata={"help": text})
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class SeqLoRAConfig:
    """How concepts are learnt. The defaults are SeqLoRA as reconstructed; the rest are its ablations and rivals.

    Raises:
        BadInputError: a value outside its range, or choices that exclude each other.
    """

    rank: int = _option(4, "directions r of each concept in each layer")
    target_modules: str | tuple[str, ...] = _option(
        ("to_q", "to_k", "to_v", "to_out.0"), "layers to adapt: a regular expression, or name endings (as in PEFT)"
    )
    ridge: float = _option(1e-3, "weight of ‖B‖^2 / 2 in the lower level")
    forgetting_weight: float = _option(0.0, "weight gamma of the forgetting that a new adapter causes; 0: no penalty")
    forgetting_scale: Literal["output", "gradient", "kronecker", "none"] = _option(
        "output",
        "output: each layer's penalty relative to its mean output energy, averaged over layers; gradient: layers "
        "weighed by how much the past losses react to their outputs, relative to the same sum for the base weights; "
        "kronecker: the same for every direction of a layer's outputs (K-FAC)",
    )
    inner_steps: int = _option(4, "steps on B between two steps on A; 0: both in every step")
    basis: Literal["learned", "frozen", "free"] = _option(
        "learned", "A by Riemannian steps, kept at its start, or trained like B without constraint (plain LoRA)"
    )
    orthogonal: bool = _option(True, "keep every basis orthogonal to all earlier ones")
    start: Literal["moments", "random"] = _option(
        "moments", "start of A: closed form from activation and gradient moments, or random"
    )
    start_batches: int = _option(8, "batches, buffered from the first ones, for the start and for the moments")
    start_damping: float = _option(1.0, "ridge of the start, relative to the mean activation energy per direction")
    train_on: Literal["merged", "base"] = _option(
        "merged", "learn each concept on top of the earlier ones, or independently on the base model"
    )
    coefficient_optimizer: str = _option("AdamW", "name of a torch.optim class for B")
    coefficient_learning_rate: float = _option(1e-3, "its learning rate")
    coefficient_options: Mapping[str, Any] = _option({"weight_decay": 0.0}, "its further arguments")
    basis_learning_rate: float = _option(1e-2, "length of a step on A, in radians per direction")
    extra_learning_rate: float = _option(1e-2, "learning rate of the extra parameters of a concept (token embeddings)")
    schedule: Literal["constant", "cosine"] = _option("constant", "decay of all learning rates over a concept")
    capacity: CapacityPolicy = _option("error", "what happens where the bases of all concepts do not fit (claim C6)")
    planned_concepts: int | None = _option(None, "number of concepts to come; lets the policy act before training")
    max_update_norm: float | None = _option(None, "cap on ‖[B_1 ... B_T]‖_op in every layer (claim C4)")
    record_moments: bool = _option(False, "keep second moments of past concepts even without a penalty")
    moments: Literal["exact", "sketch"] = _option("exact", "n x n second moments, or a frequent-directions sketch")
    sketch_size: int = _option(64, "rows of the sketch")
    seed: int = _option(0, "seed of random bases")

    def __post_init__(self) -> None:
        if isinstance(self.target_modules, list):
            object.__setattr__(self, "target_modules", tuple(self.target_modules))
        self._check_choices()
        for name in ("rank", "start_batches", "sketch_size", "inner_steps", "seed"):
            self._require(type(getattr(self, name)) is int, name, "a whole number")
        for name in ("rank", "start_batches", "sketch_size"):
            self._require(getattr(self, name) >= 1, name, "at least 1")
        for name in ("ridge", "forgetting_weight", "inner_steps", "start_damping", "seed"):
            self._require(_is_number(value := getattr(self, name)) and value >= 0, name, "finite and not negative")
        for name in ("coefficient_learning_rate", "basis_learning_rate", "extra_learning_rate"):
            self._require(_is_number(value := getattr(self, name)) and value > 0, name, "finite and positive")
        self._require(bool(self.target_modules), "target_modules", "a pattern or a list of names")
        planned, cap = self.planned_concepts, self.max_update_norm
        self._require(planned is None or (type(planned) is int and planned >= 1), "planned_concepts", "at least 1")
        self._require(cap is None or (_is_number(cap) and cap > 0), "max_update_norm", "finite and positive")
        optimizer = getattr(torch.optim, str(self.coefficient_optimizer), None)
        known = isinstance(optimizer, type) and issubclass(optimizer, torch.optim.Optimizer)
        # LBFGS evaluates the loss many times a step, SparseAdam takes sparse gradients: neither fits one backward pass.
        known = known and self.coefficient_optimizer not in ("Optimizer", "LBFGS", "SparseAdam")
        self._require(known, "coefficient_optimizer", "a torch.optim class of one dense gradient a step, e.g. 'AdamW'")
        penalised = self.forgetting_weight > 0
        self._require(self.capacity != "penalise" or penalised, "forgetting_weight", "positive for capacity='penalise'")
        early = self.capacity == "error" or self.planned_concepts is not None
        self._require(early, "planned_concepts", f"given: capacity={self.capacity!r} decides before training")

    def _check_choices(self) -> None:
        for name, hint in get_type_hints(type(self)).items():
            choices = get_args(hint)
            if choices and all(isinstance(choice, str) for choice in choices):
                self._require(getattr(self, name) in choices, name, f"one of {', '.join(choices)}")

    def _require(self, condition: bool, name: str, expected: str) -> None:
        if not condition:
            raise BadInputError(f"SeqLoRAConfig.{name} is {getattr(self, name)!r}; it must be {expected}")

    @property
    def keeps_moments(self) -> bool:
        """Whether second moments of past concepts are accumulated."""
        return self.record_moments or self.forgetting_weight > 0

    def to_json(self) -> dict[str, Any]:
        """The configuration as JSON values."""
        return {**asdict(self), "coefficient_options": dict(self.coefficient_options)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> SeqLoRAConfig:
        """The inverse of `to_json`; unknown fields are refused with the list of known ones."""
        unknown = sorted(set(values) - {entry.name for entry in fields(cls)})
        if unknown:
            raise BadInputError(f"SeqLoRAConfig has no field {unknown[0]!r}; see SeqLoRAConfig.describe()")
        return cls(**values)

    @classmethod
    def describe(cls) -> str:
        """One line a field: name, default, meaning."""
        lines = []
        for entry in fields(cls):
            default = getattr(cls(), entry.name)
            lines.append(f"{entry.name} = {default!r}: {entry.metadata['help']}")
        return "\n".join(lines)
