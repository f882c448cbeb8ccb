"""The only file that knows PEFT and diffusers: find layers, inject adapters, watch them, export a LoRA folder."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import cast_adapter_dtype, check_target_module_exists
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from seqlora.capacity import LayerPlan
from seqlora.errors import BadInputError
from seqlora.files import write_tensors

ADAPTER = "seqlora"  # PEFT name of the concept being learnt; finished ones are folded into the weights


@dataclass(frozen=True)
class AdaptedLayer:
    """One PEFT LoRA layer seen as matrices: W (m, n), A (r, n), B (m, r), whatever the module's own layout is."""

    name: str
    module: LoraLayer

    @cached_property
    def weight(self) -> Tensor:
        """Base weight as an (m, n) view; writing to it changes the model (as long as its storage is not replaced)."""
        return _as_matrix(self.module.get_base_layer())

    @property
    def A(self) -> nn.Parameter:
        """PEFT's lora_A, shape (r, n) for linear layers, (r, in, k, k) for convolutions."""
        return cast(nn.Parameter, self.module.lora_A[ADAPTER].weight)

    @property
    def B(self) -> nn.Parameter:
        """PEFT's lora_B."""
        return cast(nn.Parameter, self.module.lora_B[ADAPTER].weight)

    def input_rows(self, value: Tensor) -> Tensor:
        """The layer's input as rows that W multiplies, see `input_rows`."""
        return input_rows(self.module.get_base_layer(), value)

    def output_rows(self, value: Tensor) -> Tensor:
        """The layer's output (or its gradient) as rows, shape (N, m)."""
        if isinstance(self.module.get_base_layer(), nn.Conv2d):
            return value.flatten(2).mT.reshape(-1, value.shape[1])
        return value.reshape(-1, value.shape[-1])


def input_rows(layer: nn.Module, value: Tensor) -> Tensor:
    """The input of a plain layer as rows that its weight matrix multiplies, (N, n): tokens, or patches of an image."""
    if isinstance(layer, nn.Conv2d):
        padded = F.pad(value, layer._reversed_padding_repeated_twice)  # also right for padding="same"
        patches = F.unfold(padded, layer.kernel_size, layer.dilation, 0, layer.stride)  # type: ignore[arg-type]
        return patches.mT.reshape(-1, patches.shape[1])
    return value.reshape(-1, value.shape[-1])


def target_widths(model: nn.Module, target_modules: str | Sequence[str]) -> dict[str, int]:
    """Layers that the pattern selects and their input widths n.

    Raises:
        BadInputError: the pattern matches nothing, or a layer that cannot be adapted.
    """
    targets = target_modules if isinstance(target_modules, str) else list(target_modules)
    try:
        config = LoraConfig(target_modules=targets)
        matches = {n: m for n, m in model.named_modules() if n and check_target_module_exists(config, n)}
    except re.error as error:
        raise BadInputError(f"target_modules {target_modules!r} is no regular expression: {error}") from error
    for name, module in matches.items():
        plain_convolution = isinstance(module, nn.Conv2d) and module.groups == 1 and module.padding_mode == "zeros"
        if not isinstance(module, nn.Linear | Conv1D) and not plain_convolution:
            raise BadInputError(
                f"target_modules selects {name} ({type(module).__name__}); only linear layers and ungrouped, "
                "zero-padded 2-d convolutions can be adapted"
            )
        if isinstance(module, nn.Conv2d) and not module.weight.is_contiguous():
            raise BadInputError(f"{name} is in channels_last layout; convert it to torch.contiguous_format first")
    if not matches:
        examples = [n for n, m in model.named_modules() if isinstance(m, nn.Linear)][:3]
        raise BadInputError(f"target_modules {target_modules!r} matches no layer; the model has e.g. {examples}")
    return {name: _as_matrix(module).shape[1] for name, module in matches.items()}


def exactly(names: Iterable[str]) -> str:
    """Pattern that selects these layers and no other whose name merely ends alike (as PEFT's lists of names do)."""
    return "|".join(re.escape(name) for name in names)


