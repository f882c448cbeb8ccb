"""One resumable training loop for every model of the world.

Step s draws its batch and noise from generators seeded with (entropy, s), so nothing random has to be stored: a
training that was killed and goes on from its checkpoint takes exactly the steps it would have taken.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors import safe_open
from torch import Tensor, nn

from seqlora.errors import NonFiniteError
from seqlora.files import read_json, read_tensors, write_json, write_tensors

log = logging.getLogger("bench.world")


@dataclass(frozen=True)
class TrainingPlan:
    """How long and how fast a model learns."""

    name: str
    steps: int
    lr: float
    entropy: int
    warmup: int = 100
    decay: float = 0.3  # share of the steps, at the end, over which the rate falls to zero
    weight_decay: float = 0.01
    ema: float = 0.999
    clip: float = 1.0
    checkpoint_seconds: float = 120.0

    def rate(self, step: int) -> float:
        """Learning rate: linear warm-up, constant, then (1 - sqrt) decay over the last share of the steps."""
        warm = min(1.0, (step + 1) / self.warmup)
        start = self.steps * (1.0 - self.decay)
        cool = 1.0 - max(0.0, (step - start) / max(1.0, self.steps - start)) ** 0.5
        return self.lr * min(warm, cool)


class MasterAdamW:
    """AdamW on float32 master copies of (possibly bfloat16) weights, with an exponential moving average.

    Rounding to bfloat16 would swallow small updates; the masters keep them. State: 4 float32 copies of the weights.
    """

    def __init__(self, model: nn.Module, plan: TrainingPlan) -> None:
        self.plan = plan
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        self.names = [name for name, _ in named]
        self.weights: list[Tensor] = [p for _, p in named]
        self.masters = [p.detach().float().clone() for p in self.weights]
        self.ema = [m.clone() for m in self.masters]
        fused = all(m.device.type in ("cpu", "cuda") for m in self.masters)
        self.adam = torch.optim.AdamW(
            self.masters, lr=plan.lr, betas=(0.9, 0.99), weight_decay=plan.weight_decay, fused=fused
        )

    @torch.no_grad()
    def step(self, step: int) -> float:
        """Take one step from the gradients of the weights; return the gradient's norm before clipping."""
        for master, weight in zip(self.masters, self.weights, strict=True):
            master.grad = torch.zeros_like(master) if weight.grad is None else weight.grad.float()
            weight.grad = None
        norm = torch.nn.utils.clip_grad_norm_(self.masters, self.plan.clip)
        for group in self.adam.param_groups:
            group["lr"] = self.plan.rate(step)
        self.adam.step()
        # ema <- d ema + (1 - d) w, with d rising from 0.1 so that early averages are not dominated by the start
        decay = min(self.plan.ema, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.ema, self.masters, 1.0 - decay)
        torch._foreach_copy_(self.weights, self.masters)
        return float(norm)

    def state(self) -> dict[str, Tensor]:
        """Everything a resumed training needs, as named tensors."""
        tensors: dict[str, Tensor] = {}
        for name, master, ema in zip(self.names, self.masters, self.ema, strict=True):
            tensors[f"weight/{name}"], tensors[f"ema/{name}"] = master, ema
            for key, value in self.adam.state[master].items():
                tensors[f"{key}/{name}"] = value
        return tensors

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor]) -> None:
        """Inverse of `state`."""
        for name, weight, master, ema in zip(self.names, self.weights, self.masters, self.ema, strict=True):
            master.copy_(tensors[f"weight/{name}"])
            ema.copy_(tensors[f"ema/{name}"])
            weight.copy_(master)
            for key in ("step", "exp_avg", "exp_avg_sq"):
                value = tensors[f"{key}/{name}"]
                self.adam.state[master][key] = value if key == "step" else value.to(master.device)

    def averaged(self) -> dict[str, Tensor]:
        """The averaged weights: what is released."""
        return dict(zip(self.names, self.ema, strict=True))


