"""`marl`: what there is of runs, and what can be done with them.

    marl runs                      marl show RUN             marl diff RUN RUN
    marl browse                    marl compare RUN RUN ...  marl reproduce RUN
    marl COMMAND --help

RUN is a run's id, the beginning of one, its directory, or its number in MongoDB.
"""

from __future__ import annotations

import importlib
import io
import signal
import sys
from collections.abc import Sequence
from types import FrameType, ModuleType

from experiments._program import Parser, run_program
from marlcore import config_keys
from marlcore.config_errors import ConfigError, show

COMMANDS = {
    "runs": "list runs: filter, sort, choose columns",
    "show": "one run: status, configuration, last metrics, artifacts, where it came from",
    "diff": "what differs between two runs: configuration, code, packages, machine, results",
    "tail": "what a run prints, also while it does (-f)",
    "compare": "groups of runs over seeds: IQM with intervals, learning curves",
    "export": "metrics as CSV, Parquet or marl-eval JSON",
    "note": "write a note to a run",
    "tag": "put tags on a run, or take them off",
    "resume": "go on with a run from its last checkpoint",
    "reproduce": "run again with the same code, packages and settings, and compare",
    "jobs": "runs on a Slurm cluster: status, tail, cancel, requeue, resume",
    "sync": "bring MongoDB (or W&B) up to what is on the disk",
    "server": "the embedded MongoDB: start, stop, status",
    "browse": "the runs in the browser, by Omniboard",
    "doctor": "check this machine and the records; says what to do",
    "gc": "remove what nobody needs",
}


def program() -> int:
    """`main`, in which a kill or a closed terminal ends what was started, as Ctrl-C does."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    return main()


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line asks; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    return run_program(lambda: _run(words))


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0
    command = _command(words[0])
    parser = Parser(f"marl {words[0]}", command.__doc__)
    command.arguments(parser)
    return int(command.run(parser.parse_args(words[1:])))


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _command(name: str) -> ModuleType:
    if name not in COMMANDS:
        near = config_keys.nearest(name, COMMANDS)
        meant = f"did you mean {near}?" if near else "`marl --help` lists the commands"
        raise ConfigError(f"{show(name)} is no command; {meant}")
    return importlib.import_module(f"experiments.commands.{name}")


def _overview() -> str:
    lines = [f"  {name:<10} {meaning}" for name, meaning in COMMANDS.items()]
    return "\n".join([__doc__ or "", "Commands:", *lines])


if __name__ == "__main__":
    sys.exit(program())
