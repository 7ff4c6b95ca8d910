"""What a job asks of a cluster: a preset file, and what the command line changes of it.

slurm/presets/h100x8.yaml      the keys of `Resources`, in YAML
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from experiments._yaml import convert, read_yaml
from marlcore import config_keys
from marlcore.config_env import Count, Positive, Section
from marlcore.config_errors import ConfigError, show

PRESETS = Path(__file__).resolve().parent / "presets"
_TIME = r"^(\d+-\d+(:\d+){0,2}|\d+(:\d+){0,2})$"


class Resources(Section):
    """What a job asks for; null leaves it to the cluster."""

    partition: str | None = None
    """Where it waits."""
    account: str | None = None
    """Who pays."""
    qos: str | None = None
    """Quality of service."""
    constraint: str | None = None
    """Features that the nodes must have."""
    nodes: Count = 1
    """Machines."""
    gpus_per_node: Annotated[int, Field(ge=0)] = 0
    """GPUs of each."""
    gpu_type: str | None = None
    """Which, for example h100."""
    tasks_per_node: Count | None = None
    """Processes of each; null: one a GPU, or one."""
    cpus_per_task: Count = 4
    """Cores of a process, for itself and its environment workers."""
    memory_gib: Positive | None = None
    """Memory of each node."""
    time: Annotated[str, Field(pattern=_TIME)] = "1:00:00"
    """Time limit as Slurm writes it: minutes, h:mm:ss or d-hh:mm:ss."""
    signal_delay_s: Annotated[int, Field(ge=10, le=65_000)] = 120
    """How long before the time limit (and before a preemption, where the cluster has
    preempt_send_user_signal) Slurm warns; an update and a checkpoint must fit into it."""
    max_attempts: Count = 20
    """Attempts after which a run that was preempted or timed out is not queued again."""
    environment: dict[str, str | int | float] = Field({})
    """Environment variables of the job."""
    setup: tuple[str, ...] = ()
    """Lines of the batch script before srun, for example `module load cuda`."""
    srun: tuple[str, ...] = ()
    """Further options of srun."""
    sbatch: dict[str, str | int | bool] = Field({})
    """Any other option of sbatch by its long name, for example {exclusive: true}."""

    @field_validator("time", mode="before")
    @classmethod
    def _minutes(cls, value: object) -> object:
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value

    @model_validator(mode="after")
    def _is_warned_in_time(self) -> Resources:
        if self.signal_delay_s * 2 > self.time_s:
            raise ValueError(
                f"signal_delay_s={self.signal_delay_s} is more than half of time={self.time}, and "
                "Slurm warns up to a minute early; give a longer time or a smaller signal_delay_s"
            )
        return self

    @model_validator(mode="after")
    def _names_are_names(self) -> Resources:
        for name in self.environment:
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                raise ValueError(f"environment: {show(name)} is no name of a variable")
        for name, value in self.sbatch.items():
            if not re.fullmatch(r"[a-z][a-z0-9-]*", name):
                raise ValueError(
                    f"sbatch: {show(name)} is no long option; write it without --, as exclusive"
                )
            if name in _OURS:
                raise ValueError(f"sbatch: {name} is set by {_OURS[name]}")
            if "\n" in str(value):
                raise ValueError(f"sbatch: {name} has a line break")
        return self

    @property
    def num_tasks_per_node(self) -> int:
        """Processes of each node."""
        return self.tasks_per_node or self.gpus_per_node or 1

    @property
    def time_s(self) -> int:
        """The time limit in seconds."""
        days, dash, rest = self.time.rpartition("-")
        parts = [int(part) for part in rest.split(":")]
        if dash:  # d-h[:m[:s]]
            hours, minutes, seconds = (*parts, 0, 0)[:3]
        elif len(parts) == 3:
            hours, minutes, seconds = parts
        else:  # m[:s]
            hours, minutes, seconds = 0, *(*parts, 0)[:2]
        return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


_OURS = {
    "output": "the run's directory (logs/)",
    "error": "the run's directory (logs/)",
    "open-mode": "attempts, which append to the same logs",
    "array": "--seeds",
    "signal": "signal_delay_s",
    "time": "time",
    "nodes": "nodes",
    "ntasks-per-node": "tasks_per_node",
    "cpus-per-task": "cpus_per_task",
    "gpus-per-node": "gpus_per_node",
    "partition": "partition",
    "account": "account",
    "qos": "qos",
    "constraint": "constraint",
    "mem": "memory_gib",
    "dependency": "--after and --chain",
    "job-name": "the run's id",
    "no-requeue": "max_attempts: 1",
}


def load(preset: str | None, changes: Mapping[str, Any]) -> Resources:
    """The resources of a preset (a name, or a file) with changes over them.

    Raises:
        ConfigError: there is no such preset, or a value of it is refused.
    """
    values, place = ({}, "") if preset is None else _read(preset)
    merged = {**values, **changes}
    for name in ("environment", "sbatch"):
        if name in values and name in changes:
            merged[name] = {**values[name], **changes[name]}
    return convert(Resources, merged, place=lambda name: "" if name in changes else place)


def names() -> list[str]:
    """The presets there are."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def _read(preset: str) -> tuple[dict[str, Any], str]:
    path = Path(preset) if preset.endswith((".yaml", ".yml")) else PRESETS / f"{preset}.yaml"
    try:
        return read_yaml(path), str(path)
    except FileNotFoundError:
        near = config_keys.nearest(preset, names())
        meant = f"did you mean {near}? " if near else ""
        raise ConfigError(
            f"--preset {show(preset)}: there is no {path}; {meant}there are {', '.join(names())}; "
            "your own is a file that ends in .yaml"
        ) from None
