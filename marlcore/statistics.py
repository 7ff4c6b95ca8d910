"""Running moments that merge across processes, and the statistics that results are reported with.

Wilson interval: E. B. Wilson, JASA 22 (1927).   IQM and its bootstrap: arXiv 2108.13264.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from marlcore import distributed


class RunningMoments(nn.Module):
    """Mean and variance of all rows seen, per entry; one state for all processes.

    Kept in float64 as (count, mean, sum of squared deviations), merged by Chan's formula, so that a
    billion rows do not drift. `normalise` is the identity until two rows have been seen.

    Args:
        shape: of a row.
        smallest_std: no standard deviation is smaller.
    """

    count: Tensor
    mean: Tensor
    squares: Tensor
    _offset: Tensor
    _scale: Tensor

    def __init__(self, shape: tuple[int, ...], smallest_std: float = 1e-4) -> None:
        super().__init__()
        self._smallest_std = smallest_std
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("squares", torch.zeros(shape, dtype=torch.float64))
        # What follows from the three in float32, kept because it is read at every decision.
        self.register_buffer("_offset", torch.zeros(shape), persistent=False)
        self.register_buffer("_scale", torch.ones(shape), persistent=False)
        self.register_load_state_dict_post_hook(RunningMoments._after_load)

    @torch.no_grad()
    def update(self, rows: Tensor) -> None:
        """Add rows [R, *shape] of this process and of every other process."""
        rows = rows.double()
        count = distributed.sum_over_ranks(self.count.new_tensor(float(rows.shape[0])))
        if count == 0:
            return
        mean = distributed.sum_over_ranks(rows.sum(0)) / count
        squares = distributed.sum_over_ranks((rows - mean).square().sum(0))
        total = self.count + count
        shift = mean - self.mean
        self.squares += squares + shift.square() * self.count * count / total
        self.mean += shift * count / total
        self.count.copy_(total)
        self._derive()

    @staticmethod
    def _after_load(moments: nn.Module, _: object) -> None:
        assert isinstance(moments, RunningMoments)
        moments._derive()

    def _derive(self) -> None:
        if self.count >= 2:
            self._offset.copy_(self.mean)
            self._scale.copy_(self.std)

    @property
    def std(self) -> Tensor:
        """Standard deviation of all rows, not below `smallest_std`; 1 until two rows were seen."""
        if self.count < 2:
            return torch.ones_like(self.squares)
        return (self.squares / self.count).sqrt().clamp(min=self._smallest_std)

    def normalise(self, x: Tensor, clip: float = math.inf) -> Tensor:
        """(x - mean) / std, clipped to [-clip, clip]."""
        return ((x - self._offset) / self._scale).clamp(-clip, clip)

    def denormalise(self, x: Tensor) -> Tensor:
        """X * std + mean."""
        return x * self._scale + self._offset


def wilson_interval(successes: int, trials: int, z: float = 1.959963985) -> tuple[float, float]:
    """Interval of a success rate that holds its 95 % at the edges too.

    Raises:
        ValueError: if there was no trial, or more successes than trials.
    """
    if not 0 <= successes <= trials or trials == 0:
        raise ValueError(
            f"{successes} successes of {trials} trials: need 0 <= successes <= trials > 0"
        )
    p, n = successes / trials, trials
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def interquartile_mean(scores: NDArray[np.floating[Any]]) -> float:
    """Mean of the middle half of all scores; scores across a quartile count in part."""
    ordered = np.sort(np.ravel(scores))
    if ordered.size == 0:
        raise ValueError("no scores: the inter-quartile mean needs at least one")
    edges = np.arange(ordered.size + 1) / ordered.size
    weights = np.clip(np.minimum(edges[1:], 0.75) - np.maximum(edges[:-1], 0.25), 0, None)
    return float(np.average(ordered, weights=weights))


def bootstrap_interval(
    scores: NDArray[np.floating[Any]], *, seed: int, num_resamples: int = 2000, level: float = 0.95
) -> tuple[float, float]:
    """Stratified-bootstrap interval of the inter-quartile mean; scores [seeds, tasks].

    Seeds are drawn anew within each task, so a task keeps its weight (arXiv 2108.13264, sec. 4).
    """
    generator = np.random.default_rng(seed)
    num_seeds, num_tasks = scores.shape
    rows = generator.integers(num_seeds, size=(num_resamples, num_seeds, num_tasks))
    means = [interquartile_mean(scores[row, np.arange(num_tasks)]) for row in rows]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def probability_of_improvement(a: NDArray[np.floating[Any]], b: NDArray[np.floating[Any]]) -> float:
    """Chance that a random run of A scores above a random run of B; ties count half."""
    above = (a[:, None] > b[None, :]) + 0.5 * (a[:, None] == b[None, :])
    return float(above.mean())
