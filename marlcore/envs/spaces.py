"""What gymnasium's spaces become here: flattened observations, scaled actions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from marlcore.envs.protocol import ActionSpec

AnySpace = spaces.Space[Any]
Scaler = Callable[[NDArray[Any]], list[NDArray[Any]]]
_FLAT = (spaces.Box, spaces.Discrete, spaces.MultiBinary, spaces.MultiDiscrete)


def check_observation_space(agent: object, space: AnySpace) -> None:
    """Raise ValueError where `space` does not flatten to a vector that says everything."""
    if isinstance(space, spaces.Dict):
        parts: dict[str, AnySpace] = cast(Any, space).spaces
        if "action_mask" in parts:
            raise ValueError(
                f"agent {agent} observes an action_mask, which nothing here would obey; use the "
                "environment without masks"
            )
        for part in parts.values():
            check_observation_space(agent, part)
    elif not isinstance(space, _FLAT):
        raise ValueError(
            f"agent {agent} observes {space}; supported are Box, Discrete, MultiBinary, "
            "MultiDiscrete and Dict of these; convert it in a wrapper (gymnasium.spaces.flatten)"
        )


def action_spec(agents: Sequence[object], action_spaces: Sequence[AnySpace]) -> ActionSpec:
    """Return the spec of spaces that are all Discrete, all bounded Box or all unbounded Box."""
    described = "; ".join(f"{a}: {s}" for a, s in zip(agents, action_spaces, strict=True))
    discrete = [int(s.n) for s in action_spaces if isinstance(s, spaces.Discrete)]
    if len(discrete) == len(agents):
        return ActionSpec(kind="discrete", sizes=tuple(discrete))
    boxes: list[Any] = [space for space in action_spaces if isinstance(space, spaces.Box)]
    if len(boxes) < len(agents) or any(box.dtype.kind != "f" for box in boxes):
        raise ValueError(
            f"action spaces ({described}) must be all Discrete or all Box of floats; "
            "convert them in a wrapper"
        )
    bounds = [_bounds(space) for space in action_spaces]
    is_bounded = all(np.isfinite(both).all() for both in bounds)
    if not (is_bounded or all(np.isinf(both).all() for both in bounds)):
        raise ValueError(
            f"action spaces ({described}) must have bounds everywhere or nowhere; give the rest of "
            "them bounds in a wrapper"
        )
    sizes = tuple(both.shape[1] for both in bounds)
    return ActionSpec(kind="continuous", sizes=sizes, clip=is_bounded)


def scaler(boxes: Sequence[Any], spec: ActionSpec) -> Scaler:
    """Return the map from actions [N, D], in [-1, 1] where bounded, to an element of each Box."""
    forms: list[tuple[int, tuple[int, ...], Any]] = [
        (size, box.shape, box.dtype) for size, box in zip(spec.sizes, boxes, strict=True)
    ]
    low, high = np.zeros((2, len(boxes), spec.num_dims))
    if spec.clip:
        for row, (size, box) in enumerate(zip(spec.sizes, boxes, strict=True)):
            low[row, :size], high[row, :size] = _bounds(box)
    half = (high - low) / 2

    def scaled(actions: NDArray[Any]) -> list[NDArray[Any]]:
        if spec.clip:
            # Rounding may step over a bound by one unit of the last place.
            actions = np.minimum(low + half * (1.0 + actions.astype(np.float64)), high)
        return [
            row[:size].reshape(shape).astype(dtype)
            for row, (size, shape, dtype) in zip(actions, forms, strict=True)
        ]

    return scaled


def _bounds(box: Any) -> NDArray[np.float64]:
    """Return low and high of a Box, [2, D]."""
    return np.stack((box.low.ravel(), box.high.ravel())).astype(np.float64)
