"""Confidence limit of a bounded mean by betting: exact at every sample size, and adaptive to the variance."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from seqlora.errors import BadInputError

Array = NDArray[np.float64]


def betting_upper_limit(samples: Array, delta: float) -> float:
    """Upper confidence limit of a mean in [0, 1], by betting against every smaller candidate.

    K_t(m) = prod_i (1 - l_i (x_i - m)) is a non-negative martingale if m is the mean and l_i, 0 <= l_i < 1/(1-m),
    depends on the past only. By Ville's inequality it passes 1/delta with probability <= delta, so the limit is the
    largest m whose capital never does. Bets follow the predictable plug-in of Waudby-Smith and Ramdas (2024, eq. 26).

    Args:
        samples: independent samples in [0, 1], shape (K,), in an order that does not depend on their values.
        delta: probability with which the limit may be below the mean.

    Returns:
        The limit in [mean, 1]. Complexity O(K log(1/accuracy)).
    """
    x = np.asarray(samples, dtype=np.float64)
    if x.ndim != 1 or not len(x) or x.min() < 0 or x.max() > 1:
        raise BadInputError("betting needs a vector of samples in [0, 1]; divide by the declared bound")
    steps = np.arange(1, len(x) + 1)
    means = (0.5 + np.cumsum(x)) / (steps + 1)
    variances = (0.25 + np.cumsum(np.square(x - means))) / (steps + 1)
    previous = np.concatenate([[0.25], variances[:-1]])
    bets = np.sqrt(2 * np.log(1 / delta) / (previous * len(x)))

    def rejected(m: float) -> bool:
        capped = np.minimum(bets, 0.5 / max(1 - m, 1e-300) if m < 1 else np.inf)
        gains = np.log1p(-capped * (x - m))  # every factor is at least 1/2
        return bool(np.cumsum(gains).max() >= np.log(1 / delta))

    low, high = 0.0, 1.0
    if not rejected(1.0):
        return 1.0
    for _ in range(60):  # the capital grows with m, so the accepted candidates are an interval [0, limit]
        middle = (low + high) / 2
        low, high = (low, middle) if rejected(middle) else (middle, high)
    return high
