"""What an environment is: three protocols, from one simulator to many, and their records.

Everything here is numpy: environment workers never import torch.
E environments   N agents   K chunk   D action   H history, newest first.

    StepEnv      one simulator, one env step at a time (what an adapter implements)
    DecisionEnv  one StepEnv, one decision (action chunk) at a time (envs/decision.py, the only one)
    VectorEnv    E DecisionEnvs at once, reset when an episode ends (envs/vector.py)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Observation = dict[str, NDArray[np.generic]]
"""Arrays by name. `vector` float32 [N, O]: what each agent sees, zero-padded to the widest.
`proprio` float32 [N, P]: each arm's own state. `state` float32 [S]: what a centralised critic
sees. `images` uint8 [N, C, height, width, 3]: C views of each agent. `vector` and `state` are
always there. A DecisionEnv puts a history axis H behind N (behind nothing for `state`): `vector`
[N, H, O], `state` [H, S], newest first. A VectorEnv puts E in front."""


@dataclass(frozen=True)
class ActionSpec:
    """The actions of N agents, padded to one shape."""

    kind: Literal["continuous", "discrete"]
    sizes: tuple[int, ...]
    """Per agent: action dimensions (continuous) or number of choices (discrete)."""
    clip: bool = True
    """Continuous only: whether the environment receives clip(a, -1, 1) instead of a."""

    @property
    def num_dims(self) -> int:
        """D: numbers in one low-level action."""
        return max(self.sizes) if self.kind == "continuous" else 1


@dataclass(frozen=True)
class EnvSpec:
    """What never changes about an environment; equal for every copy of it."""

    num_agents: int
    actions: ActionSpec
    observation_shapes: dict[str, tuple[int, ...]]
    """Shape of each array of an Observation of this environment (with H for a DecisionEnv, never
    with E)."""
    observation_dtypes: dict[str, str]
    """numpy dtype name of each."""
    instructions: tuple[str, ...] = ()
    """What each agent is told to do, for language-conditioned policies."""
    visible: NDArray[np.bool_] | None = field(default=None, compare=False)
    """[N, N, O]: whether agent i sees entry o of agent j's `vector` (of one observation, without
    H); None: nothing."""
    num_shared_views: int = 0
    """How many of the C views, the first ones, every agent sees."""
    proprio_quantiles: NDArray[np.float64] | None = field(default=None, compare=False)
    """[2, P]: first and 99th percentile of each entry of `proprio` in play; None: not measured."""
    chunk_length: int = 1
    """K. Always 1 for a StepEnv."""
    has_success: bool = False
    """Whether the task defines success."""


@dataclass(frozen=True)
class StepResult:
    """What one env step led to. Observations are asked for separately: few steps need them."""

    reward: float
    """Team reward."""
    terminated: bool
    """An absorbing state was reached."""
    truncated: bool = False
    """The environment's own limit cut the episode short (max_episode_steps is DecisionEnv's
    matter)."""
    success: bool = False
    """The task's success holds in this state."""
    active: NDArray[np.bool_] | None = None
    """[N]: agents whose action counted in this step; None: all."""


class StepEnv(Protocol):
    """One simulator. Its trajectory follows from constructor arguments, `seed` and actions only."""

    @property
    def spec(self) -> EnvSpec:
        """Shapes without H; chunk_length 1."""
        ...

    def reset(self, seed: int) -> None:
        """Start an episode that depends on `seed` alone, not on earlier episodes."""
        ...

    def step(self, actions: NDArray[np.generic]) -> StepResult:
        """Run one env step.

        Args:
            actions: [N, D], clipped already; float32 (continuous) or int64 (discrete).
        """
        ...

    def observe(self) -> Observation:
        """Return what the agents see now; fresh arrays."""
        ...

    def render(self) -> NDArray[np.uint8]:
        """Return a picture [height, width, 3] of the scene for people."""
        ...

    def close(self) -> None:
        """Free what the simulator holds."""
        ...


@dataclass(frozen=True)
class Episode:
    """One finished episode, for reports."""

    env_index: int
    episode_return: float
    """Undiscounted sum of team rewards."""
    length: int
    """Env steps."""
    success: bool | None
    """Success held at some step; None where the task has no success."""
    success_held: bool | None
    """Success held at the last step."""


@dataclass(frozen=True)
class Transition:
    """What one decision of one DecisionEnv led to."""

    observation: Observation
    """The true successor's, also where the episode ended."""
    reward: float
    """Sum over the executed env steps of chunk_gamma**k * r_k."""
    terminated: bool
    truncated: bool
    executed_length: NDArray[np.int64]
    """[N]: low-level actions of the chunk that ran and counted, per agent."""
    num_env_steps: int
    episode: Episode | None
    """The finished episode, if it ended here."""


@dataclass(frozen=True)
class VectorStep:
    """What one decision of E environments led to."""

    observations: Observation
    """[E, ...]: what the next decision sees: after the reset where an episode ended."""
    final_observations: Observation
    """[E, ...]: the true successor; rows are valid where `terminated | truncated`."""
    rewards: NDArray[np.float32]
    """[E]."""
    terminated: NDArray[np.bool_]
    """[E]."""
    truncated: NDArray[np.bool_]
    """[E]."""
    discarded: NDArray[np.bool_]
    """[E]: the worker failed in this decision; its episode is void and the observation is a new
    episode's first."""
    executed_length: NDArray[np.int64]
    """[E, N]; zero where discarded."""
    num_env_steps: int
    """Env steps run, over all E."""
    episodes: tuple[Episode, ...]
    """Those that ended, by environment index."""
    num_worker_failures: int = 0
    """Workers that had to be restarted in this step."""


class VectorEnv(Protocol):
    """E environments that step together and start again by themselves."""

    @property
    def spec(self) -> EnvSpec:
        """Shapes with H, without E."""
        ...

    @property
    def num_envs(self) -> int:
        """E."""
        ...

    @property
    def groups(self) -> tuple[slice, ...]:
        """Rows of E, in order, that step together; those of different groups may do so at once."""
        ...

    def reset(self) -> Observation:
        """Start a new episode everywhere; [E, ...] arrays that the caller may keep."""
        ...

    def begin(self, group: int, actions: NDArray[np.generic]) -> None:
        """Have a group run one decision; `finish` comes next. actions: its rows of [E, N, K, D]."""
        ...

    def finish(self, group: int) -> VectorStep:
        """Wait until it is done; its rows."""
        ...

    def step(self, actions: NDArray[np.generic]) -> VectorStep:
        """Run one decision everywhere, in one group. actions: [E, N, K, D], unclipped."""
        ...

    def render(self, env_index: int) -> NDArray[np.uint8]:
        """Return a picture of one environment."""
        ...

    def state_dict(self) -> dict[str, NDArray[np.generic]]:
        """Return all that is needed to go on from here, as arrays; between decisions only."""
        ...

    def load_state_dict(self, state: dict[str, NDArray[np.generic]]) -> Observation:
        """Bring every environment back to that point; return what `reset` or `step` returned."""
        ...

    def close(self) -> None:
        """End the workers."""
        ...
