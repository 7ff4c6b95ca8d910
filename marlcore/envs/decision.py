"""One simulator, one decision at a time: chunks, rewards, history, ends and seeds of episodes.

An environment is saved as the number of its episode and the actions of that episode so far, and
restored by running them again.   N agents   K chunk   X executed   D action   H history.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from marlcore.envs.protocol import EnvSpec, Episode, Observation, StepEnv, Transition

_WAY_OUT = "restore with the configuration that the state was saved with"
_SEEDS_AT_ONCE = 64  # a SeedSequence costs 10 us, as much as some episodes


def derive_seeds(seed: int, *key: int, count: int = 1) -> list[int]:
    """Return `count` seeds in [0, 2**31) that depend on `seed` and `key` alone."""
    words = np.random.SeedSequence(seed, spawn_key=key).generate_state(count)
    return [int(word) >> 1 for word in words]


def decision_spec(
    spec: EnvSpec, *, chunk_length: int, history_length: int, observations_shared: bool
) -> EnvSpec:
    """Return the spec of a StepEnv by decisions: shapes with H, all visible if declared shared."""
    shapes = {
        name: (history_length, *shape)
        if name == "state"
        else (shape[0], history_length, *shape[1:])
        for name, shape in spec.observation_shapes.items()
    }
    agents = spec.num_agents
    everything = np.ones((agents, agents, spec.observation_shapes["vector"][1]), np.bool_)
    return dataclasses.replace(
        spec,
        observation_shapes=shapes,
        chunk_length=chunk_length,
        visible=everything if observations_shared else spec.visible,
    )


class DecisionEnv:
    """Runs a StepEnv by decisions. Arrays it returns are the caller's to read, not to write.

    Args:
        env: The simulator.
        chunk_length: K.
        executed_length: X: actions of a chunk that run before the next decision.
        history_length: H.
        max_episode_steps: Env steps after which an episode is truncated.
        chunk_gamma: Weight chunk_gamma**k of the k-th env step's reward.
        seed: Of all environments of the run.
        index: Which of them this is; episode e is seeded by (seed, index, e).
        observations_shared: Whether all agents are declared to see all of each other's `vector`.
        first_episode_steps: The limit of episode 0; None: max_episode_steps.
    """

    def __init__(
        self,
        env: StepEnv,
        *,
        chunk_length: int,
        executed_length: int,
        history_length: int,
        max_episode_steps: int,
        chunk_gamma: float,
        seed: int,
        index: int,
        observations_shared: bool = False,
        first_episode_steps: int | None = None,
    ) -> None:
        assert 1 <= executed_length <= chunk_length
        self._env = env
        self._spec = decision_spec(
            env.spec,
            chunk_length=chunk_length,
            history_length=history_length,
            observations_shared=observations_shared,
        )
        self._executed_length = executed_length
        self._history_length = history_length
        self._max_episode_steps = max_episode_steps
        self._first_episode_steps = first_episode_steps or max_episode_steps
        self._chunk_gamma = chunk_gamma
        self._seed = seed
        self._index = index
        self._seeds: tuple[int, list[int]] = (-1, [])
        # Row k: all N agents ran k actions. Handed out as it is: the usual case allocates nothing.
        agents = self._spec.num_agents
        self._full_lengths = np.repeat(np.arange(executed_length + 1)[:, None], agents, axis=1)
        self._full_lengths.flags.writeable = False
        self._observation: Observation = {}
        self._episode_number = -1
        self._clear()

    @property
    def spec(self) -> EnvSpec:
        """Shapes with H."""
        return self._spec

    @property
    def episode_number(self) -> int:
        """Of the episode under way."""
        return self._episode_number

    def reset(self, episode_number: int) -> Observation:
        """Start the episode of that number and return its first observation, H times."""
        self._clear()
        self._episode_number = episode_number
        self._env.reset(self._episode_seed(episode_number))
        self._observe(first=True)
        return self._observation

    def step(self, actions: NDArray[np.generic]) -> Transition:
        """Run one decision; after an episode's end call `reset`.

        Args:
            actions: [N, K, D], unclipped; what lies behind the first X of K is not read.
        """
        return self.run(self.runnable(actions))

    def runnable(self, actions: NDArray[np.generic]) -> NDArray[np.generic]:
        """Return a copy [..., X, D] of actions [..., K, D], as the simulator is to receive them."""
        executed = actions[..., : self._executed_length, :]
        if not (self._spec.actions.clip and self._spec.actions.kind == "continuous"):
            return executed.astype(self._action_dtype())
        return np.clip(executed.astype(np.float32), np.float32(-1), np.float32(1))

    def run(self, chunk: NDArray[np.generic]) -> Transition:
        """Run one decision with actions that `runnable` made ready, of one environment or many.

        Args:
            chunk: [N, X, D]; kept, so it must not change.
        """
        self._chunks.append(chunk)
        limit = self._max_episode_steps if self._episode_number else self._first_episode_steps
        reward, weight = 0.0, 1.0
        terminated = truncated = False
        counted: NDArray[np.int64] | None = None
        k = 0
        while k < self._executed_length and not (terminated or truncated):
            result = self._env.step(chunk[:, k])
            if result.active is not None:
                counted = result.active + (np.int64(k) if counted is None else counted)
            elif counted is not None:
                counted = counted + 1
            k += 1
            reward += weight * result.reward
            weight *= self._chunk_gamma
            self._episode_return += result.reward
            self._length += 1
            self._success_held = result.success
            self._success = self._success or result.success
            terminated = result.terminated
            limit_reached = result.truncated or self._length >= limit
            truncated = limit_reached and not terminated
        self._observe(first=False)
        return Transition(
            observation=self._observation,
            reward=reward,
            terminated=terminated,
            truncated=truncated,
            executed_length=self._full_lengths[k] if counted is None else counted,
            num_env_steps=k,
            episode=self._finished() if terminated or truncated else None,
        )

    def render(self) -> NDArray[np.uint8]:
        """Return a picture [height, width, 3] of the scene for people."""
        return self._env.render()

    def close(self) -> None:
        """Free what the simulator holds."""
        self._env.close()

    def state_dict(self) -> dict[str, NDArray[np.generic]]:
        """Return the episode's number, its actions so far and what is observed, but for images."""
        agents = self._spec.num_agents
        empty = np.empty((0, agents, self._executed_length, self._spec.actions.num_dims))
        state: dict[str, NDArray[np.generic]] = {
            "episode_number": np.array(self._episode_number, np.int64),
            "actions": np.stack(self._chunks)
            if self._chunks
            else empty.astype(self._action_dtype()),
        }
        # Not images: renderers may differ in a pixel from machine to machine, trajectories do not.
        for name, array in self._observation.items():
            if name != "images":
                state[f"observation/{name}"] = array.copy()
        return state

    def load_state_dict(self, state: dict[str, NDArray[np.generic]]) -> Observation:
        """Run the saved episode again up to where it was saved and return what was observed there.

        Raises:
            ValueError: the saved actions or observations do not fit this environment.
            RuntimeError: the same actions led elsewhere.
        """
        actions = state["actions"]
        agents, dims = self._spec.num_agents, self._spec.actions.num_dims
        expected = (agents, self._executed_length, dims)
        if actions.shape[1:] != expected:
            raise ValueError(
                f"environment {self._index}: the saved actions of a decision have shape "
                f"{actions.shape[1:]}, not {expected}; {_WAY_OUT}"
            )
        saved = {
            name.removeprefix("observation/"): array
            for name, array in state.items()
            if name.startswith("observation/")
        }
        if sorted(saved) != sorted(self._observed_but_images()):
            raise ValueError(
                f"environment {self._index}: the saved observation holds {sorted(saved)}, not "
                f"{sorted(self._observed_but_images())}; {_WAY_OUT}"
            )
        self.reset(int(state["episode_number"].astype(np.int64)))
        for i, chunk in enumerate(actions):
            transition = self.step(chunk)
            if transition.episode is not None:
                self._refuse(f"its episode ended at decision {i + 1} of {len(actions)}")
        for name, array in saved.items():
            restored = self._observation[name]
            if array.dtype != restored.dtype or array.shape != restored.shape:
                self._refuse(
                    f"{name} is {restored.dtype}{restored.shape}, was {array.dtype}{array.shape}"
                )
            if array.tobytes() != restored.tobytes():
                self._refuse(f"{name} differs after {len(actions)} decisions")
        return self._observation

    def _refuse(self, difference: str) -> None:
        raise RuntimeError(
            f"environment {self._index} is not deterministic: the saved actions of episode "
            f"{self._episode_number} led elsewhere ({difference}); restore with the versions and "
            "the kind of processor it was saved with, or start new episodes"
        )

    def _observed_but_images(self) -> list[str]:
        return [name for name in self._spec.observation_shapes if name != "images"]

    def _clear(self) -> None:
        self._chunks: list[NDArray[np.generic]] = []
        self._episode_return = 0.0
        self._length = 0
        self._success = False
        self._success_held = False

    def _action_dtype(self) -> type[np.generic]:
        return np.float32 if self._spec.actions.kind == "continuous" else np.int64

    def _observe(self, *, first: bool) -> None:
        newest = self._env.observe()
        length = self._history_length
        stacked: Observation = {}
        for name, array in newest.items():
            axis = int(name != "state")
            column = array[:, None] if axis else array[None]
            if length == 1:
                stacked[name] = column
            elif first:
                stacked[name] = np.repeat(column, length, axis=axis)
            else:
                older = self._observation[name]
                kept = older[:, :-1] if axis else older[:-1]
                stacked[name] = np.concatenate((column, kept), axis=axis)
        self._observation = stacked

    def _episode_seed(self, episode_number: int) -> int:
        block, place = divmod(episode_number, _SEEDS_AT_ONCE)
        if self._seeds[0] != block:
            self._seeds = (
                block,
                derive_seeds(self._seed, self._index, 1, block, count=_SEEDS_AT_ONCE),
            )
        return self._seeds[1][place]

    def _finished(self) -> Episode:
        known = self._spec.has_success
        return Episode(
            env_index=self._index,
            episode_return=self._episode_return,
            length=self._length,
            success=self._success if known else None,
            success_held=self._success_held if known else None,
        )
