"""The configuration schema: every key with its type, range, default and meaning.

One schema serves defaults, validation, `--help` and the table of the documentation. It never reads
the environment, touches the disk or adjusts itself. `config_errors.parse_config` is the one way
from a dict to a config.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from marlcore.config_env import (
    Count,
    Discount,
    EnvConfig,
    EnvSection,
    FakeConfig,
    GameConfig,
    NonNegative,
    PegInHoleConfig,
    PettingZooConfig,
    Positive,
    RewardWeights,
    Section,
    Sizes,
)
from marlcore.config_run import DistributedConfig, LoggingConfig, TrainingConfig

__all__ = [
    "ACPPOConfig",
    "AlgorithmConfig",
    "CNNConfig",
    "DistributedConfig",
    "EnvConfig",
    "EnvSection",
    "ExperimentConfig",
    "FakeConfig",
    "GameConfig",
    "IPPOConfig",
    "LoggingConfig",
    "MAPPOConfig",
    "MLPConfig",
    "OpenVLAConfig",
    "PPOConfig",
    "PegInHoleConfig",
    "PerceptronSection",
    "PettingZooConfig",
    "PolicyConfig",
    "RewardWeights",
    "TinyConfig",
    "TrainingConfig",
]


class GaussianSection(Section):
    """The noise of continuous actions: a standard deviation that no observation changes."""

    initial_log_std: Annotated[float, Field(ge=-5, le=2)] = -0.7
    """log of the Gaussian's standard deviation at the start, the same for every action
    dimension."""
    learn_std: bool = True
    """Whether the standard deviation is learned."""
    final_log_std: Annotated[float, Field(ge=-5, le=2)] | None = None
    """Every update ends with the standard deviation at or below a straight line over the run,
    from exp(initial_log_std) to exp of this; null: there is no such line."""

    @model_validator(mode="after")
    def _noise_falls(self) -> GaussianSection:
        if self.final_log_std is not None and self.final_log_std > self.initial_log_std:
            raise ValueError(
                f"policy.final_log_std {self.final_log_std} is above policy.initial_log_std "
                f"{self.initial_log_std}; give a lower number, or null for noise without a bound"
            )
        return self


class PerceptronSection(GaussianSection):
    """Perceptrons that act, and perceptrons that judge: what `mlp` and `cnn` share."""

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
    normalise_observations: bool = True
    """Whether observations are normalised by running moments."""
    observation_clip: Positive = 5.0
    """Bound of a normalised observation."""
    critic: Literal["state", "light"] = "state"
    """state: CentralizedValueNetwork on the global state; light: LightweightCentralizedCritic on
    the arms' proprio."""
    critic_hidden_sizes: Sizes = (128, 128)
    """Widths of the critics' hidden layers."""


class MLPConfig(PerceptronSection):
    """Multi-layer perceptrons on vectors: a Gaussian or categorical actor per agent, or one."""

    kind: Literal["mlp"] = "mlp"
    """Which policy."""


class CNNConfig(PerceptronSection):
    """Small convolutional networks on images, and perceptrons on what they make of them."""

    kind: Literal["cnn"]
    """Which policy."""
    see_vector: bool = True
    """Whether actors also read the vector observation; false: images alone."""
    image_feature_size: Count = 64
    """Numbers that the convolutions make of one agent's images."""


class TinyConfig(Section):
    """One linear layer per agent: the smallest real policy, for tests."""

    kind: Literal["tiny"]
    """Which policy."""


