"""What is measured: every number in a record is named by one of these, which says how to read it."""

from __future__ import annotations

from bench.api import Metric
from bench.registry import Registry

METRICS: Registry[Metric] = Registry("metric")


def define(metric: Metric) -> Metric:
    """Register a metric and return it.

    Raises:
        BadInputError: the name is taken.
    """
    return METRICS.add(metric.name, metric)


# --- Linear layers. All energies are relative to ‖Y_j‖²/N, what concept j wants, so that layers can be averaged.

RELATIVE_ERROR = define(
    Metric(
        "relative_error",
        "relative error",
        "lower",
        lower_bound=0.0,
        margin=0.02,
        description="‖(M_t - D_j) X_j‖² / ‖D_j X_j‖² on held-out activations; 1 for the untrained base",
    )
)
FIT_ERROR = define(
    Metric(
        "fit_error",
        "relative error on the fitted activations",
        "lower",
        lower_bound=0.0,
        description="the same on the activations that the moments came from: where the closed forms are optimal",
    )
)
OUTPUT_CHANGE = define(
    Metric(
        "output_change",
        "forgetting energy",
        "lower",
        lower_bound=0.0,
        description="‖(M_t - M_j) X_j‖² / ‖D_j X_j‖²: what later stages changed; F[t, j] for methods that sum updates",
    )
)
INTERFERENCE_RATIO = define(
    Metric(
        "interference_ratio",
        "interference ratio",
        "lower",
        lower_bound=0.0,
        description="‖(M_T - ΔW_j) X_j‖² / ‖ΔW_j X_j‖²: what the other concepts add, against the concept's own share",
    )
)
ADAPTATION_GAIN = define(
    Metric(
        "adaptation_gain",
        "adaptation gain",
        "higher",
        upper_bound=1.0,
        description="1 - relative error of the concept just trained, on the fitted activations",
    )
)
FRONTIER_DISTANCE = define(
    Metric(
        "frontier_distance",
        "distance to the C8 frontier",
        "lower",
        description="gain of the best rank-r last step that forgets no more, less the step's own, as a share of what "
        "the last concept still missed; only for methods that add one rank-r update and leave the others as they are",
    )
)
OVERLAP = define(Metric("overlap", "‖A_i A_jᵀ‖", "lower", lower_bound=0.0, description="overlap of two bases"))
SMALLEST_ANGLE = define(
    Metric(
        "smallest_angle",
        "smallest principal angle",
        "higher",
        lower_bound=0.0,
        upper_bound=90.0,
        unit="degrees",
        description="between a basis and the span of all others",
    )
)
RESIDUAL_ENERGY = define(
    Metric(
        "residual_energy",
        "residual energy ρ",
        "lower",
        lower_bound=0.0,
        upper_bound=1.0,
        description="tr((I - P_j) Σ_j) / tr Σ_j: what concept j's basis does not see",
    )
)
LEAK = define(
    Metric(
        "leak",
        "leak",
        "lower",
        lower_bound=0.0,
        description="‖A_{j+1:T} X_j‖² / tr Σ_j: the part of concept j's activations that later bases read",
    )
)
UPDATE_NORM = define(
    Metric("update_norm", "‖M_T‖_F", "lower", lower_bound=0.0, description="size of the merged update")
)
