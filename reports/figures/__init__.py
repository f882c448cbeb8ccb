"""All figures, in the order of the report. Adding one: a module with a `FIGURE`, and one line here."""

from __future__ import annotations

from reports.figures import (
    bound_real,
    bound_violations,
    capacity,
    certificate,
    convergence,
    cost_length,
    energy_predicts,
    frontier,
    gallery,
    history,
    identity_length,
    image_comparison,
    image_matrices,
    image_tradeoff,
    layer_diagnostics,
    layer_energy,
    leakage,
    merge_cost,
    method_comparison,
    phase_diagram,
    r_matrices,
    rank_star,
    residual_energy,
    sample_size,
    spectra,
    tightness,
    timing_ratios,
    tradeoff,
)
from reports.figures.api import FigureSpec, save
from seqlora.errors import BadInputError

FIGURES: dict[str, FigureSpec] = {
    module.FIGURE.name: module.FIGURE
    for module in (
        residual_energy,
        sample_size,
        phase_diagram,
        rank_star,
        bound_violations,
        bound_real,
        tightness,
        layer_diagnostics,
        certificate,
        convergence,
        capacity,
        frontier,
        method_comparison,
        tradeoff,
        spectra,
        r_matrices,
        gallery,
        image_comparison,
        image_matrices,
        identity_length,
        image_tradeoff,
        leakage,
        layer_energy,
        energy_predicts,
        cost_length,
        merge_cost,
        timing_ratios,
        history,
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
