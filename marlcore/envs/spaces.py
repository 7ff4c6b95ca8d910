"""What gymnasium's spaces become here: flattened observations, scaled actions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from marlcore.envs.protocol import ActionSpec

AnySpace = spaces.Space[Any]
Scale = Callable[[NDArray[np.generic]], NDArray[np.generic]]
_FLAT = (spaces.Box, spaces.Discrete, spaces.MultiBinary, spaces.MultiDiscrete)


def check_observation_space(agent: object, space: AnySpace) -> None:
    """Raise ValueError where `space` does not flatten to a vector that says everything."""
    if isinstance(space, spaces.Dict):
        if "action_mask" in space:
            raise ValueError(
                f"agent {agent} observes an action_mask, which nothing here would obey; use the "
                "environment without masks"
            )
        for part in cast(dict[str, AnySpace], space).values():
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


def scale(space: Any, spec: ActionSpec) -> Scale:
    """Return the map from a flat action, in [-1, 1] where bounded, to an element of a Box."""
    shape: tuple[int, ...] = space.shape
    dtype: np.dtype[np.floating[Any]] = space.dtype
    if not spec.clip:
        return lambda action: action.reshape(shape).astype(dtype)
    low, high = _bounds(space)
    half = (high - low) / 2

    def to_bounds(action: NDArray[np.generic]) -> NDArray[np.generic]:
        # Rounding may step over a bound by one unit of the last place.
        wide = np.minimum(low + half * (1.0 + action.astype(np.float64)), high)
        return wide.astype(dtype).reshape(shape)

    return to_bounds


def _bounds(box: Any) -> NDArray[np.float64]:
    """Return low and high of a Box, [2, D]."""
    return np.stack((box.low.ravel(), box.high.ravel())).astype(np.float64)
