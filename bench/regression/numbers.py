"""The numbers of a cell that are compared, and the few of them that are gated.

A name is "metric.item", item being one of `bench.metrics.forgetting.summary`, for the whole model. All of them must
be equal where nothing but the code may have changed; the gated ones are tested elsewhere. Each gate costs power
(Holm), so they are few: what a merged model is still worth, what was lost on the way, and whether bounds hold.
"""

from __future__ import annotations

import math

from bench.api import Metric
from bench.metrics import METRICS
from bench.metrics.forgetting import summary
from bench.regression.violations import violations
from bench.schema import CellRecord

ITEMS = ("final", "just_trained", "single", "forgetting", "chaudhry_forgetting")


def _gate(metric: str, item: str, pretty_name: str) -> Metric:
    """A gate on a derived number; forgetting is signed so that + is worse, whatever the metric's orientation."""
    source = METRICS[metric]
    orientation = "lower" if item == "forgetting" else source.orientation
    return Metric(f"{metric}.{item}", pretty_name, orientation, unit=source.unit, margin=source.margin)


GATED = {
    gate.name: gate
    for gate in (
        _gate("relative_error", "final", "merged relative error"),
        _gate("relative_error", "forgetting", "forgetting (relative error)"),
        _gate("identity", "final", "final identity"),
        _gate("identity", "forgetting", "forgetting (identity)"),
        Metric("bound_violations", "bound violations", "lower", lower_bound=0.0, margin=0.0),
    )
}


def numbers(record: CellRecord) -> dict[str, float]:
    """Every number of a finished cell that is compared; those that were not measured are absent."""
    found: dict[str, float] = {}
    for stored in record.matrices:
        if stored.layer == "":
            found |= {f"{stored.metric}.{item}": summary(stored.to_matrix())[item] for item in ITEMS}
    if not found:  # one layer only, which then is the whole model
        for stored in record.matrices:
            found |= {f"{stored.metric}.{item}": summary(stored.to_matrix())[item] for item in ITEMS}
    found["bound_violations"] = float(len(violations(record)))
    return {name: value for name, value in found.items() if not math.isnan(value)}
