"""Runs that were submitted to Slurm (slurm/submit.py).

marl jobs                            where they stand
marl jobs tail RUN --rank 3 -f       what a process of one prints
marl jobs cancel RUN                 it saves and ends, and does not go on by itself
marl jobs requeue RUN                it saves, ends and waits again
marl jobs resume RUN                 submit it again: the same run, its next attempt
"""

from __future__ import annotations

import argparse
import time

from experiments._program import Parser
from experiments.commands import _print
from experiments.commands.tail import follow
from marlcore.config_errors import ConfigError
from slurm import jobs, record

_CHANGES = ("time", "partition", "account", "qos", "constraint")
"""Resources that a run can get instead of what it had."""
_HEADER = ("run", "status", "job", "state", "reason", "attempt", "step", "return", "left", "nodes")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.set_defaults(runs=[], all=False, json=False)
    actions = parser.add_subparsers(dest="action", metavar="ACTION", parser_class=Parser)
    status = actions.add_parser("status", help="where runs stand (what happens without an action)")
    status.add_argument("runs", nargs="*", metavar="RUN")
    status.add_argument("--all", action="store_true", help="also those that ended long ago")
    status.add_argument("--json", action="store_true", help="print JSON")
    tail = actions.add_parser("tail", help="what a process printed")
    tail.add_argument("run", metavar="RUN")
    tail.add_argument("--rank", type=int, default=0, metavar="N", help="which process (0)")
    tail.add_argument("-n", "--lines", type=int, default=20, metavar="N", help="lines (20)")
    tail.add_argument("-f", "--follow", action="store_true", help="go on until the job ends")
    for name, meaning in (
        ("cancel", "save, end, and do not go on"),
        ("requeue", "save, end, and wait in the queue again"),
    ):
        actions.add_parser(name, help=meaning).add_argument("runs", nargs="+", metavar="RUN")
    resume = actions.add_parser("resume", help="submit a run again, with the code it had")
    resume.add_argument("run", metavar="RUN")
    resume.add_argument("words", nargs="*", metavar="KEY=VALUE", help="settings that may change")
    resume.add_argument("--preset", metavar="NAME", help="other resources")
    for name in _CHANGES:
        resume.add_argument(f"--{name}", metavar="X", help="instead of what it had")


def run(arguments: argparse.Namespace) -> int:
    """Do it."""
    if arguments.action in (None, "status"):
        return _status(arguments)
    if arguments.action == "tail":
        return _tail(arguments)
    if arguments.action == "cancel":
        jobs.each(arguments.runs, jobs.cancel)
    elif arguments.action == "requeue":
        jobs.each(arguments.runs, jobs.requeue)
    else:
        given = {name: getattr(arguments, name) for name in _CHANGES}
        changes = {name: value for name, value in given.items() if value is not None}
        job = record.find(arguments.run)
        jobs.resume(job, arguments.words, preset=arguments.preset, changes=changes)
    return 0


_SHOWN = 20


def _status(arguments: argparse.Namespace) -> int:
    found = jobs.standings(jobs.chosen(arguments.runs))
    if not found and not arguments.json:
        print("nothing was submitted; python slurm/submit.py experiments/acppo.py --help")
        return 0
    shown = found
    if not arguments.runs and not arguments.all:
        ended = [one for one in found if not one.is_active]
        shown = [one for one in found if one.is_active or one in ended[-_SHOWN:]]
    if arguments.json:
        _print.print_json([_plain(one) for one in shown])
        return 0
    _print.print_table(_HEADER, [_row(one) for one in shown], fixed=4)
    if len(shown) < len(found):
        print(f"({len(found) - len(shown):,} more, which have ended: --all)")
    return 0


def _row(one: jobs.Standing) -> list[str]:
    slurm, run = one.slurm, one.run
    metrics = run.metrics
    result = metrics.get("eval/return_mean", metrics.get("rollout/return_mean"))
    return [
        run.id,
        run.status,
        slurm.id if slurm else "",
        slurm.state if slurm else "local",
        slurm.reason if slurm else "",
        str(run.attempt),
        _print.number(run.env_steps),
        _print.number(result),
        _print.duration(one.seconds_left),
        slurm.nodes if slurm else run.host,
    ]


def _plain(one: jobs.Standing) -> dict[str, object]:
    return {
        "run": one.run.id,
        "status": one.run.status,
        "jobs": one.job.job_ids,
        "slurm": vars(one.slurm) if one.slurm else None,
        "attempt": one.run.attempt,
        "env_steps": one.run.env_steps,
        "seconds_left": one.seconds_left,
        "logs": str(one.job.logs),
    }


def _tail(arguments: argparse.Namespace) -> int:
    if arguments.lines < 0:
        raise ConfigError(f"--lines {arguments.lines} is refused; give a number from 0")
    job = record.find(arguments.run)
    asked = [0.0]

    def is_over() -> str | None:
        if time.monotonic() < asked[0] + 5:  # Slurm is not asked twice a second
            return None
        asked[0] = time.monotonic()
        standing = jobs.standings([job])[0]
        return None if standing.is_active else standing.slurm.state if standing.slurm else "local"

    path = jobs.log_of(job, arguments.rank)
    print(f"{path}:")
    ended = follow(path, arguments.lines, is_over if arguments.follow else lambda: "")
    if ended:
        print(f"(the job is {ended})")
    return 0