def inject(model: nn.Module, plan: Mapping[str, LayerPlan]) -> list[AdaptedLayer]:
    """Give every planned layer a PEFT adapter of scale 1 (`lora_alpha = r`), B = 0; all else is frozen."""
    if any(isinstance(module, LoraLayer) for module in model.modules()):
        raise BadInputError("the model already carries PEFT adapters; merge or unload them first")
    ranks = {name: entry.rank for name, entry in plan.items()}
    rank = max(ranks.values())
    # PEFT matches patterns against name endings, longest first here so that no name is taken for another's ending.
    pattern = {re.escape(name): ranks[name] for name in sorted(ranks, key=len, reverse=True)}
    config = LoraConfig(
        r=rank, lora_alpha=rank, target_modules=exactly(plan), rank_pattern=pattern, alpha_pattern=dict(pattern)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT warns that no model card can be written for a bare module
        inject_adapter_in_model(config, model, ADAPTER)
    cast_adapter_dtype(model, ADAPTER)  # factors of half-precision layers in float32: bases must be orthogonal to 1e-6
    modules = dict(model.named_modules())
    return [AdaptedLayer(name, modules[name]) for name in plan]


@contextmanager
def recording(
    layers: Sequence[AdaptedLayer],
    on_input: Callable[[AdaptedLayer, Tensor], None],
    on_gradient: Callable[[AdaptedLayer, Tensor, Tensor], None] | None = None,
) -> Iterator[None]:
    """Hand each layer's input rows (N, n) to `on_input` and, in the backward pass, input and output-gradient rows.

    Hooks are removed when the block ends, however it ends.
    """
    handles = []

    def watch(layer: AdaptedLayer) -> Callable[..., None]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            rows = layer.input_rows(inputs[0].detach())
            on_input(layer, rows)
            if on_gradient is not None and output.requires_grad:
                output.register_hook(lambda grad: on_gradient(layer, rows, layer.output_rows(grad)))

        return hook

    try:
        for layer in layers:
            module = cast(nn.Module, layer.module)
            handles.append(module.register_forward_hook(watch(layer)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def pad_rank(factors: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, tuple[Tensor, Tensor]]:
    """The same updates with zero directions added to narrow layers, so that one rank (and scale 1) holds everywhere."""
    rank = max((A.shape[0] for A, _ in factors.values()), default=0)
    return {
        name: (F.pad(A, (0, 0, 0, rank - A.shape[0])), F.pad(B, (0, rank - A.shape[0])))
        for name, (A, B) in factors.items()
    }


def export_lora(
    folder: str | Path, factors: Mapping[str, tuple[Tensor, Tensor]], layers: Sequence[AdaptedLayer], prefix: str
) -> None:
    """Write one concept as a LoRA folder that `PeftModel.from_pretrained` and diffusers' `load_lora_weights` read.

    Narrow layers of lower rank are padded with zero rows, so that one rank and scale 1 hold everywhere.

    Args:
        folder: created if missing.
        factors: layer name -> (A (r, n), B (m, r)).
        layers: the layers of the model, for the shapes that PEFT expects.
        prefix: what diffusers puts before the layer names ("unet"), "" if the names already start so.
    """
    folder = Path(folder)
    shapes = {layer.name: (layer.A.shape[1:], layer.B.shape[2:]) for layer in layers}
    state: dict[str, Tensor] = {}
    for name, (A, B) in pad_rank(factors).items():
        tail_A, tail_B = shapes[name]
        state[f"{name}.lora_A.weight"] = A.reshape(-1, *tail_A)
        state[f"{name}.lora_B.weight"] = B.reshape(*B.shape, *tail_B)
    rank = max(A.shape[0] for A, _ in factors.values())
    write_tensors(folder / "adapter_model.safetensors", {f"base_model.model.{k}": v for k, v in state.items()})
    dotted = f"{prefix}." if prefix else ""
    write_tensors(
        folder / "pytorch_lora_weights.safetensors", {dotted + k: v for k, v in state.items()}, {"format": "pt"}
    )
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=exactly(factors), inference_mode=True)
    config.save_pretrained(str(folder))


def diffusers_prefix(model: nn.Module) -> str:
    """Prefix of layer names in a diffusers LoRA file: none if the model is a container of pipeline components."""
    children = {name for name, _ in model.named_children()}
    return "" if children & {"unet", "text_encoder", "transformer"} else "unet"


def _as_matrix(module: Any) -> Tensor:
    """Weight of a layer as an (m, n) view."""
    weight: Tensor = module.weight.data
    return weight.mT if isinstance(module, Conv1D) else weight.view(weight.shape[0], -1)
