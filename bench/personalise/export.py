"""A learnt concept as files that plain diffusers reads: a LoRA, and a textual-inversion embedding.

pipeline.load_textual_inversion("<folder>/token.safetensors", token="<name>")
pipeline.load_lora_weights("<folder>")
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from bench.personalise.shared import Learnt
from seqlora.adapters import pad_rank
from seqlora.files import write_tensors

TOKEN_FILE, LORA_FILE = "token.safetensors", "pytorch_lora_weights.safetensors"


def export_concept(learnt: Learnt, folder: str | Path) -> Path:
    """Write one concept of a linear-layer LoRA (scale 1; smaller ranks are padded with zeros); returns the folder."""
    folder = Path(folder)
    state: dict[str, Tensor] = {}
    for layer, (A, B) in pad_rank(learnt.factors).items():
        state[f"{layer}.lora_A.weight"], state[f"{layer}.lora_B.weight"] = A, B
    if state:
        write_tensors(folder / LORA_FILE, state, {"format": "pt"})
    write_tensors(folder / TOKEN_FILE, {f"<{learnt.name}>": learnt.token}, {"format": "pt"})
    return folder
