"""What is known of a run, wherever it was read from: a run directory or MongoDB."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

RUNNING, COMPLETED, FAILED = "RUNNING", "COMPLETED", "FAILED"
INTERRUPTED, PREEMPTED, TIMEOUT = "INTERRUPTED", "PREEMPTED", "TIMEOUT"
DEAD = "DEAD"
"""Its process is gone without having said how it ended. Never written, always derived."""
NEW = "NEW"
"""Its directory was made, and nothing recorded yet."""
PRUNED = "PRUNED"
"""A sweep saw that it was not worth to go on; `marl resume` would."""
QUEUED = "QUEUED"
"""It waits for a scheduler to start it."""
DAMAGED = "DAMAGED"
"""Its record cannot be read; `marl doctor` says which file."""

DEAD_AFTER_S = 60.0
"""Seconds without a heartbeat after which a run on another machine is called dead."""


@dataclass(frozen=True)
class RunView:
    """A summary of a run. Times are seconds since 1970."""

    id: str
    name: str
    """The script: acppo, mappo, ..."""
    status: str
    """One of those above."""
    config: Mapping[str, Any]
    """The resolved configuration by dotted keys."""
    attempt: int = 0
    started: float | None = None
    ended: float | None = None
    heartbeat: float | None = None
    host: str = ""
    env_steps: int | None = None
    """Of the last record."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """The last value of every metric."""
    tags: tuple[str, ...] = ()
    notes: str = ""
    commit: str | None = None
    dirty: bool = False
    error: str | None = None
    """Last line of the traceback of a run that failed."""
    where: str = "disk"
    """disk, mongo or both."""
    mongo_id: Any = None
    """Its number in MongoDB and Omniboard; of a run that others wrote, whatever they took."""
    study: str = ""
    """Of a sweep's run: its study."""
    trial: int | None = None
    """Its number there."""
    role: str = ""
    """tuning, or test for a run on a fresh seed."""
    directory: str | None = None
    """Where it lies; None if MongoDB alone has it."""

    @property
    def seconds(self) -> float | None:
        """From the first start to the end, or to the last sign of life."""
        last = self.ended if self.ended is not None else self.heartbeat
        return None if self.started is None or last is None else max(0.0, last - self.started)


@dataclass(frozen=True)
class Series:
    """One metric of a run; what is not finite stands as it is."""

    steps: list[int]
    """Env steps."""
    times: list[float]
    values: list[float]


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A configuration by dotted keys; an empty section is itself."""
    result: dict[str, Any] = {}
    _flatten(config, prefix, result)
    return result


def _flatten(config: Mapping[str, Any], prefix: str, result: dict[str, Any]) -> None:
    for name, value in config.items():
        if isinstance(value, dict) and value:
            _flatten(value, f"{prefix}{name}.", result)
        else:
            result[prefix + name] = value
