"""What an environment is made of: the env section of the configuration, and what all sections are.

Part of the schema that `config.py` completes.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Discount = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Identifier = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Sizes = Annotated[tuple[Count, ...], Field(min_length=1)]


class Section(BaseModel):
    """A frozen, strict group of keys; the string under each field is its meaning."""

    model_config = ConfigDict(
        frozen=True, strict=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )


class EnvSection(Section):
    """What every environment has."""

    num_actions_chunk: Count = 1
    """K: low-level actions that one decision predicts for each agent."""
    executed_length: Count | None = None
    """Low-level actions of a chunk that run before the next decision; null runs the whole chunk."""
    chunk_gamma: Discount = 1.0
    """Weight chunk_gamma**k of the k-th env step's reward inside a decision."""
    history_length: Count = 1
    """Observations an agent sees at once: the newest first, one per decision."""
    max_episode_steps: Count = 300
    """Env steps after which an episode is truncated."""
    observations_shared: bool = False
    """Declares that every agent sees all of every other's observation (for belief=estimate)."""

    @model_validator(mode="after")
    def _executed_within_chunk(self) -> EnvSection:
        if self.executed_length is not None and self.executed_length > self.num_actions_chunk:
            raise ValueError(
                f"env.executed_length {self.executed_length} is longer than env.num_actions_chunk "
                f"{self.num_actions_chunk}; a decision cannot run actions it did not predict"
            )
        return self


class RewardWeights(Section):
    """Weights of the terms of robosuite's dense peg-in-hole reward."""

    success: NonNegative = 1.0
    """Weight of success itself (0 or 1)."""
    reaching: NonNegative = 1.0
    """Weight of 1 - tanh(distance of the peg's centre to the hole's)."""
    perpendicular: NonNegative = 1.0
    """Weight of 1 - tanh(d), d the distance of the hole's centre to the peg's axis."""
    parallel: NonNegative = 1.0
    """Weight of 1 - tanh(|t|), t the position of the hole's centre along the peg's axis."""
    alignment: NonNegative = 1.0
    """Weight of cos of the angle between the peg's axis and the hole's."""


class PegInHoleConfig(EnvSection):
    """robosuite's two-arm tasks, two agents, one arm each."""

    kind: Literal["peg_in_hole"] = "peg_in_hole"
    """Which environment."""
    task: Literal["TwoArmPegInHole", "TwoArmLift", "TwoArmHandover", "TwoArmTransport"] = (
        "TwoArmPegInHole"
    )
    """Task of robosuite."""
    robots: tuple[str, str] = ("Panda", "Panda")
    """Robot models of robosuite, agent_0 first."""
    arrangement: Literal["opposed", "parallel"] = "opposed"
    """Where the arms stand (robosuite's env_configuration)."""
    reward: Literal["staged", "dense", "sparse"] = "staged"
    """staged: first aligned on the axis at a distance, then in (leads to success); dense:
    robosuite's; sparse: success."""
    reward_weights: RewardWeights = RewardWeights()
    """Weights of the terms of the dense reward."""
    observations: Literal["state", "proprio"] = "state"
    """What the vector holds: state is the arm's proprioceptive state and the object's; proprio the
    arm's alone."""
    terminate_on_success: bool = False
    """Whether success ends the episode (with a positive dense reward, ending early is a loss)."""
    cameras: tuple[str, ...] = ()
    """Cameras rendered for the agents; `robot{i}_...` ones are seen by agent i alone. Empty: no
    images."""
    image_size: Annotated[int, Field(ge=16, le=1024)] = 224
    """Height and width of the images in pixels."""
    render_quality: Literal["full", "fast", "lite"] = "full"
    """How the agents' images are drawn: full as robosuite does, pixel for pixel; fast without
    shadows, reflections and multisampling; lite with coarser meshes besides. Without a GPU fast is
    four times as fast as full, lite twenty times (docs/ENVIRONMENT.md). Videos are full."""
    control_hz: Annotated[int, Field(ge=1, le=500)] = 20
    """Control steps a simulated second."""
    backend: Literal["compiled", "robosuite"] = "compiled"
    """Who computes the arms' torques: compiled code, or robosuite, which gives the same numbers in
    six times the time. Compiled code is made when first used, which takes ten seconds, and kept."""

    @model_validator(mode="after")
    def _choices_fit_the_task(self) -> PegInHoleConfig:
        has_dense = self.task != "TwoArmTransport"
        known = {"staged": self.task == "TwoArmPegInHole", "dense": has_dense, "sparse": True}
        if not known[self.reward]:
            raise ValueError(
                f"env.reward={self.reward}: {self.task} has no such reward; use env.reward="
                + ("dense or sparse" if has_dense else "sparse")
            )
        weighted = self.reward == "dense" and self.task == "TwoArmPegInHole"
        if self.reward_weights != RewardWeights() and not weighted:
            raise ValueError(
                "env.reward_weights belong to env.reward=dense of TwoArmPegInHole; "
                f"env.reward={self.reward} of {self.task} ignores them"
            )
        if 500 % self.control_hz:
            raise ValueError(
                f"env.control_hz {self.control_hz} does not divide the 500 physics steps a second; "
                "use 10, 20, 25, 50 or 100"
            )
        return self


class PettingZooConfig(EnvSection):
    """Any `pettingzoo.ParallelEnv`."""

    kind: Literal["pettingzoo"]
    """Which environment."""
    factory: Annotated[str, Field(pattern=r"^[\w.]+:[\w.]+$")]
    """`module:function` that makes the ParallelEnv, for example
    mpe2.simple_spread_v3:parallel_env."""
    factory_kwargs: dict[Identifier, bool | int | float | str | None] = {}
    """Keyword arguments of the factory."""
    team_reward: Literal["mean", "sum"] = "mean"
    """How the agents' rewards become the team's."""


class GameConfig(EnvSection):
    """Small games with known solutions."""

    kind: Literal["game"]
    """Which environment."""
    game: Literal["partition", "sum_coordination", "climbing", "penalty"]
    """Which game."""
    num_agents: Annotated[int, Field(ge=2, le=64)] | None = None
    """Agents of sum_coordination (null: 4); the other games have two."""

    @model_validator(mode="after")
    def _two_agents(self) -> GameConfig:
        if self.game != "sum_coordination" and self.num_agents not in (None, 2):
            raise ValueError(
                f"env.num_agents {self.num_agents}: {self.game} is a game of two agents"
            )
        return self


class FakeConfig(EnvSection):
    """A point for each agent to bring to a target: real protocol, microseconds a step."""

    kind: Literal["fake"]
    """Which environment."""
    num_agents: Annotated[int, Field(ge=1, le=64)] = 2
    """Agents."""
    image_size: Annotated[int, Field(ge=4, le=1024)] | None = None
    """Height and width of images that are seen besides the vector; null: no images."""


EnvConfig = Annotated[
    PegInHoleConfig | PettingZooConfig | GameConfig | FakeConfig, Field(discriminator="kind")
]
