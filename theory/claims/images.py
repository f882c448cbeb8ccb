"""C9 and C10: claims about pictures. Layers alone cannot check them; whoever trains and draws brings the numbers.

Here is what they say, next to the other claims; `python -m bench predict` judges them on stored image cells and writes
a ledger of the same form.
"""

from __future__ import annotations

from dataclasses import dataclass

from theory.api import Source


@dataclass(frozen=True)
class Statement:
    """What a claim says, in the words that a ledger prints (see `theory.api.Claim`)."""

    id: str
    title: str
    statement: str  # LaTeX
    assumptions: tuple[str, ...]
    source: Source


PREDICTION = Statement(
    "C9",
    "Layer energies predict what people see",
    r"\rho_{\mathrm{Spearman}}\left(\overline{F[t,j]},\ R[j,j]-R[t,j]\right) > 0"
    r"\ \text{over methods, concepts and stages, and within each method}",
    (
        r"\overline{F[t,j]} is the mean over adapted layers of the relative forgetting energy",
        "R is the identity similarity of generated images to held-out references",
        "replications are exchangeable: the interval resamples whole seeds, or whole cells where seeds are few",
    ),
    "ours",
)

PENALTY = Statement(
    "C10",
    "The forgetting penalty removes forgetting without keeping images, and needs no fusion",
    r"\gamma > 0:\quad \mathbb{E}\,[R[j,j]-R[T,j]] \le 0.02,\qquad R[T,\cdot] > R_{\gamma=0}[T,\cdot],\qquad"
    r" R[T,\cdot] \ge R_{\mathrm{fusion}}[T,\cdot] - 0.02",
    (
        "all methods have the same budget of steps, rank, layers and images",
        "differences are paired: every method sees the same concepts, noise and prompts of a seed",
        "0.02 is the practical margin of identity similarity",
    ),
    "ours",
)

STATEMENTS: dict[str, Statement] = {claim.id: claim for claim in (PREDICTION, PENALTY)}
