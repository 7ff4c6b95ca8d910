"""Send a run, or a run for each of several seeds, to a Slurm cluster; returns at once.

    python slurm/submit.py experiments/acppo.py with openvla_7b seed=3 --preset h100x8 --nodes 2
    python slurm/submit.py experiments/acppo.py with quickstart --preset cpu --seeds 0-4
    python slurm/submit.py experiments/acppo.py with quickstart --local 2

Behind `with` stands what the script itself takes. Code and packages are frozen now; what is edited
later changes nothing. `marl jobs` shows what becomes of it.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if not __package__:  # run as a file: import from the repository, not from this directory
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from experiments import _rundir
from experiments._arguments import read_arguments
from experiments._experiment import resolve_command
from experiments._program import Parser, run_program
from experiments._script import Script, find_script
from experiments.tracking.spool import FROZEN
from marlcore.config_errors import ConfigError, show
from slurm import cluster, freeze, record, resources, send
from slurm.resources import Resources
from slurm.script import batch_script

_PASSED = {"--id": "ID", "--name": "NAME", "--comment": "TEXT"}
"""Options of the scripts that mean the same here."""


def main(argv: Sequence[str] | None = None) -> int:
    """Submit; returns the exit code."""
    words = sys.argv[1:] if argv is None else argv
    return run_program(lambda: _submit(_parser().parse_intermixed_args(words)))


def _parser() -> argparse.ArgumentParser:
    parser = Parser("python slurm/submit.py", __doc__)
    parser.add_argument("words", nargs="+", metavar="SCRIPT with WORD", help="as without Slurm")
    add = parser.add_argument
    add("--preset", metavar="NAME", help=f"{', '.join(resources.names())}, or a .yaml file")
    for name, kind, meaning in _CHANGES:
        add(f"--{name.replace('_', '-')}", type=kind, dest=name, metavar="X", help=meaning)
    add("--sbatch", action="append", default=[], metavar="KEY=VALUE", help="any option of sbatch")
    add("--seeds", metavar="0-3,7", help="an array: one run a seed")
    add("--parallel", type=int, metavar="N", help="so many of an array at once")
    add("--after", metavar="RUN", help="start when that run's job has ended well")
    add("--chain", type=int, default=1, metavar="N", help="N jobs for one run, in turn")
    add("--local", type=int, metavar="N", help="no Slurm: N processes on this machine, now")
    add("--dry-run", action="store_true", help="print the batch script, submit nothing")
    for option, value in _PASSED.items():
        add(option, metavar=value, help="as of the script")
    return parser


_CHANGES: tuple[tuple[str, Any, str], ...] = (
    ("partition", str, "where it waits"),
    ("account", str, "who pays"),
    ("qos", str, "quality of service"),
    ("constraint", str, "features of the nodes"),
    ("nodes", int, "machines"),
    ("gpus_per_node", int, "GPUs of each"),
    ("tasks_per_node", int, "processes of each (one a GPU, or one)"),
    ("cpus_per_task", int, "cores of a process"),
    ("memory_gib", float, "memory of a node"),
    ("time", str, "time limit: 24:00:00"),
    ("signal_delay_s", int, "seconds of warning before the end"),
    ("max_attempts", int, "how often at most it is started"),
)
"""Keys of `Resources` that the command line changes."""


def _submit(arguments: argparse.Namespace) -> int:
    script, argv = _command(arguments)
    changes = {
        name: value for name, *_ in _CHANGES if (value := getattr(arguments, name)) is not None
    }
    if arguments.sbatch:
        changes["sbatch"] = dict(map(_option, arguments.sbatch))
    wanted = resources.load(arguments.preset, changes)
    _check(arguments, wanted)
    commands = _with_seeds(argv, arguments.seeds)
    configs = [resolve_command(script, command).model_dump(mode="json") for command in commands]
    if arguments.dry_run:
        return _dry_run(script, len(commands), wanted, arguments)
    if arguments.local is None and not cluster.is_here():
        cluster.call("sbatch", "--version")  # refuses
    dependency = _dependency(arguments.after)
    runs = _rundir.runs_dir().resolve()
    code, python = freeze.freeze_code(runs), freeze.freeze_environment(runs)
    ids = _ids(script, arguments.id, commands, arguments.seeds)
    jobs = [
        record.create(
            _rundir.create(script.name, config, run_id).resolve(),
            [script.name, *command],
            code=code,
            python=python,
            resources=wanted,
        )
        for run_id, command, config in zip(ids, commands, configs, strict=True)
    ]
    if arguments.local is not None:
        return send.run_here(jobs[0], arguments.local)
    try:
        send.submit(jobs, parallel=arguments.parallel, dependency=dependency, chain=arguments.chain)
    except ConfigError:
        for job in jobs:  # Slurm does not take them: they were never there
            if not record.read(job.run_dir).submissions:
                shutil.rmtree(job.run_dir)
        raise
    return 0


def _dry_run(
    script: Script, num_runs: int, wanted: Resources, arguments: argparse.Namespace
) -> int:
    runs = _rundir.runs_dir().resolve()
    name = arguments.id or f"<date>-{script.name}-<id>"
    dirs = [runs / (name if num_runs == 1 else f"{name}-{index}") for index in range(num_runs)]
    frozen = runs / FROZEN
    text = batch_script(
        dirs,
        code=frozen / "code-<hash>",
        python=frozen / "environment-<hash>" / "bin" / Path(sys.executable).name,
        resources=wanted,
        parallel=arguments.parallel,
    )
    print(text)
    if not cluster.is_here():
        print("# sbatch --test-only: there is no sbatch here")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "submission.sh"
        path.write_text(text, encoding="utf-8")
        dependency = _dependency(arguments.after)
        options = [f"--dependency={dependency}"] if dependency else []
        print(f"# sbatch --test-only: {cluster.test_only(path, *options)}")
    return 0


def _command(arguments: argparse.Namespace) -> tuple[Script, list[str]]:
    """The script, and its command line."""
    path, *rest = arguments.words
    script = find_script(path)
    options = [
        f"{option}={value}"
        for option in _PASSED
        if option != "--id" and (value := getattr(arguments, option[2:])) is not None
    ]
    argv = [*options, *rest]
    if read_arguments(argv).command != "run":
        raise ConfigError(f"{rest[0]} is nothing for a cluster; run: python {path} {rest[0]}")
    return script, argv


def _check(arguments: argparse.Namespace, wanted: Resources) -> None:
    for name in ("parallel", "chain", "local"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name} {value} is refused; give a number from 1")
    if arguments.parallel is not None and arguments.seeds is None:
        raise ConfigError("--parallel is of arrays; add --seeds 0-3")
    if arguments.local is not None:
        given = [
            n
            for n in ("preset", "after", "seeds", "nodes", "partition", "dry_run")
            if getattr(arguments, n)
        ]
        if given or arguments.chain > 1:
            first = (given or ["chain"])[0].replace("_", "-")
            raise ConfigError(f"--local runs on this machine, now; leave --{first} out")
    if arguments.seeds is not None and arguments.chain > 1:
        raise ConfigError("--chain is of one run; leave --seeds out, or submit one by one")
    if arguments.id is not None:
        _rundir.check_id(arguments.id)


def _with_seeds(argv: list[str], seeds: str | None) -> list[list[str]]:
    if seeds is None:
        return [argv]
    if any(re.match(r"\.?seed\s*=", word) for word in argv):
        raise ConfigError("seed= is given twice: by --seeds, and behind `with`; leave one out")
    base = argv if "with" in argv else [*argv, "with"]
    return [[*base, f"seed={seed}"] for seed in _read_seeds(seeds)]


def _read_seeds(text: str) -> list[int]:
    seeds: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", part.strip())
        if found is None or int(found[2] or found[1]) < int(found[1]):
            raise ConfigError(f"--seeds {show(text)} is refused; give seeds as 0-3 or 0,1,7")
        seeds += range(int(found[1]), int(found[2] or found[1]) + 1)
        if len(seeds) > 1000:
            raise ConfigError(f"--seeds {show(text)}: more than 1,000 runs; submit them in parts")
    if len(set(seeds)) != len(seeds):
        raise ConfigError(f"--seeds {show(text)} names a seed twice")
    return seeds


def _ids(
    script: Script, given: str | None, commands: Sequence[Sequence[str]], seeds: str | None
) -> list[str]:
    name = given or _rundir.new_id(script.name)
    ids = [name] if seeds is None else [f"{name}-s{seed}" for seed in _read_seeds(seeds)]
    for run_id in ids:
        _rundir.check_id(run_id)
    return ids


def _dependency(after: str | None) -> str | None:
    if after is None:
        return None
    job = record.find(after)
    if not job.submissions:
        raise ConfigError(f"run {job.id} has no job yet to wait for")
    return f"afterok:{job.job_ids[-1]}"


def _option(text: str) -> tuple[str, str | bool]:
    name, equals, value = text.partition("=")
    return name.removeprefix("--"), value if equals else True


if __name__ == "__main__":
    sys.exit(main())
