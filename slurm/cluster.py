"""Slurm's own commands, asked with a time limit; what they refuse is a clear error."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from marlcore.config_errors import ConfigError

ACTIVE = ("PENDING", "RUNNING", "SUSPENDED", "COMPLETING", "CONFIGURING", "REQUEUED", "STOPPED")
_SEPARATOR = "|"


@dataclass(frozen=True)
class JobState:
    """What Slurm says of a job."""

    id: str
    """Of an array's element: 12_3."""
    state: str
    """PENDING, RUNNING, COMPLETED, FAILED, ..."""
    reason: str = ""
    """Why it waits, or how it ended."""
    partition: str = ""
    nodes: str = ""

    @property
    def is_active(self) -> bool:
        """Whether it waits or runs."""
        return self.state in ACTIVE


def call(*words: str, timeout_s: float = 60.0, check: bool = True) -> str:
    """Run a command of Slurm's; returns what it printed.

    Raises:
        ConfigError: it is not there, says no, or does not answer.
    """
    done = _ask(words, timeout_s)
    if check and done.returncode:
        said = " ".join((done.stderr or done.stdout).split()) or f"exit code {done.returncode}"
        raise ConfigError(f"{words[0]} refused: {said}")
    return done.stdout


def _ask(words: Sequence[str], timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            words, capture_output=True, text=True, timeout=timeout_s, check=False, errors="replace"
        )
    except FileNotFoundError:
        raise ConfigError(
            f"there is no {words[0]} here; run this on a login node of a Slurm cluster, or use "
            "--local N for N processes on this machine"
        ) from None
    except subprocess.TimeoutExpired:
        raise ConfigError(
            f"{words[0]} has not answered for {timeout_s:g} s; `scontrol ping` says whether the "
            "controller is up"
        ) from None


def is_here() -> bool:
    """Whether this machine can submit jobs."""
    return shutil.which("sbatch") is not None


def submit(script: Path, *options: str) -> str:
    """Hand a batch script to Slurm; returns the job's id."""
    answer = call("sbatch", "--parsable", *options, str(script))
    return answer.strip().splitlines()[-1].partition(";")[0]


def test_only(script: Path, *options: str) -> str:
    """What Slurm says of a script that it is not to run: when and where it would.

    Raises:
        ConfigError: it would refuse it.
    """
    done = _ask(["sbatch", "--test-only", *options, str(script)])
    said = " ".join((done.stderr + done.stdout).split())
    if done.returncode:
        raise ConfigError(f"sbatch --test-only refused: {said}")
    return said


def states(job_ids: Iterable[str]) -> dict[str, JobState]:
    """What Slurm says of these jobs; those that it has forgotten are left out."""
    wanted = set(job_ids)
    if not wanted:
        return {}
    found = _queue(wanted)
    missing = wanted - {name for name, one in found.items() if one.is_active}
    return {**_history(missing), **found} if missing else found


def _queue(wanted: set[str]) -> dict[str, JobState]:
    form = _SEPARATOR.join(("%i", "%T", "%r", "%P", "%N"))
    found: dict[str, JobState] = {}
    for line in call(
        "squeue", "--me", "--noheader", "--array", "--states=all", "-o", form
    ).splitlines():
        job_id, state, reason, partition, nodes = (line.split(_SEPARATOR) + [""] * 4)[:5]
        if job_id in wanted:
            found[job_id] = JobState(job_id, state, _plain(reason), partition, nodes)
    return found


def _history(wanted: set[str]) -> dict[str, JobState]:
    """From accounting, where there is one."""
    roots = ",".join(sorted({job_id.partition("_")[0] for job_id in wanted}))
    form = "--format=JobID%40,State%40,ExitCode,Partition,NodeList%100"
    words = ("sacct", "--noheader", "--parsable2", "--allocations", form, "-j", roots)
    found: dict[str, JobState] = {}
    try:
        lines = call(*words).splitlines()
    except ConfigError:
        return {}
    for line in lines:
        job_id, state, code, partition, nodes = (line.split(_SEPARATOR) + [""] * 4)[:5]
        if job_id in wanted:
            word = state.split()[0] if state else "UNKNOWN"  # CANCELLED by 0
            reason = "" if code in ("0:0", "") else f"exit {code}"
            found[job_id] = JobState(job_id, word, reason, partition, nodes)
    return found


def _plain(reason: str) -> str:
    return "" if reason in ("None", "(null)") else reason


def facts(kind: str, name: str = "") -> list[Mapping[str, str]]:
    """What `scontrol show KIND` says: a mapping an object."""
    words = ("scontrol", "--oneliner", "show", kind, *([name] if name else []))
    answers = [line for line in call(*words).splitlines() if line.strip()]
    return [_pairs(line) for line in answers]


def _pairs(line: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    last = ""
    for word in line.split(" "):
        name, equals, value = word.partition("=")
        if equals:
            pairs.setdefault(name, value)  # a Reason may hold what looks like a pair
            last = name
        elif last:  # values may hold spaces
            pairs[last] = f"{pairs[last]} {word}".strip()
    return pairs


def configuration() -> dict[str, str]:
    """What `scontrol show config` says."""
    pairs = (line.partition("=") for line in call("scontrol", "show", "config").splitlines())
    return {name.strip(): value.strip() for name, equals, value in pairs if equals}
