"""Several environments that step one after another: in this process, or in a worker.

What is exchanged at every decision lies in `Buffers`: arrays with a row for each environment, in
shared memory if there are workers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marlcore.envs.decision import DecisionEnv
from marlcore.envs.protocol import EnvSpec, Episode, Observation, Transition

_ALIGNMENT = 64
_GROUPS = ("observations", "final_observations")
_Layout = Iterator[tuple[str, str, tuple[int, ...], str]]


@dataclass(frozen=True)
class Buffers:
    """Arrays with a row for each environment; see VectorStep and Episode for the meanings."""

    observations: Observation
    final_observations: Observation
    actions: NDArray[np.generic]
    """[E, N, K, D]."""
    rewards: NDArray[np.float32]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    executed_length: NDArray[np.int64]
    num_env_steps: NDArray[np.int64]
    episode_number: NDArray[np.int64]
    """[E]: the newest episode begun; survives its worker. -1 before the first."""
    episode_return: NDArray[np.float64]
    episode_length: NDArray[np.int64]
    success: NDArray[np.int8]
    """[E]: 0, 1, or -1 where the task has no success."""
    success_held: NDArray[np.int8]

    def part(self, rows: slice) -> Buffers:
        """Return the same memory for some of the environments."""
        own: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        for name in _GROUPS:
            own[name] = {key: array[rows] for key, array in own[name].items()}
        return Buffers(**{k: v if k in _GROUPS else v[rows] for k, v in own.items()})


def _layout(spec: EnvSpec, num_envs: int) -> _Layout:
    """Yield (group, name, shape, dtype) of every array."""
    for group in _GROUPS:
        for name, shape in spec.observation_shapes.items():
            yield group, name, (num_envs, *shape), spec.observation_dtypes[name]
    n = spec.num_agents
    continuous = spec.actions.kind == "continuous"
    actions = (num_envs, n, spec.chunk_length, spec.actions.num_dims)
    yield "", "actions", actions, "float32" if continuous else "int64"
    yield "", "executed_length", (num_envs, n), "int64"
    rows = {
        "rewards": "float32",
        "terminated": "bool",
        "truncated": "bool",
        "num_env_steps": "int64",
        "episode_number": "int64",
        "episode_return": "float64",
        "episode_length": "int64",
        "success": "int8",
        "success_held": "int8",
    }
    for name, dtype in rows.items():
        yield "", name, (num_envs,), dtype


def _aligned(num_bytes: int) -> int:
    return -(-num_bytes // _ALIGNMENT) * _ALIGNMENT


def buffer_size(spec: EnvSpec, num_envs: int) -> int:
    """Return the bytes that `make_buffers` needs."""
    return sum(
        _aligned(math.prod(s) * np.dtype(d).itemsize) for _, _, s, d in _layout(spec, num_envs)
    )


def make_buffers(spec: EnvSpec, num_envs: int, memory: memoryview | bytearray) -> Buffers:
    """Lay the arrays out in `memory`, whose bytes stay as they are."""
    arrays: dict[str, Any] = {}
    groups: dict[str, Observation] = {name: {} for name in _GROUPS}
    offset = 0
    for group, name, shape, dtype in _layout(spec, num_envs):
        count = math.prod(shape)
        flat: NDArray[Any] = np.frombuffer(memory, dtype=dtype, count=count, offset=offset)
        array = flat.reshape(shape)
        if group:
            groups[group][name] = array
        else:
            arrays[name] = array
        offset += _aligned(array.nbytes)
    return Buffers(**groups, **arrays)


class EnvGroup:
    """Environments and their rows of the buffers."""

    def __init__(self, envs: list[DecisionEnv], buffers: Buffers) -> None:
        self._envs = envs
        self._buffers = buffers

    def reset(self) -> None:
        """Start the next episode everywhere."""
        for row in range(len(self._envs)):
            self._begin_episode(row)

    def step(self) -> None:
        """Run one decision everywhere; reset where an episode ends."""
        buffers = self._buffers
        chunks = self._envs[0].runnable(buffers.actions)
        arrays = list(buffers.observations.items())
        rewards: list[float] = []
        num_env_steps: list[int] = []
        ended: list[bool] = []
        buffers.terminated[:] = False
        for row, env in enumerate(self._envs):
            transition = env.run(chunks[row])
            rewards.append(transition.reward)
            num_env_steps.append(transition.num_env_steps)
            buffers.executed_length[row] = transition.executed_length
            ended.append(transition.episode is not None)
            if transition.episode is not None:
                self._end_episode(row, transition, transition.episode)
                continue
            observation = transition.observation
            for name, array in arrays:
                array[row] = observation[name]
        buffers.rewards[:] = rewards
        buffers.num_env_steps[:] = num_env_steps
        np.greater(ended, buffers.terminated, out=buffers.truncated)

    def render(self, row: int) -> NDArray[np.uint8]:
        """Return a picture of one environment."""
        return self._envs[row].render()

    def state_dict(self, row: int) -> dict[str, NDArray[np.generic]]:
        """Return the state of one environment."""
        return self._envs[row].state_dict()

    def load_state_dict(self, row: int, state: dict[str, NDArray[np.generic]]) -> None:
        """Restore one environment and its observation."""
        _write(self._buffers.observations, row, self._envs[row].load_state_dict(state))
        self._buffers.episode_number[row] = self._envs[row].episode_number

    def close(self) -> None:
        """Close all environments."""
        for env in self._envs:
            env.close()

    def _begin_episode(self, row: int) -> None:
        number = int(self._buffers.episode_number[row]) + 1
        # Before the reset: should it fail, the next attempt is another episode.
        self._buffers.episode_number[row] = number
        _write(self._buffers.observations, row, self._envs[row].reset(number))

    def _end_episode(self, row: int, transition: Transition, episode: Episode) -> None:
        buffers = self._buffers
        buffers.terminated[row] = transition.terminated
        _write(buffers.final_observations, row, transition.observation)
        buffers.episode_return[row] = episode.episode_return
        buffers.episode_length[row] = episode.length
        buffers.success[row] = -1 if episode.success is None else episode.success
        buffers.success_held[row] = -1 if episode.success_held is None else episode.success_held
        self._begin_episode(row)


def _write(arrays: Observation, row: int, observation: Observation) -> None:
    for name, array in arrays.items():
        array[row] = observation[name]
