"""Sequential orthogonal LoRA: learn concepts one after another, merge them by a plain sum.

Not the naive baseline that the continual-learning literature calls "SeqLoRA": here every new basis is orthogonal to
all earlier ones (arXiv 2605.22743, reconstructed; see NOTATION.md).
"""

from typing import TYPE_CHECKING, Any

from seqlora.linear import LinearSolution, solve_linear

if TYPE_CHECKING:
    from seqlora.config import SeqLoRAConfig
    from seqlora.sequence import ConceptSequence, Step

__version__ = "0.1.0"

__all__ = ["ConceptSequence", "LinearSolution", "SeqLoRAConfig", "Step", "solve_linear"]


def __getattr__(name: str) -> Any:
    """Import what needs PEFT and transformers (seconds) only when it is asked for."""
    if name == "SeqLoRAConfig":
        from seqlora import config

        return config.SeqLoRAConfig
    if name in ("ConceptSequence", "Step"):
        from seqlora import sequence

        return getattr(sequence, name)
    raise AttributeError(f"module 'seqlora' has no attribute {name!r}")
