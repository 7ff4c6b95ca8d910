"""E environments in this process: exceptions of an environment pass through."""

from __future__ import annotations

from typing import Self

import numpy as np
from numpy.typing import NDArray

from marlcore.config import EnvConfig
from marlcore.envs.batch import State, copied, join_states, split_states, vector_step, write_actions
from marlcore.envs.group import EnvGroup, buffer_size, make_buffers
from marlcore.envs.make import make_decision_env
from marlcore.envs.protocol import EnvSpec, Observation, VectorStep


class LocalVectorEnv:
    """A VectorEnv without workers.

    Args:
        config: Of every environment.
        num_envs: E.
        seed: Of the run.
        first_index: Index of the first environment in the run.
        stagger_episodes: See `make_vector_env`.
    """

    def __init__(
        self,
        config: EnvConfig,
        *,
        num_envs: int,
        seed: int,
        first_index: int,
        stagger_episodes: bool,
    ) -> None:
        envs = [
            make_decision_env(config, seed=seed, index=index, stagger_episodes=stagger_episodes)
            for index in range(first_index, first_index + num_envs)
        ]
        self._spec = envs[0].spec
        self._num_envs = num_envs
        self._first_index = first_index
        memory = bytearray(buffer_size(self._spec, num_envs))
        self._buffers = make_buffers(self._spec, num_envs, memory)
        self._buffers.episode_number[:] = -1
        self._group = EnvGroup(envs, self._buffers)
        self._closed = False

    @property
    def spec(self) -> EnvSpec:
        """Shapes with H, without E."""
        return self._spec

    @property
    def num_envs(self) -> int:
        """E."""
        return self._num_envs

    @property
    def groups(self) -> tuple[slice, ...]:
        """One: nothing here runs at the same time."""
        return (slice(0, self._num_envs),)

    def reset(self) -> Observation:
        """Start a new episode everywhere."""
        self._group.reset()
        return copied(self._buffers.observations)

    def begin(self, group: int, actions: NDArray[np.generic]) -> None:
        """Take the actions [E, N, K, D] of the decision that `finish` runs."""
        assert group == 0
        write_actions(self._buffers, self._spec, actions)

    def step(self, actions: NDArray[np.generic]) -> VectorStep:
        """Run one decision everywhere. actions: [E, N, K, D], unclipped."""
        self.begin(0, actions)
        return self.finish(0)

    def finish(self, group: int) -> VectorStep:
        """Run it."""
        assert group == 0
        self._group.step()
        return vector_step(
            self._buffers,
            discarded=np.zeros(self._num_envs, np.bool_),
            first_index=self._first_index,
            num_worker_failures=0,
        )

    def render(self, env_index: int) -> NDArray[np.uint8]:
        """Return a picture of environment `env_index` of 0 .. E - 1."""
        return self._group.render(env_index)

    def state_dict(self) -> State:
        """Return all that is needed to go on from here."""
        return join_states([self._group.state_dict(row) for row in range(self._num_envs)])

    def load_state_dict(self, state: State) -> Observation:
        """Bring every environment back to that point."""
        for row, own in enumerate(split_states(state, self._num_envs)):
            self._group.load_state_dict(row, own)
        return copied(self._buffers.observations)

    def close(self) -> None:
        """Close the environments."""
        if not self._closed:
            self._closed = True
            self._group.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
