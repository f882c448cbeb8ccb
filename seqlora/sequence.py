"""Learn concepts one after another; the merged model is the base weight plus a plain sum."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from seqlora import storage
from seqlora.adapters import inject, target_widths
from seqlora.bilevel import BilevelOptimizer, Level
from seqlora.capacity import check_room, plan_layers
from seqlora.config import SeqLoRAConfig
from seqlora.errors import BadInputError, NonFiniteError
from seqlora.files import check_name
from seqlora.groups import complement_projectors, group_layers, remaining_room, set_penalty
from seqlora.start import (
    Loss,
    empty_moments,
    gather_gradients,
    gather_moments,
    gather_output_moments,
    gather_sensitivities,
    moment_start,
    random_start,
    spread_start,
)
from seqlora.storage import Concept
from seqlora.stored import StoredModel

Hook = Callable[["ConceptSequence", str], None]


@dataclass(frozen=True)
class Step:
    """One optimiser step: which concept, its number, the loss before it, and which level moved."""

    concept: str
    index: int
    loss: float
    level: Level


class ConceptSequence(StoredModel):
    """Concepts learnt in sequence on any model whose linear (or 2-d convolution) layers PEFT can adapt.

    A concept is one PEFT adapter of scale 1. When it is finished its update is added to a running delta of the base
    weight, so a step costs the same for the 60th concept as for the first; the factors of every concept are kept and
    `W0 + sum B_i A_i` is rebuilt from them exactly.

    Args:
        model: moved to its device and dtype before; it is changed in place (adapters injected, all else frozen).
        config: the method and its budget.
        folder: where concepts and checkpoints are stored as they come. If it already holds a sequence of the same
            configuration, that sequence is taken up: finished concepts are loaded, `learn` skips them, and an
            interrupted one goes on from its last checkpoint, bit for bit the same on one thread.
        checkpoint_every: steps between two checkpoints of the concept being learnt.

    Raises:
        BadInputError: the pattern selects nothing, or the folder holds a sequence of another configuration.
        CapacityError: the planned concepts do not fit and the policy is "error".
    """

    def __init__(
        self, model: nn.Module, config: SeqLoRAConfig, folder: str | Path | None = None, checkpoint_every: int = 50
    ) -> None:
        self.folder = Path(folder) if folder is not None else None
        self.checkpoint_every = checkpoint_every
        widths = target_widths(model, config.target_modules)
        self.plan = plan_layers(widths, config.rank, config.planned_concepts, config.capacity, config.orthogonal)
        super().__init__(model, inject(model, self.plan), config)
        self.groups = group_layers(self.layers, self.plan)
        self._hooks: dict[str, list[Hook]] = {"concept_start": [], "concept_end": []}
        if self.folder is not None and (self.folder / storage.INDEX).exists():
            self.load(self.folder, check_config=True)

    def learn(
        self,
        name: str,
        batches: Iterable[Any],
        loss: Loss,
        *,
        steps: int | None = None,
        extra: Mapping[str, nn.Parameter] | None = None,
    ) -> Iterator[Step]:
        """Learn one concept; iterate over the result to run it. The concept counts once the iterator is exhausted.

        Args:
            name: name of the concept: letters, digits, `-`, `_`, `.`.
            batches: one batch a step. Random batches must come from a generator of their own (not torch's global
                one), so that a resumed run sees the same ones.
            loss: `loss(model, batch)` -> scalar, a mean over the batch.
            steps: number of steps; default: all batches.
            extra: further parameters of the concept, trained in the lower level and stored with it.

        Yields:
            One `Step` for each batch.

        Raises:
            BadInputError: a bad or used name, no batches, fewer batches than steps.
            CapacityError: the bases of the earlier concepts leave too little room.
            NonFiniteError: the loss became NaN or infinite; the concept is dropped, earlier ones are untouched.
        """
        check_name(name, "concept")
        extra = dict(extra or {})
        if name in self.concepts:
            if self.folder is None:
                raise BadInputError(f"concept {name!r} is already learnt; choose another name")
            self._skip(self.concepts[name], extra)
            return iter(())
        if steps is None and isinstance(batches, Sized):
            steps = len(batches)
        if self.config.schedule == "cosine" and steps is None:
            raise BadInputError("schedule='cosine' needs to know the number of steps; pass steps=")
        check_room(self.plan, {key: W0.shape[1] for key, W0 in self.base.items()}, len(self.concepts), self.config)
        return self._learn(name, batches, loss, steps, extra)

    def _learn(
        self, name: str, batches: Iterable[Any], loss: Loss, steps: int | None, extra: dict[str, nn.Parameter]
    ) -> Iterator[Step]:
        stream = iter(batches)
        head = list(itertools.islice(stream, self.config.start_batches))  # kept for the start and the moments
        if not head or (steps is not None and steps < 1):
            raise BadInputError(f"concept {name!r} has no batches; check its folder")
        for hook in self._hooks["concept_start"]:
            hook(self, name)
        checkpoint, finished = self._checkpoint_path(name), False
        before = {key: parameter.detach().clone() for key, parameter in extra.items()}
        try:
            optimizer = self._begin(name, head, loss, steps, extra)
            index = optimizer.count - 1
            for index, batch in enumerate(itertools.islice(itertools.chain(head, stream), steps)):
                if index < optimizer.count:
                    continue  # done before the interruption
                yield Step(name, index, *self._step(optimizer, batch, loss, name, index))
                if checkpoint is not None and optimizer.count % self.checkpoint_every == 0:
                    storage.write_checkpoint(checkpoint, self._setting(), *optimizer.state_dict())
            if steps is not None and index + 1 < steps:
                raise BadInputError(
                    f"concept {name!r}: {index + 1} batches for {steps} steps; give more or repeat them"
                )
            self._finish(name, head, loss, extra)
            finished = True
        except NonFiniteError as error:
            if repr(name) in str(error):
                raise
            raise NonFiniteError(f"concept {name!r}: {error}") from error
        finally:
            if not finished:  # leave the merged model as it was before this concept
                self._clear_adapter()
                self.activate()
                for key, parameter in extra.items():
                    parameter.data.copy_(before[key])
        for hook in self._hooks["concept_end"]:
            hook(self, name)

    def _step(self, optimizer: BilevelOptimizer, batch: Any, loss: Loss, name: str, index: int) -> tuple[float, Level]:
        optimizer.prepare()
        value = loss(self.model, batch)
        number = float(value.detach())
        if not np.isfinite(number):
            raise NonFiniteError(
                f"concept {name!r}: the loss is {number} at step {index}; lower the learning rates or check the images"
            )
        value.backward()
        try:
            return number, optimizer.step()
        except torch.linalg.LinAlgError as error:  # what a decomposition makes of NaN
            raise NonFiniteError(
                f"concept {name!r}: the gradients are not finite at step {index}; lower the learning rates"
            ) from error

    def _begin(
        self, name: str, head: list[Any], loss: Loss, steps: int | None, extra: Mapping[str, nn.Parameter]
    ) -> BilevelOptimizer:
        """Put the model in its starting state for this concept: weights, constraint, penalty, bases."""
        self._clear_adapter()
        self.activate(None if self.config.train_on == "merged" else ())
        past = self.past_bases()
        penalised = self.config.forgetting_weight > 0 and self.past.count > 0
        weights = self.past.penalty_weights(self.base, self.config) if penalised else {}
        metrics = self.past.output_metrics() if penalised else {}
        for group in self.groups:
            if self.config.orthogonal:
                group.projector = complement_projectors(group, past)
            if penalised:
                set_penalty(group, self.past.factors, weights, metrics)
            if self.config.max_update_norm is not None:
                group.room = remaining_room(group, self._used_output, self.config.max_update_norm)
        optimizer = BilevelOptimizer(self.groups, self.config, extra, steps)
        checkpoint = self._checkpoint_path(name)
        if checkpoint is not None and checkpoint.exists():
            state = storage.read_checkpoint(checkpoint, self.config, self._setting())
            if state is not None:
                try:
                    optimizer.load_state_dict(*state)
                except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
                    raise storage.no_checkpoint(checkpoint, error) from error
                return optimizer
        rng = np.random.default_rng([self.config.seed, len(self.concepts)])
        moments: dict[str, Tensor] = {}
        gradients: dict[str, Tensor] = {}
        if self.config.start == "moments":
            with self._aside():
                moments, gradients = gather_gradients(self.model, self.layers, head, loss)
        for group in self.groups:
            if group.mode == "spread":
                planned = self.config.planned_concepts or 1
                A = spread_start(group, len(self.concepts), planned, self.config.seed)
            elif self.config.start == "moments":
                A = moment_start(group, moments, gradients, past, self.config.start_damping)
            else:
                A = random_start(group, past, rng)
            group.set_bases(A)
        return optimizer

    def _finish(self, name: str, head: list[Any], loss: Loss, extra: Mapping[str, nn.Parameter]) -> None:
        """Polish the bases, fold the update into the weights, remember the layer's moments, store all."""
        past, factors = self.past_bases(), {}
        for group in self.groups:
            if self.config.basis != "free":
                group.polish(past)
            for index, layer in enumerate(group.names):
                # In main memory, whatever the device of the model: a restart reads them there, too.
                A, B = group.A.data[index].cpu().clone(), group.B.data[index].cpu().clone()
                if not bool(torch.isfinite(A).all() and torch.isfinite(B).all()):
                    raise NonFiniteError(f"concept {name!r}: the factors of {layer} are not finite; lower the rates")
                factors[layer] = (A, B)
        values = {key: parameter.detach().clone() for key, parameter in extra.items()}
        self._clear_adapter()
        self.adopt(Concept(name, factors, values, torch.get_rng_state()))
        if self.config.train_on == "base":
            self.activate([name])
        if self.config.keeps_moments:
            self.remember(head, loss)
        self.activate()
        if self.folder is not None:
            self.save_pretrained(self.folder)
            checkpoint = self._checkpoint_path(name)
            if checkpoint is not None:
                checkpoint.unlink(missing_ok=True)

    def remember(self, batches: Iterable[Any], loss: Loss, name: str = "") -> None:
        """Add the layers' second moments on `batches` to what the forgetting penalty protects.

        Called for every finished concept; call it with generic prompts to protect the base model as well. With a
        `name`, which is stored with the next concept, a second call (of a script that was started again) does nothing.
        """
        if name and name in self.past.names:
            return
        seen = (self.model, self.layers, list(batches), loss)
        sensitivities, output_moments = dict.fromkeys(self.base, 1.0), dict[str, Tensor]()
        with self._aside():
            if self.config.forgetting_scale == "gradient":
                moments = empty_moments(self.layers, self.config)
                sensitivities = gather_sensitivities(*seen, moments)
            elif self.config.forgetting_scale == "kronecker":
                moments = empty_moments(self.layers, self.config)
                output_moments = gather_output_moments(*seen, moments)
                sensitivities = {layer: float(G.diagonal().mean()) for layer, G in output_moments.items()}
            else:
                moments = gather_moments(*seen, self.config)
        self.past.add(moments, sensitivities, self.config, name, output_moments)

    @classmethod
    def from_pretrained(cls, model: nn.Module, folder: str | Path) -> ConceptSequence:
        """Take up a stored sequence on its base model; the configuration comes from the folder.

        Raises:
            StoredFileError: files missing, truncated, altered, of another schema, or for another model.
        """
        folder = Path(folder)
        sequence = cls(model, SeqLoRAConfig.from_json(storage.read_index(folder)["config"]))
        sequence.load(folder, check_config=False)
        return sequence

    def add_hook(self, event: Literal["concept_start", "concept_end"], hook: Hook) -> None:
        """Call `hook(sequence, name)` before or after every concept that is learnt (not for those taken up)."""
        if event not in self._hooks:
            raise BadInputError(f"unknown event {event!r}; use 'concept_start' or 'concept_end'")
        self._hooks[event].append(hook)

    def _clear_adapter(self) -> None:
        for group in self.groups:
            group.B.data.zero_()
            group.require_basis_gradient(False)

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """Draw random numbers without moving the global generator: from a state that depends on the concept only."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(
                int(
                    np.random.SeedSequence([self.config.seed, self.past.count, len(self.concepts)]).generate_state(1)[0]
                )
            )
            yield

    def _setting(self) -> dict[str, Any]:
        """What a checkpoint is valid for: the configuration and the concepts before it."""
        return {"config": self.config.to_json(), "past": list(self.concepts)}

    def _checkpoint_path(self, name: str) -> Path | None:
        return self.folder / "partial" / f"{name}.safetensors" if self.folder is not None else None

    def _skip(self, concept: Concept, extra: Mapping[str, nn.Parameter]) -> None:
        """Leave parameters and torch's generator as they were when `concept` was finished."""
        for key, parameter in extra.items():
            if key not in concept.extra or concept.extra[key].shape != parameter.shape:
                raise BadInputError(f"concept {concept.name!r} was stored without a {key!r} of this shape")
            parameter.data.copy_(concept.extra[key])
        if concept.random_state is not None:
            torch.set_rng_state(concept.random_state)
