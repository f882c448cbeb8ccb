"""A learnt concept as files that plain diffusers reads: a LoRA, and a textual-inversion embedding.

pipeline.load_textual_inversion("<folder>/token.safetensors", token="<name>")
pipeline.load_lora_weights("<folder>")
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor
from torch.nn import functional as F

from bench.personalise.shared import Learnt
from seqlora.files import write_tensors

TOKEN_FILE, LORA_FILE = "token.safetensors", "pytorch_lora_weights.safetensors"


def export_concept(learnt: Learnt, folder: str | Path) -> Path:
    """Write one concept of a linear-layer LoRA (scale 1; smaller ranks are padded with zeros); returns the folder."""
    folder = Path(folder)
    rank = max((A.shape[0] for A, _ in learnt.factors.values()), default=0)
    state: dict[str, Tensor] = {}
    for layer, (A, B) in learnt.factors.items():
        missing = rank - A.shape[0]
        state[f"{layer}.lora_A.weight"] = F.pad(A, (0, 0, 0, missing))
        state[f"{layer}.lora_B.weight"] = F.pad(B, (0, missing))
    if state:
        write_tensors(folder / LORA_FILE, state, {"format": "pt"})
    write_tensors(folder / TOKEN_FILE, {f"<{learnt.name}>": learnt.token}, {"format": "pt"})
    return folder
