"""Sequential orthogonal LoRA: learn concepts one after another, merge them by a plain sum.

Not the naive baseline that the continual-learning literature calls "SeqLoRA": here every new basis is orthogonal to
all earlier ones (arXiv 2605.22743, reconstructed; see NOTATION.md).
"""

from seqlora.config import SeqLoRAConfig
from seqlora.linear import LinearSolution, solve_linear
from seqlora.sequence import ConceptSequence, Step

__version__ = "0.1.0"

__all__ = ["ConceptSequence", "LinearSolution", "SeqLoRAConfig", "Step", "solve_linear"]
