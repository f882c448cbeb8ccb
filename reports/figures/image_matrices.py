"""R[t, j] on images: the identity of every person after every stage, one heat map a method."""

from __future__ import annotations

import pandas as pd

from reports.figures.api import FigureSpec
from reports.figures.r_matrices import describe, draw, means, triangles
from reports.image_cells import off_curve
from reports.sources import IMAGE_METRIC, Results


def select(results: Results) -> pd.DataFrame:
    """Means over seeds of the lower triangle, at the longest sequence that fits."""
    return means(triangles(off_curve(results.images), IMAGE_METRIC))


FIGURE = FigureSpec(
    name="image_matrices",
    title="R matrices: the identity of every person after every stage",
    section="images",
    inputs=("images",),
    select=select,
    headline=describe,
    caption=(
        "Row t: after t people were learnt; column j: identity similarity of person j, mean over seeds. Down a column "
        "one sees a person being forgotten; the diagonal is what the person was like just trained. One colour scale "
        "for all methods; 1 is the reference itself, two strangers have about 0."
    ),
    draw=draw,
)
