"""The configuration schema: every key with its type, range, default and meaning.

One schema serves defaults, validation, `--help` and the table of the documentation. It never reads
the environment, touches the disk or adjusts itself. `config_errors.parse_config` is the one way
from a dict to a config.
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
    control_hz: Annotated[int, Field(ge=1, le=500)] = 20
    """Control steps a simulated second."""
    backend: Literal["robosuite", "compiled"] = "robosuite"
    """Who computes the arms' torques: robosuite, or compiled code that gives the same numbers in a
    third of the time (TwoArmPegInHole alone; compiles for some seconds when first used)."""

    @model_validator(mode="after")
    def _choices_fit_the_task(self) -> PegInHoleConfig:
        if self.task != "TwoArmPegInHole":
            if self.reward == "staged" or (self.reward, self.task) == ("dense", "TwoArmTransport"):
                raise ValueError(
                    f"env.reward={self.reward}: {self.task} has no such reward; use env.reward="
                    + ("sparse" if self.task == "TwoArmTransport" else "dense or sparse")
                )
            if self.backend == "compiled":
                raise ValueError(
                    "env.backend=compiled computes arms without grippers, which TwoArmPegInHole "
                    f"alone has; with {self.task} use env.backend=robosuite"
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


class MLPConfig(Section):
    """Multi-layer perceptrons on vectors: a Gaussian or categorical actor per agent, or one."""

    kind: Literal["mlp"] = "mlp"
    """Which policy."""
    share_policy: bool = False
    """One actor for all agents, or one each."""
    agent_id: bool = True
    """Whether a shared actor is told whom it acts for (one-hot)."""
    hidden_sizes: Sizes = (128, 128)
    """Widths of the actors' hidden layers."""
    activation: Literal["tanh", "relu"] = "tanh"
    """Non-linearity between layers."""
    output_gain: Positive = 0.01
    """Gain of the orthogonal initialisation of the actor's last layer."""
    initial_log_std: Annotated[float, Field(ge=-5, le=2)] = -0.7
    """log of the Gaussian's standard deviation at the start, the same for every action
    dimension."""
    learn_std: bool = True
    """Whether the standard deviation is learned."""
    normalise_observations: bool = True
    """Whether observations are normalised by running moments."""
    observation_clip: Positive = 5.0
    """Bound of a normalised observation."""
    critic: Literal["state", "light"] = "state"
    """state: CentralizedValueNetwork on the global state; light: LightweightCentralizedCritic on
    the arms' proprio."""
    critic_hidden_sizes: Sizes = (128, 128)
    """Widths of the critics' hidden layers."""


class TinyConfig(Section):
    """One linear layer per agent: the smallest real policy, for tests."""

    kind: Literal["tiny"]
    """Which policy."""


PolicyConfig = Annotated[MLPConfig | TinyConfig, Field(discriminator="kind")]


class PPOConfig(Section):
    """The update, the same for every algorithm (arXiv 1707.06347)."""

    gamma: Discount = 0.99
    """Discount of a decision."""
    clip_epsilon: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Half-width of the interval the probability ratio is clipped to."""
    entropy_coef: NonNegative = 0.0
    """Weight of the entropy bonus."""
    value_coef: NonNegative = 0.5
    """Weight of the value loss."""
    actor_lr: Positive = 3e-4
    """Learning rate of the actors."""
    critic_lr: Positive = 3e-4
    """Learning rate of the critics."""
    lr_decay: bool = False
    """Whether both learning rates fall linearly to zero over the run."""
    num_epochs: Count = 8
    """Passes over a rollout."""
    num_minibatches: Count = 8
    """Optimiser steps a pass; divides the decisions of a rollout."""
    microbatch_size: Count | None = None
    """Rows of one forward-backward; null: the whole minibatch. Changes memory, not results."""
    max_grad_norm: Positive = 0.5
    """Bound of the gradient's norm, actors and critics each."""
    target_kl: Positive | None = None
    """Ends the update when the policy has moved this far (approx_kl); null: never."""
    ratio_level: Literal["chunk", "action"] = "chunk"
    """One probability ratio per chunk, or one per low-level action with the chunk's advantage."""
    normalise_advantages: bool = True
    """Whether advantages are normalised, per agent, over the whole rollout."""
    normalise_values: bool = False
    """Whether critics predict normalised targets (running mean and std)."""
    value_clip: Positive | None = None
    """Bound of a value's change in one update, in the critic's unit; null: none."""
    huber_delta: Positive | None = None
    """Where the value loss turns from quadratic to linear; null: quadratic throughout."""


class MAPPOConfig(PPOConfig):
    """Multi-agent PPO with a central critic (arXiv 2103.01955)."""

    name: Literal["mappo"] = "mappo"
    """Which algorithm."""
    gae_lambda: Discount = 0.95
    """lambda of the generalised advantage estimate."""