def generators(entropy: int, step: int) -> tuple[np.random.Generator, torch.Generator]:
    """The generators of one step, for data (NumPy) and noise (torch, CPU)."""
    rng = np.random.default_rng([entropy, step])
    return rng, torch.Generator().manual_seed(int(rng.integers(2**62)))


LossFunction = Callable[[int, np.random.Generator, torch.Generator], Tensor]


def train(
    model: nn.Module,
    loss: LossFunction,
    plan: TrainingPlan,
    folder: Path,
    on_checkpoint: Callable[[MasterAdamW, int], None] | None = None,
) -> Iterator[tuple[int, float]]:
    """Train `model` in place, resuming from `folder` if a checkpoint lies there; yields (step, loss).

    At the end the model holds the averaged weights. Whoever stops iterating leaves the last checkpoint behind.

    Args:
        model: in training mode, on its device, in the dtype of the forward pass.
        loss: scalar loss of one step, from the step number and its generators.
        plan: length, learning rate, seeds.
        folder: gets `<name>.checkpoint.safetensors`.
        on_checkpoint: called after each checkpoint (for sample grids).

    Raises:
        NonFiniteError: the loss became NaN or infinite.
    """
    optimiser = MasterAdamW(model, plan)
    path = folder / f"{plan.name}.checkpoint.safetensors"
    start = _resume(model, optimiser, path)
    saved = time.monotonic()
    for step in range(start, plan.steps):
        value = loss(step, *generators(plan.entropy, step))
        number = float(value.detach())
        if not np.isfinite(number):
            raise NonFiniteError(f"training {plan.name}: the loss is {number} at step {step}; lower the learning rate")
        value.backward()
        optimiser.step(step)
        last = step + 1 == plan.steps
        if last or time.monotonic() - saved > plan.checkpoint_seconds:
            write_tensors(path, {**optimiser.state(), **_buffers(model)}, {"step": str(step + 1)})
            saved = time.monotonic()
            if on_checkpoint:
                on_checkpoint(optimiser, step + 1)
        yield step, number
    with torch.no_grad():
        torch._foreach_copy_(optimiser.weights, optimiser.ema)


def _buffers(model: nn.Module) -> dict[str, Tensor]:
    """What a model remembers besides its weights (running means of batch normalisation)."""
    weights = dict(model.named_parameters())
    return {f"buffer/{name}": value for name, value in model.state_dict().items() if name not in weights}


def _resume(model: nn.Module, optimiser: MasterAdamW, path: Path) -> int:
    if not path.is_file():
        return 0
    tensors = read_tensors(path)
    optimiser.load(tensors)
    for name, value in _buffers(model).items():
        value.copy_(tensors[name])
    with safe_open(str(path), framework="pt") as file:
        step = int(file.metadata()["step"])
    log.info("resuming %s at step %d", optimiser.plan.name, step)
    return step


def watch(steps: Iterator[tuple[int, float]], plan: TrainingPlan, log_file: Path, every: int = 50) -> None:
    """Run a training to its end with a progress bar (plain lines when there is no terminal).

    `log_file` gets one record every `every` steps (step, mean loss since the last record, learning rate, seconds of
    this process); a resumed training goes on in the same log.
    """
    records = [] if not log_file.is_file() else read_json(log_file)
    console = Console()
    text = (TextColumn("{task.description}"), TextColumn("{task.fields[loss]:.4f}"))
    columns = (text[0], BarColumn(), text[1], TimeRemainingColumn())
    begun, losses = time.monotonic(), []
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(plan.name, total=plan.steps, loss=float("nan"))
        for step, loss in steps:
            losses.append(loss)
            if (step + 1) % every == 0 or step + 1 == plan.steps:
                mean, elapsed = float(np.mean(losses)), round(time.monotonic() - begun, 1)
                record = {"step": step + 1, "loss": mean, "lr": plan.rate(step), "seconds": elapsed}
                records = [old for old in records if old["step"] <= step] + [record]
                write_json(log_file, records)
                if not console.is_terminal:
                    console.print(f"{plan.name} {step + 1}/{plan.steps} loss {mean:.4f} {elapsed:.0f} s")
                losses = []
            progress.update(task, completed=step + 1, loss=loss)