class OpenVLAConfig(GaussianSection):
    """OpenVLA-OFT: a vision-language-action model for each agent, on one frozen backbone."""

    kind: Literal["openvla"]
    """Which policy."""
    pretrained_checkpoint: Annotated[str, Field(min_length=1)]
    """Folder or hub id of an OpenVLA or OpenVLA-OFT checkpoint; tiny: a small random one, made on
    the spot."""
    pretrained_adapter: str | None = None
    """Folder with a LoRA adapter in PEFT's layout that is merged into the backbone; null: none."""
    share_policy: bool = True
    """One adapter and action head for all agents, or one each."""
    instruction: str | None = None
    """What every agent is told to do; null: what the environment tells each."""
    statistics: Literal["task", "checkpoint"] = "task"
    """What scales proprio and actions: quantiles of the environment, or of the checkpoint."""
    unnorm_key: str | None = None
    """Data set of the checkpoint's statistics; null: the only one."""
    image_preparation: Literal["libero", "plain"] = "libero"
    """libero: mirrored and cropped as LIBERO checkpoints saw their pictures; plain: as rendered."""
    share_proprio: bool = False
    """Whether an estimate of another agent's actions knows that agent's proprio."""
    initial_log_std: Annotated[float, Field(ge=-5, le=2)] = -1.0
    """log of the Gaussian's standard deviation at the start, in units of the environment."""
    min_log_std: Annotated[float, Field(ge=-10, le=2)] = -4.0
    """Floor of it."""
    max_log_std: Annotated[float, Field(ge=-10, le=2)] = 0.0
    """Ceiling of it."""
    lora_rank: Count = 32
    """Rank of the adapters."""
    lora_alpha: Positive = 16.0
    """The adapters' update is multiplied by lora_alpha / lora_rank."""
    lora_layers: Annotated[int, Field(ge=0)] | None = None
    """How many of the upper layers have adapters; null: all; 0: the heads alone are trained."""
    lora_targets: str = r"self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj"
    """Regular expression on the names of a layer's linear maps that have adapters."""
    critic: Literal["light", "hidden"] = "light"
    """light: critics on the arms' proprio; hidden: on mean-pooled hidden states and proprio."""
    critic_hidden_size: Count = 256
    """Width of the critics' hidden layer."""
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """Type of the backbone; auto: bfloat16 on a GPU, float32 on a CPU. Heads, log-probs and
    everything that is trained are float32."""
    activation_checkpointing: Literal["auto", "on", "off"] = "auto"
    """Whether the backward pass computes each layer again; auto: only where a row of the update
    would not fit into memory otherwise."""
    train_proprio_projector: bool = True
    """Whether the proprio projectors are trained."""
    cache_boundary: bool = False
    """Whether what goes into the first adapted layer is kept for the epochs instead of computed
    again; needs policy.lora_layers, policy.train_proprio_projector=false and agents without
    beliefs, so that nothing below that layer changes."""
    compile: bool = False
    """Whether torch.compile compiles the trunk's layers (which takes a while at the start)."""
    feature_memory_gib: NonNegative = 16.0
    """Image features of a rollout that need more memory than this lie in a file."""
    feature_folder: str | None = None
    """Where that file is; null: the system's temporary folder."""

    @field_validator("lora_targets")
    @classmethod
    def _a_regular_expression(cls, text: str) -> str:
        try:
            re.compile(text)
        except re.error as error:
            raise ValueError(
                f"policy.lora_targets {text!r} is no regular expression: {error}; the default is "
                f"{cls.model_fields['lora_targets'].default}"
            ) from None
        return text

    @model_validator(mode="after")
    def _ordered_log_std(self) -> OpenVLAConfig:
        if not self.min_log_std <= self.initial_log_std <= self.max_log_std:
            raise ValueError(
                f"policy.initial_log_std {self.initial_log_std} is not between policy.min_log_std "
                f"{self.min_log_std} and policy.max_log_std {self.max_log_std}"
            )
        if self.final_log_std is not None and self.final_log_std < self.min_log_std:
            raise ValueError(
                f"policy.final_log_std {self.final_log_std} is below policy.min_log_std "
                f"{self.min_log_std}; give a higher number, or lower min_log_std as well"
            )
        if self.cache_boundary and (self.lora_layers is None or self.train_proprio_projector):
            raise ValueError(
                "policy.cache_boundary=true keeps what the lower layers computed, so nothing below "
                "may be trained: set policy.lora_layers and policy.train_proprio_projector=false"
            )
        return self


PolicyConfig = Annotated[
    MLPConfig | CNNConfig | TinyConfig | OpenVLAConfig, Field(discriminator="kind")
]


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
    """Rows of one forward-backward; null: the whole minibatch, or as much of it as fits into
    memory with OpenVLA. Changes memory, not results."""
    recompute_log_probs: bool | None = None
    """Whether the update first computes the log-probs of the rollout anew, in its own batches, so
    that the first ratios are exactly 1 however batches of another size round; null: with OpenVLA
    alone."""
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
    lambda_prime: Discount | None = 0.95
    """lambda of the microstep advantage estimate; null: gae_lambda ** (1 / number of agents)."""
    gae_lambda: Discount = 0.95
    """lambda of a decision, from which lambda_prime=null derives that of a microstep; of the plain
    estimate that ablation=belief_only uses."""
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
    distributed: DistributedConfig = DistributedConfig()
    """How the processes of a run find and hear each other."""
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
