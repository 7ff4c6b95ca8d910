"""What vector environments share: actions into buffers, VectorStep out of them, joint states."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from marlcore.envs.group import Buffers
from marlcore.envs.protocol import EnvSpec, Episode, Observation, VectorStep

State = dict[str, NDArray[np.generic]]


def write_actions(buffers: Buffers, spec: EnvSpec, actions: NDArray[np.generic]) -> None:
    """Put actions [E, N, K, D] where the environments read them, after checking them."""
    target: NDArray[Any] = buffers.actions
    if actions.shape != target.shape:
        raise ValueError(f"actions have shape {actions.shape}; give [E, N, K, D] = {target.shape}")
    if spec.actions.kind == "continuous":
        np.copyto(target, actions, casting="same_kind")
        if not np.isfinite(target).all():
            rows = np.flatnonzero(~np.isfinite(target).all(axis=(1, 2, 3))).tolist()
            raise ValueError(
                f"actions of environments {rows} are not finite: the policy has diverged; "
                "lower the learning rates or algorithm.max_grad_norm"
            )
        return
    np.copyto(target, actions, casting="safe")
    limits = np.array(spec.actions.sizes)[:, None, None]
    if ((target < 0) | (target >= limits)).any():
        raise ValueError(
            f"discrete actions lie in [{target.min()}, {target.max()}]; they must be at least 0 "
            f"and, agent by agent, below {list(spec.actions.sizes)}"
        )


def copied(arrays: Observation) -> Observation:
    """Return arrays that the caller may keep."""
    return {name: array.copy() for name, array in arrays.items()}


def vector_step(
    buffers: Buffers, *, discarded: NDArray[np.bool_], first_index: int, num_worker_failures: int
) -> VectorStep:
    """Copy the outcome of a decision out of the buffers, blank where it is to be discarded."""
    if discarded.any():
        for outcome in (
            buffers.rewards,
            buffers.terminated,
            buffers.truncated,
            buffers.executed_length,
            buffers.num_env_steps,
        ):
            outcome[discarded] = 0
    ended = np.flatnonzero(buffers.terminated | buffers.truncated).tolist()
    # Zeros cost nothing until they are touched; images are copied only where they mean something.
    final = {name: np.zeros(a.shape, a.dtype) for name, a in buffers.final_observations.items()}
    for name, array in final.items():
        for row in ended:
            array[row] = buffers.final_observations[name][row]
    return VectorStep(
        observations=copied(buffers.observations),
        final_observations=final,
        rewards=buffers.rewards.copy(),
        terminated=buffers.terminated.copy(),
        truncated=buffers.truncated.copy(),
        discarded=discarded,
        executed_length=buffers.executed_length.copy(),
        num_env_steps=int(buffers.num_env_steps.sum()),
        episodes=tuple(_episode(buffers, row, first_index + row) for row in ended),
        num_worker_failures=num_worker_failures,
    )


def _episode(buffers: Buffers, row: int, index: int) -> Episode:
    success, held = int(buffers.success[row]), int(buffers.success_held[row])
    return Episode(
        env_index=index,
        episode_return=float(buffers.episode_return[row]),
        length=int(buffers.episode_length[row]),
        success=None if success < 0 else bool(success),
        success_held=None if held < 0 else bool(held),
    )


def join_states(states: list[State]) -> State:
    """Return one dict with the keys `env_{row}/{name}`."""
    return {
        f"env_{row}/{k}": array for row, state in enumerate(states) for k, array in state.items()
    }


def split_states(state: State, num_envs: int) -> list[State]:
    """Undo `join_states`."""
    states: list[State] = [{} for _ in range(num_envs)]
    saved = {key.partition("/")[0] for key in state}
    if saved != {f"env_{row}" for row in range(num_envs)}:
        raise ValueError(
            f"the saved state is of {len(saved)} environments, there are {num_envs}; restore with "
            "the num_envs that it was saved with (num_workers may differ)"
        )
    for key, array in state.items():
        env, _, name = key.partition("/")
        states[int(env.removeprefix("env_"))][name] = array
    return states
