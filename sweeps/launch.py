"""Begin a sweep, or go on with it; the same command again goes on after whatever happened.

    python sweeps/launch.py sweeps/acppo.yaml --trials 12 --workers 2
    python sweeps/launch.py sweeps/acppo.yaml --study long --trials 40 with total_timesteps=40000
    python sweeps/launch.py sweeps/acppo_wide.yaml --trials 200 --workers 16 --slurm gpu

Every trial is some runs, one a seed, which `marl runs study=acppo` shows. Behind `with` stands what
the sweep's script takes, over what the file has. `python sweeps/report.py STUDY` reads the results.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

if not __package__:  # run as a file: import from the repository, not from this directory
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from experiments import _stop
from experiments._program import Parser, run_program
from experiments.tracking import locks
from marlcore.config_errors import ConfigError
from marlcore.durable import write_whole
from sweeps import definition, local, service, storage
from sweeps.definition import Definition
from sweeps.patience import patiently
from sweeps.storage import Storage
from sweeps.study import Study
from sweeps.worker import ARRAY, HOPELESS, REFUSED, SERVED, open_here

_CHANGES = (
    ("trials", "configurations that are tried"),
    ("finalists", "how many of the best are run again on fresh seeds"),
)
"""Keys of the file that the command line sets."""


def main(argv: Sequence[str] | None = None) -> int:
    """Launch; returns the exit code."""
    words = sys.argv[1:] if argv is None else argv
    return run_program(lambda: _launch(_parser().parse_intermixed_args(words)))


def _parser() -> argparse.ArgumentParser:
    parser = Parser("python sweeps/launch.py", __doc__)
    parser.add_argument("words", nargs="+", metavar="SWEEP with WORD", help="file, or its name")
    for name, meaning in _CHANGES:
        parser.add_argument(f"--{name}", type=int, metavar="N", help=meaning)
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="runs at once (1)")
    parser.add_argument("--study", metavar="NAME", help="the file's name unless given")
    parser.add_argument("--slurm", metavar="PRESET", help="an array of workers on a cluster")
    parser.add_argument(
        "--serve", metavar="ADDRESS", help="of this machine: serve the SQLite file to the array"
    )
    parser.add_argument("--dry-run", action="store_true", help="print what would be done")
    return parser


def _launch(arguments: argparse.Namespace) -> int:
    wanted, kept = _read(arguments)
    if arguments.dry_run:
        print_plan(wanted, kept, arguments.workers)
        if arguments.slurm is not None:
            from sweeps import cluster

            folder = (storage.sweeps_dir() / wanted.name).resolve()
            kind = ARRAY if kept.is_shared else SERVED
            script = cluster.script_of(folder, arguments.slurm, arguments.workers, kind=kind)
            print(f"\n{script}")
        return 0
    folder = storage.sweeps_dir() / wanted.name
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "launcher.lock", "w", encoding="utf-8") as lock, _stop.install():
        if not locks.take(lock.fileno(), wait=False):
            raise ConfigError(
                f"another launch.py works on study {wanted.name}; wait for it, or stop it"
            )
        with closing(open_here(wanted, kept, folder)) as study:
            write_whole(folder / storage.SWEEP, _written(wanted, study.key, kept))
            print(f"study {wanted.name} in {folder}, {kept}", flush=True)
            if arguments.slurm is not None:
                return _submit(study, folder.resolve(), kept, arguments)
            code = local.run_workers(study, folder, arguments.workers)
            return _conclude(study, folder, code)


def _read(arguments: argparse.Namespace) -> tuple[Definition, Storage]:
    file, *words = arguments.words
    if words and words[0] != "with":
        raise ConfigError(f"{words[0]}: one sweep at a time; settings follow `with`")
    if arguments.workers < 1:
        raise ConfigError(f"--workers {arguments.workers} is refused; give a number from 1")
    changes: dict[str, Any] = {
        name: value for name, _ in _CHANGES if (value := getattr(arguments, name)) is not None
    }
    wanted = definition.read_file(file, changes=changes, words=words[1:], name=arguments.study)
    kept = storage.storage_of(storage.sweeps_dir() / wanted.name)
    _check_slurm(kept, arguments)
    return wanted, kept


def _check_slurm(kept: Storage, arguments: argparse.Namespace) -> None:
    if arguments.slurm is None:
        if arguments.serve is not None:
            raise ConfigError("--serve is of workers on a cluster; add --slurm PRESET")
        return
    from slurm import resources

    resources.load(arguments.slurm, {})  # refuses
    if kept.is_shared == (arguments.serve is not None):
        raise ConfigError(
            f"--slurm needs a database that all nodes reach: either set {storage.OPTUNA_URL}="
            "postgresql://USER:PASSWORD@HOST:PORT/DATABASE, or give --serve ADDRESS, an address of "
            "this machine, on which launch.py then serves an SQLite file as long as it runs"
        )


def _written(wanted: Definition, key: str, kept: Storage) -> str:
    sweep = wanted.sweep.model_dump(mode="json", by_alias=True, exclude_unset=True)
    values = {"name": wanted.name, "key": key, "database": kept.kind, "sweep": sweep}
    return json.dumps(values, indent=1) + "\n"


def print_plan(wanted: Definition, kept: Storage, num_workers: int) -> None:
    """Print what a launch would do."""
    sweep = wanted.sweep
    num_finalists = (sweep.finalists + sweep.baseline) if sweep.test_seeds else 0
    tests = num_finalists * len(sweep.test_seeds)
    total = sweep.trials * len(sweep.tuning_seeds) + tests
    print(f"study {wanted.name}, {kept}")
    print(f"{sweep.trials} trials by {sweep.sampler}, {sweep.metric}, {sweep.direction}")
    for axis in wanted.space.axes:
        d = axis.dimension
        values = ", ".join(map(str, d.choices)) or f"{d.low:g} to {d.high:g}, {d.scale}"
        print(f"  {axis.key}: {values}")
    baseline = wanted.baseline()
    if sweep.baseline and baseline is None:
        print("the experiment as it is lies outside the space: it is not among the trials")
    print(
        f"at most {total} runs ({len(sweep.tuning_seeds)} tuning seeds, {len(sweep.test_seeds)} "
        f"test seeds), {num_workers} at once; for example"
    )
    params = baseline or {n: _middle(d) for n, d in wanted.space.distributions.items()}
    words = shlex.join(wanted.words(params, sweep.tuning_seeds[0]))
    print(f"  python experiments/{wanted.script.name}.py with {words}")


def _middle(distribution: Any) -> Any:
    choices = getattr(distribution, "choices", None)
    return choices[0] if choices else distribution.low


def _submit(study: Study, folder: Path, kept: Storage, arguments: argparse.Namespace) -> int:
    """Have Slurm start as many workers as are missing, and say how to follow them."""
    from sweeps import cluster

    if study.is_complete():
        return _conclude(study, folder, 0)
    there = cluster.count_workers(folder)
    missing = arguments.workers - there
    if there:
        print(f"{there} workers wait or run already")
    if missing > 0:
        kind = ARRAY if kept.is_shared else SERVED
        job_id = cluster.submit(folder, arguments.slurm, missing, kind=kind)
        print(f"Slurm job {job_id}: {missing} workers; scancel {job_id} ends them")
    print(f"runs: marl runs study={study.definition.name}; the same command goes on", flush=True)
    if kept.is_shared:
        print(f"results: python sweeps/report.py {study.definition.name}")
        return 0
    with service.serving(study, folder, arguments.serve):
        return _conclude(study, folder, local.watch(study, lambda: cluster.count_workers(folder)))


def _conclude(study: Study, folder: Path, code: int) -> int:
    """Print and write the results; returns the exit code."""
    from sweeps import report  # slow to import
    from sweeps.results import read_results

    logs = f"{folder}/worker-*.log, {folder}/logs"
    if code in (REFUSED, HOPELESS, 1):
        for line in _errors(folder):
            print(line, file=sys.stderr)
        print(f"the workers ended early; see {logs}", file=sys.stderr)
        return 1 if code != REFUSED else 2
    results = patiently(lambda: read_results(study))
    print()
    report.print_results(study, results)
    if results.rows:
        report.print_files(report.write(study, results, folder))
    if code:
        print("\ngo on by the same command", file=sys.stderr)
        return code
    return 0 if results.winner is not None else 1


def _errors(folder: Path) -> list[str]:
    """The last error that workers told."""
    logs = [*folder.glob("worker-*.log"), *folder.glob("logs/*.log")]
    newest = max(logs, key=os.path.getmtime, default=None)
    lines = newest.read_text(errors="replace").splitlines() if newest else []
    return [line for line in lines if line.startswith("error: ")][-1:]


if __name__ == "__main__":
    sys.exit(main())
