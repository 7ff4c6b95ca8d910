"""What is known of a run's jobs: job.json in its directory, written when it is submitted.

The run exists before its job does: `create` comes first, then Slurm is asked.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments import _rundir
from experiments.tracking import spool
from marlcore.config_errors import ConfigError
from slurm.resources import Resources

LOGS = "logs"


@dataclass(frozen=True)
class Job:
    """A run that was submitted."""

    run_dir: Path
    argv: tuple[str, ...]
    """The script's name and its command line."""
    code: Path
    """Where the frozen code lies."""
    python: Path
    """The interpreter of the frozen environment."""
    resources: Resources
    submissions: tuple[Mapping[str, Any], ...]
    """job_id, time and what it waits for, the newest last."""
    is_cancelled: bool
    attempts: tuple[Mapping[str, Any], ...]
    """nodes, time and has_ended of every attempt that the batch script began."""
    words: tuple[str, ...]
    """Settings that were changed when it was resumed."""

    @property
    def id(self) -> str:
        """Of the run."""
        return self.run_dir.resolve().name

    @property
    def script(self) -> str:
        """Name of the script: acppo, ..."""
        return self.argv[0]

    @property
    def job_ids(self) -> list[str]:
        """Of all submissions, the newest last."""
        return [str(one["job_id"]) for one in self.submissions]

    @property
    def attempts_before(self) -> int:
        """Attempts of the run when it was submitted last."""
        return int(self.submissions[-1].get("attempts_before", 0)) if self.submissions else 0

    @property
    def logs(self) -> Path:
        """Where each process's output lies."""
        return self.run_dir / LOGS


def create(
    run_dir: Path, argv: Sequence[str], *, code: Path, python: Path, resources: Resources
) -> Job:
    """Write that the run is going to be submitted."""
    (run_dir / LOGS).mkdir(exist_ok=True)
    values = {
        "argv": list(argv),
        "code": str(code),
        "python": str(python),
        "resources": resources.model_dump(mode="json", exclude_defaults=True),
    }
    spool.update_json(
        run_dir / spool.JOB, lambda job: job.update({"submissions": []} | job | values)
    )
    return read(run_dir)


def read(run_dir: Path) -> Job:
    """What is known of a run's jobs.

    Raises:
        ConfigError: it was never submitted, or the record is damaged.
    """
    values = spool.read_json(run_dir / spool.JOB, {})
    try:
        return Job(
            run_dir=run_dir,
            argv=tuple(values["argv"]),
            code=Path(values["code"]),
            python=Path(values["python"]),
            resources=Resources.model_validate(values["resources"], strict=False),
            submissions=tuple(values["submissions"]),
            is_cancelled=bool(values.get("is_cancelled")),
            attempts=tuple(values.get("attempts", ())),
            words=tuple(values.get("words", ())),
        )
    except (KeyError, TypeError, ValueError) as error:
        if not (run_dir / spool.JOB).exists():
            raise ConfigError(
                f"run {run_dir.resolve().name} was never submitted to Slurm; python "
                "slurm/submit.py submits a new run, marl resume goes on with this one here"
            ) from None
        what = f"{type(error).__name__}: {error}"
        raise ConfigError(
            f"{run_dir / spool.JOB} is damaged ({what}); go on with the run here by marl resume "
            f"{run_dir.resolve().name}"
        ) from None


def find(text: str) -> Job:
    """The jobs of the run that an id, the beginning of one, or a directory means."""
    return read(_rundir.find_run(text))


def all_jobs() -> list[Job]:
    """Of every run that was submitted, the newest last; damaged records are named and left out."""
    found: list[Job] = []
    for path in sorted(_rundir.runs_dir().glob(f"*/{spool.JOB}")):
        try:
            found.append(read(path.parent))
        except ConfigError as error:
            print(f"note: {error}", file=sys.stderr)
    return found


def add_submission(run_dir: Path, job_id: str, **facts: Any) -> None:
    """Slurm took the run under this id."""

    def add(job: dict[str, Any]) -> None:
        others = [one for one in job.get("submissions", []) if one["job_id"] != job_id]
        job["submissions"] = [*others, {"job_id": job_id, "time": time.time(), **facts}]

    spool.update_json(run_dir / spool.JOB, add)


def begin_attempt(run_dir: Path, nodes: Sequence[str]) -> None:
    """An attempt begins on these nodes."""
    attempt = {"nodes": list(nodes), "time": time.time(), "has_ended": False}

    def add(job: dict[str, Any]) -> None:
        job["attempts"] = [*job.get("attempts", []), attempt]

    spool.update_json(run_dir / spool.JOB, add)


def end_attempt(run_dir: Path) -> None:
    """The attempt that began last came to its end, good or bad: its nodes were there."""

    def end(job: dict[str, Any]) -> None:
        for attempt in job.get("attempts", [])[-1:]:
            attempt["has_ended"] = True

    spool.update_json(run_dir / spool.JOB, end)


def add_lost(run_dir: Path, nodes: Sequence[str]) -> dict[str, int]:
    """These nodes were lost under the run; returns how often each node was."""

    def add(job: dict[str, Any]) -> None:
        lost = job.setdefault("lost", {})
        for node in nodes:
            lost[node] = lost.get(node, 0) + 1

    counts: dict[str, int] = spool.update_json(run_dir / spool.JOB, add)["lost"]
    return counts


def set_words(run_dir: Path, words: Sequence[str]) -> None:
    """Settings with which the run goes on, over those that it was begun with."""
    spool.update_json(run_dir / spool.JOB, lambda job: job.update(words=list(words)))


def set_cancelled(run_dir: Path, is_cancelled: bool) -> None:
    """Whether somebody does not want the run to go on: it is not queued again then."""
    spool.update_json(run_dir / spool.JOB, lambda job: job.update(is_cancelled=is_cancelled))
