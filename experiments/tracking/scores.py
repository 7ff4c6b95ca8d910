"""The score of a run: one number for a metric."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def final_score(steps: NDArray[np.int64], values: NDArray[np.float64]) -> float:
    """Mean of the points in the last 10 % of the env steps: in (0.9 last, last]."""
    return float(values[10 * steps > 9 * steps[-1]].mean())
