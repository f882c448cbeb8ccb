"""All figures, in the order of the report. Adding one: a module with a `FIGURE`, and one line here."""

from __future__ import annotations

from reports.figures import (
    bound_real,
    bound_violations,
    certificate,
    convergence,
    layer_diagnostics,
    method_comparison,
    r_matrices,
    tightness,
    timing_ratios,
)
from reports.figures.api import FigureSpec, save
from seqlora.errors import BadInputError

FIGURES: dict[str, FigureSpec] = {
    module.FIGURE.name: module.FIGURE
    for module in (
        bound_violations,
        bound_real,
        tightness,
        layer_diagnostics,
        certificate,
        convergence,
        method_comparison,
        r_matrices,
        timing_ratios,
    )
}


def find(name: str) -> FigureSpec:
    """The figure of that name.

    Raises:
        BadInputError: there is none.
    """
    if name not in FIGURES:
        raise BadInputError(f"no figure {name!r}; there are {', '.join(FIGURES)}")
    return FIGURES[name]


__all__ = ["FIGURES", "FigureSpec", "find", "save"]
