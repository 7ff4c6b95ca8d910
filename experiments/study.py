"""Run a study and write its report; the same command again does what is missing.

    python experiments/study.py two_arm_state
    python experiments/study.py two_arm_state --dry-run
    python experiments/study.py my_study.yaml --slurm gpu
    python experiments/study.py games --name quick with total_timesteps=8000
    python experiments/study.py games --environment climbing --algorithm MAPPO --seed 0 --seed 1

A study is a file that names algorithms, environments, seeds and a budget; those that come with the
project lie in experiments/studies. Its runs are ordinary ones (`marl runs study=NAME`). Writes
RUNS/NAME.md, .html, .json (of marl-eval) and a PNG for each environment; of a part of the study
RUNS/NAME-part.md and so on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # run as a file: import from the repository, not from this directory
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from experiments import _rundir, _stop
from experiments._program import Parser, run_program
from experiments.commands._print import print_table
from experiments.studies.definition import Part, Study, read_study
from experiments.studies.running import Place, is_busy, is_missing, places, run_here, submit
from marlcore.config_errors import ConfigError


def main(argv: Sequence[str] | None = None) -> int:
    """Run and report; returns the exit code."""
    words = sys.argv[1:] if argv is None else argv
    return run_program(lambda: _study(_parser().parse_intermixed_args(words)))


def _parser() -> argparse.ArgumentParser:
    parser = Parser("python experiments/study.py", __doc__)
    parser.add_argument("words", nargs="+", metavar="STUDY with WORD", help="file, or its name")
    parser.add_argument("--name", metavar="NAME", help="of the study; the file's unless given")
    for what in ("algorithm", "environment"):
        text = f"only this {what} (again for more)"
        parser.add_argument(f"--{what}", action="append", default=[], metavar="LABEL", help=text)
    text = "only this seed (again for more)"
    parser.add_argument("--seed", action="append", default=[], type=int, metavar="N", help=text)
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="runs at once (1)")
    parser.add_argument("--slurm", metavar="PRESET", help="a job on a cluster for each run")
    parser.add_argument("--report", action="store_true", help="write the report, run nothing")
    parser.add_argument("--dry-run", action="store_true", help="print what would be done")
    parser.add_argument("--output", "-o", metavar="BASE", help="of the report's files: RUNS/NAME")
    return parser


def _study(arguments: argparse.Namespace) -> int:
    text, *rest = arguments.words
    if rest and (rest[0] != "with" or len(rest) == 1):
        raise ConfigError(f"{rest[0]}: write `with` and settings behind the study: with seed=1")
    if arguments.workers < 1:
        raise ConfigError(f"--workers {arguments.workers} is refused; give a number from 1")
    part = Part(*map(tuple, (arguments.algorithm, arguments.environment, arguments.seed)))
    study = read_study(text, words=rest[1:], name=arguments.name, part=part)
    found = places(study)
    if arguments.dry_run:
        _print_plan(found)
        return 0
    code = 0
    missing = [place for place in found if is_missing(place)]
    if num_busy := sum(map(is_busy, found)):
        _say(f"{num_busy} runs go on elsewhere, or wait for a scheduler")
    if missing and not arguments.report:
        if arguments.slurm is not None:
            return submit(study, missing, arguments.slurm, _say)
        with _stop.install():
            code = run_here(study, missing, arguments.workers, _say)
    whole = _rundir.runs_dir() / study.name
    base = whole if part == Part() else whole.with_name(f"{study.name}-part")
    return _report(study, Path(arguments.output or base)) or code


def _report(study: Study, base: Path) -> int:
    from experiments.studies import report

    found = report.sections(study, places(study))
    if not found:
        print(f"no run of {study.name} is complete: there is nothing to report yet")
        return 0
    print(f"\n{report.markdown(study, found)}")
    for path in report.write(study, found, base):
        print(path)
    return 0


def _print_plan(found: Sequence[Place]) -> None:
    rows = [
        [p.unit.algorithm, p.unit.environment, str(p.unit.seed), p.status, p.directory.name]
        for p in found
    ]
    print_table(["algorithm", "environment", "seed", "status", "run"], rows, fixed=4)
    count = sum(map(is_missing, found))
    print(f"\n{count} of {len(found)} runs are missing")


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
