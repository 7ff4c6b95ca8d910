"""The embedded MongoDB of the runs directory: loopback only, with a password of its own.

marl server start       runs replicate to it while it is up, and `marl sync` brings the others
marl server status
marl server stop
"""

from __future__ import annotations

import argparse

from experiments import _rundir
from experiments.commands import _print
from experiments.tracking import server


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("action", choices=("start", "stop", "status"))
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Do it."""
    runs = _rundir.runs_dir()
    if arguments.action == "start":
        server.start(runs)
    elif arguments.action == "stop":
        was_up = server.stop(runs)
        if not arguments.json:
            print("stopped" if was_up else "it was not running")
            return 0
    status = server.status(runs)
    if arguments.json:
        _print.print_json(vars(status))
    elif status.running:
        print(
            f"running: process {status.pid}, 127.0.0.1:{status.port}, "
            f"{status.size_bytes / 2**20:,.0f} MiB in {runs / '.mongo'}"
        )
    else:
        print("not running; start it: marl server start")
    return 0