class IPPOConfig(PPOConfig):
    """Independent PPO: each agent with a critic on its own observation (arXiv 2011.09533)."""

    name: Literal["ippo"] = "ippo"
    """Which algorithm."""
    gae_lambda: Discount = 0.95
    """lambda of the generalised advantage estimate."""


class ACPPOConfig(PPOConfig):
    """Agent-chained PPO: beliefs, critics per agent, microstep advantages (arXiv 2606.30072)."""

    name: Literal["acppo"] = "acppo"
    """Which algorithm."""
    gamma_prime: Discount | None = 0.99
    """Discount of a microstep; null: gamma ** (1 / number of agents)."""
    lambda_prime: Discount = 0.95
    """lambda of the microstep advantage estimate."""
    gae_lambda: Discount = 0.95
    """lambda of the plain estimate that ablation=belief_only uses."""
    belief: Literal["estimate", "learned", "oracle"] = "estimate"
    """What an agent knows of earlier agents' actions: their policy on what it can see, a learned
    guess, or the truth."""
    belief_lr: Positive = 1e-3
    """Learning rate of belief=learned."""
    detach_action_dist_grad: bool = True
    """Whether no gradient flows into the belief; false recomputes an estimate with gradient (an
    ablation)."""
    ablation: Literal["none", "belief_only", "gae_only"] = "none"
    """belief_only: beliefs with plain GAE; gae_only: microstep advantages without beliefs."""

    @model_validator(mode="after")
    def _gradient_into_estimates_only(self) -> ACPPOConfig:
        has_estimate = self.belief == "estimate" and self.ablation != "gae_only"
        if not self.detach_action_dist_grad and not has_estimate:
            raise ValueError(
                "algorithm.detach_action_dist_grad=false needs algorithm.belief=estimate: a stored "
                f"belief is data, and with belief={self.belief}, ablation={self.ablation} there is "
                "nothing for a gradient to flow into"
            )
        return self


AlgorithmConfig = Annotated[MAPPOConfig | ACPPOConfig | IPPOConfig, Field(discriminator="name")]


class TrainingConfig(Section):
    """How long, how wide, where."""

    total_timesteps: Count = 200_000
    """Env steps of the run, over all environments and processes."""
    num_envs: Count = 2
    """E: environments of one process."""
    num_workers: Annotated[int, Field(ge=0)] | None = None
    """Processes that run the environments; 0: this one; null: one a core, no more than
    environments."""
    worker_timeout_s: Positive = 60.0
    """Seconds after which a silent worker counts as hung and is restarted."""
    num_steps_per_rollout: Count = 1000
    """T: decisions of each environment between two updates."""
    stop_success_rate: Annotated[float, Field(gt=0, le=1)] | None = None
    """Ends the run early once this share of the newest `stop_window` episodes succeeded; null:
    never."""
    stop_window: Count = 20
    """Episodes that stop_success_rate looks at."""
    evaluate_every: Count | None = None
    """Env steps between evaluations; null: at the end alone."""
    num_eval_episodes: Count = 20
    """Episodes of an evaluation."""
    checkpoint_every: Count = 50_000
    """Env steps between checkpoints."""
    keep_checkpoints: Count = 3
    """Newest checkpoints kept; the best one stays besides."""
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    """Where the networks run: auto, cpu, cuda or cuda:1."""
    num_threads: Count | None = 1
    """Threads of torch on the CPU; null: torch's own choice."""


class LoggingConfig(Section):
    """What is written besides the run's own files."""

    console: Literal["auto", "rich", "plain", "off"] = "auto"
    """Progress: rich on a terminal, plain lines otherwise."""
    tensorboard: bool = False
    """Whether metrics go to TensorBoard files as well."""
    wandb: Literal["off", "offline", "online"] = "off"
    """Whether metrics go to Weights & Biases as well."""
    wandb_project: str = "marlcore"
    """Project there."""
    wandb_entity: str | None = None
    """User or team there; null: the account's default."""
    video: bool = True
    """Whether the final evaluation writes a video."""


class ExperimentConfig(Section):
    """Everything that defines a run."""

    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    """Seed of every generator of the run."""
    env: EnvConfig = PegInHoleConfig()
    """The environment."""
    policy: PolicyConfig = MLPConfig()
    """The agents' networks."""
    algorithm: AlgorithmConfig
    """The algorithm."""
    training: TrainingConfig = TrainingConfig()
    """How long, how wide, where."""
    logging: LoggingConfig = LoggingConfig()
    """What is written besides the run's own files."""

    @model_validator(mode="after")
    def _whole_minibatches(self) -> ExperimentConfig:
        rows = self.training.num_envs * self.training.num_steps_per_rollout
        if rows % self.algorithm.num_minibatches:
            raise ValueError(
                f"{rows} rows do not split into {self.algorithm.num_minibatches} minibatches; set "
                f"algorithm.num_minibatches to a divisor of {rows} "
                "(training.num_envs * training.num_steps_per_rollout)"
            )
        return self
