"""The part of the schema that says how a run is made: its length, processes and records."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from marlcore.config_env import Count, Positive, Section


class TrainingConfig(Section):
    """How long, how wide, where."""

    total_timesteps: Count = 200_000
    """Env steps of the run, over all environments and processes."""
    num_envs: Count = 2
    """E: environments of one process."""
    num_workers: Annotated[int, Field(ge=0)] | None = None
    """Processes that run the environments; 0: this one; null: one a core, no more than
    environments."""
    num_env_groups: Count = 1
    """Groups of environments that take turns while a rollout is collected: the policy decides for
    one while the others step. Smaller batches for the policy, busier cores; what is sampled stays
    the same. Each needs workers of its own."""
    stagger_episodes: bool = False
    """Cuts the first episode of every environment short, each at another env step: environments
    that begin together end together, and rollouts shorter than an episode then hold one part of it
    after another."""
    worker_timeout_s: Positive = 60.0
    """Seconds after which a silent worker counts as hung and is restarted."""
    num_steps_per_rollout: Count = 1000
    """T: decisions of each environment between two updates."""
    start_from: Annotated[str, Field(min_length=1)] | None = None
    """Run or checkpoint whose actors training starts from; null: fresh ones, or pretrained ones."""
    demonstrations: Annotated[str, Field(min_length=1)] | None = None
    """Folder of demonstrations (experiments/collect_demos.py) that the actors are fitted to, in
    place of learning from rewards; null: none."""
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
    num_gpus: Count | None = None
    """Processes that the command starts on this machine, one a GPU (with device=cpu: so many
    processes); null: one, or what torchrun or Slurm started."""
    num_threads: Count | None = 1
    """Threads of torch on the CPU; null: torch's own choice."""

    @model_validator(mode="after")
    def _groups_have_workers(self) -> TrainingConfig:
        for name, most in (("num_envs", self.num_envs), ("num_workers", self.num_workers)):
            if most is not None and self.num_env_groups > max(most, 1):
                raise ValueError(
                    f"training.num_env_groups {self.num_env_groups} is more than training.{name} "
                    f"{most}: every group needs environments and workers of its own"
                )
        return self


class DistributedConfig(Section):
    """How the processes of a run find and hear each other; no result depends on it."""

    connect_timeout_s: Positive = 60.0
    """Seconds in which all processes must have found each other; then the run fails, and says who
    is missing where."""
    collective_timeout_s: Positive = 600.0
    """Seconds that a process waits for the others, for example while the first one evaluates."""
    socket_interface: Annotated[str, Field(min_length=1)] | None = None
    """Network interface of gloo and NCCL, for example ib0 or eth0 (GLOO_SOCKET_IFNAME and
    NCCL_SOCKET_IFNAME); null: their own choice."""
    infiniband: bool | None = None
    """false turns InfiniBand off (NCCL_IB_DISABLE=1); null leaves it to the environment."""
    p2p: bool | None = None
    """false turns direct copies between GPUs off (NCCL_P2P_DISABLE=1); null leaves it to the
    environment."""
    nccl_debug: Literal["VERSION", "WARN", "INFO", "TRACE"] | None = None
    """What NCCL prints (NCCL_DEBUG); null leaves it to the environment."""


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
