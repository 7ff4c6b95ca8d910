"""Quantiles that proprio and actions were scaled by: [q01, q99] to [-1, 1].

D action   P proprio.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_EPS = 1e-8


@dataclass(frozen=True)
class Quantiles:
    """First and 99th percentiles, per dimension."""

    q01: NDArray[np.float64]
    """[X]."""
    q99: NDArray[np.float64]
    """[X]."""
    mask: NDArray[np.bool_]
    """[X]: False for dimensions that are not scaled."""

    def normalise(self, x: Tensor) -> Tensor:
        """Map [..., X] to [-1, 1], clipped; float64 inside. A constant dimension maps to -1."""
        low, span = self._range(x)
        scaled = (2 * (x.double() - low) / span - 1).clamp(-1, 1)
        return torch.where(self._masked(x), scaled, x.double())

    def unnormalise(self, x: Tensor) -> Tensor:
        """Map [-1, 1] back to [..., X]; nothing is clipped. Float64 as the quantiles are."""
        low, span = self._range(x)
        return torch.where(self._masked(x), 0.5 * (x.double() + 1) * span + low, x.double())

    def _range(self, like: Tensor) -> tuple[Tensor, Tensor]:
        low = torch.as_tensor(self.q01, device=like.device)
        return low, torch.as_tensor(self.q99, device=like.device) - low + _EPS

    def _masked(self, like: Tensor) -> Tensor:
        return torch.as_tensor(self.mask, device=like.device)


@dataclass(frozen=True)
class Statistics:
    """Of one data set."""

    action: Quantiles
    proprio: Quantiles | None


def read_statistics(document: Mapping[str, Any], key: str | None) -> Statistics:
    """Read a dataset_statistics.json.

    Args:
        document: data sets by name.
        key: which data set; None: the only one.

    Raises:
        ValueError: if it is not there, or several are and none was named.
    """
    if key is None and len(document) == 1:
        key = next(iter(document))
    if key is None or key not in document:
        said = "policy.unnorm_key names none" if key is None else f"there is no data set {key!r}"
        raise ValueError(
            f"{said}; the checkpoint has statistics of {', '.join(sorted(document)) or 'nothing'}"
        )
    entry = document[key]
    proprio = _quantiles(entry["proprio"]) if "proprio" in entry else None
    return Statistics(action=_quantiles(entry["action"]), proprio=proprio)


def _quantiles(entry: Mapping[str, Any]) -> Quantiles:
    q01, q99 = (np.array(entry[name], np.float64) for name in ("q01", "q99"))
    return Quantiles(q01, q99, np.array(entry.get("mask", [True] * len(q01)), np.bool_))
