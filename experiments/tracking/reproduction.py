"""A run's code, packages and command, as they were; and whether a second run gave the same."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments._arguments import read_arguments
from experiments._rundir import new_id
from experiments._words import full_name
from experiments.tracking.provenance import LOCK, ROOT
from experiments.tracking.redaction import environment_elsewhere
from experiments.tracking.store import Store
from experiments.tracking.view import Series
from marlcore.config_errors import ConfigError

_NEVER_THE_SAME = ("time/", "system/")
"""Metrics of how long it took and how much it took up."""


@dataclass(frozen=True)
class Source:
    """What a run was made from."""

    commit: str
    diff: bytes
    untracked: Mapping[str, bytes]
    lock: str | None
    packages: Mapping[str, str]


def source_of(run_id: str, provenance: Mapping[str, Any], store: Store) -> Source:
    """Read it back.

    Raises:
        ConfigError: it was not recorded, or not whole.
    """
    git = provenance.get("git")
    if not git:
        raise ConfigError(f"run {run_id} was not made from a git repository: its commit is unknown")
    if not git.get("changes_are_known", True):
        raise ConfigError(f"git did not answer when run {run_id} began: its changes are unknown")
    if git["diff_is_redacted"] or git.get("untracked_is_redacted"):
        raise ConfigError(
            f"the changes that run {run_id} was made with held a secret, which was not recorded; "
            "they cannot be applied as they were"
        )
    try:
        return Source(
            commit=git["commit"],
            diff=store.get(git["diff"]) if git["diff"] else b"",
            untracked={name: store.get(content) for name, content in git["untracked"].items()},
            lock=provenance.get("lock"),
            packages=provenance.get("packages", {}),
        )
    except OSError as error:
        raise ConfigError(f"what run {run_id} was made from is not whole: {error}") from None


@contextlib.contextmanager
def checked_out(source: Source, folder: Path) -> Iterator[Path]:
    """The code in a work tree at `folder`, which is removed afterwards.

    Raises:
        ConfigError: the repository lacks the commit, or the changes do not apply.
    """
    if _git("cat-file", "-e", source.commit + "^{commit}").returncode:
        raise ConfigError(
            f"this repository has no commit {source.commit[:12]}; fetch it (git fetch --all), or "
            "run in the clone that the run was made in"
        )
    added = _git("worktree", "add", "--detach", "--force", str(folder), source.commit)
    if added.returncode:
        raise ConfigError(f"git worktree add failed: {_last_line(added.stderr)}")
    try:
        if source.diff:
            words = ["git", "-C", str(folder), "apply", "--binary", "--whitespace=nowarn", "-"]
            applied = subprocess.run(words, input=source.diff, capture_output=True, check=False)
            if applied.returncode:
                raise ConfigError(f"the recorded changes fail: {_last_line(applied.stderr)}")
        for name, content in source.untracked.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        yield folder
    finally:
        _git("worktree", "remove", "--force", str(folder))
        shutil.rmtree(folder, ignore_errors=True)
        _git("worktree", "prune")


def python_for(source: Source, folder: Path, installed: Mapping[str, str]) -> Path:
    """An interpreter with the recorded packages: this one if it has them, else one made anew.

    Raises:
        ConfigError: it cannot be made.
    """
    others = differing_packages(source.packages, installed)
    if not others:
        return Path(sys.executable)
    lock = folder / LOCK
    if not lock.is_file() or hashlib.sha256(lock.read_bytes()).hexdigest() != source.lock:
        raise ConfigError(
            "the packages here are others than those of the run, and its lock file is not in its "
            "code; add --these-packages to run with those that are here"
        )
    some = ", ".join(
        f"{name} {then} (here {now})" for name, (then, now) in list(others.items())[:5]
    )
    print(f"the run had other packages: {some}; installing those of its lock", flush=True)
    made = subprocess.run(["make", "-C", str(folder), "setup"], check=False)
    if made.returncode:
        raise ConfigError("`make setup` of the recorded code failed; add --these-packages")
    return folder / ".venv" / "bin" / "python"


def differing_packages(a: Mapping[str, str], b: Mapping[str, str]) -> dict[str, tuple[Any, Any]]:
    """Packages whose versions are not the same; this project itself does not count."""
    names = sorted({*a, *b} - {"marlcore"})
    return {name: (a.get(name), b.get(name)) for name in names if a.get(name) != b.get(name)}


def words_of(events: Sequence[Mapping[str, Any]]) -> list[str]:
    """The words that started the run, with what later attempts changed.

    Raises:
        ConfigError: it was not started by a script's command line.
    """
    words: dict[str, str] = {}
    for event in events:
        if event["event"] == "start":
            argv = [str(word) for word in event["provenance"]["argv"][1:]]
            for word in read_arguments(argv).words:
                name, equals, _ = word.partition("=")
                words[full_name(name) if equals and name != "resume" else name] = word
    words.pop("resume", None)
    return list(words.values())


def rerun(python: Path, folder: Path, script: str, words: Sequence[str], runs: Path) -> Path | None:
    """Run the script again; returns the new run's directory, None if it failed."""
    run_id = new_id(script)
    command = [str(python), str(folder / "experiments" / f"{script}.py"), "--id", run_id]
    command += ["with", *words] if words else []
    environment = environment_elsewhere() | {"MARL_RUNS_DIR": str(runs), "PYTHONPATH": str(folder)}
    done = subprocess.run(command, cwd=folder, env=environment, stdout=sys.stderr, check=False)
    return runs / run_id if done.returncode == 0 else None


@dataclass(frozen=True)
class Difference:
    """Where two series of a metric part."""

    metric: str
    step: int | None
    first: float | None
    second: float | None


def differences(first: Mapping[str, Series], second: Mapping[str, Series]) -> list[Difference]:
    """The first difference of every metric that is not the same, bit for bit."""
    found: list[Difference] = []
    for name in sorted({*first, *second}):
        if not name.startswith(_NEVER_THE_SAME):
            difference = _first_difference(name, first.get(name), second.get(name))
            if difference is not None:
                found.append(difference)
    return found


def num_compared(series: Mapping[str, Series]) -> tuple[int, int]:
    """(Metrics, points) that `differences` compares."""
    kept = [one for name, one in series.items() if not name.startswith(_NEVER_THE_SAME)]
    return len(kept), sum(len(one.values) for one in kept)


def _first_difference(name: str, a: Series | None, b: Series | None) -> Difference | None:
    if a is None or b is None:
        return Difference(name, None, None if a is None else math.nan, None)
    points_a = list(zip(a.steps, a.values, strict=True))
    points_b = list(zip(b.steps, b.values, strict=True))
    for (step, x), (other, y) in zip(points_a, points_b, strict=False):
        if step != other or not (x == y or (math.isnan(x) and math.isnan(y))):
            return Difference(name, step, x, y if step == other else None)
    if len(points_a) != len(points_b):
        step, value = max(points_a, points_b, key=len)[min(len(points_a), len(points_b))]
        only_first = len(points_a) > len(points_b)
        pair = (value, None) if only_first else (None, value)
        return Difference(name, step, *pair)
    return None


def _git(*words: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, check=False)


def _last_line(output: bytes) -> str:
    lines = output.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "no message"


def describe(difference: Difference) -> str:
    """For people."""
    if difference.step is None:
        which = "second" if difference.first is None else "first"
        return f"{difference.metric}: only in the {which} run"
    pair = json.dumps([difference.first, difference.second])
    return f"{difference.metric}: from env step {difference.step:,} on, {pair}"
