"""The runs in the browser, by Omniboard, on this machine alone and behind a password.

    marl browse
    marl browse --read-only --port 9001

Starts what is missing (the embedded MongoDB unless MARL_MONGO_URI is set, Omniboard, which npm
installs the first time), brings MongoDB up to the disk, and stops on Ctrl-C what it started. A run
that is deleted in the page comes back while its directory is there. From another machine:
ssh -L 9000:127.0.0.1:9000 HOST.
"""

from __future__ import annotations

import argparse
import contextlib
import platform
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from experiments import _rundir
from experiments.commands.sync import sync_all
from experiments.tracking import mongo, omniboard, server
from experiments.tracking.read import run_ids
from experiments.tracking.spool import is_alive, read_heartbeat
from marlcore.config_errors import ConfigError

_SYNC_EVERY_S = 10.0


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("--port", type=int, metavar="N", help="port on 127.0.0.1 (9000, or free)")
    parser.add_argument(
        "--read-only", action="store_true", help="nothing can be changed or deleted"
    )
    parser.add_argument("--no-open", action="store_true", help="print the address only")


def run(arguments: argparse.Namespace) -> int:
    """Serve until Ctrl-C."""
    if arguments.port is not None and not 1 <= arguments.port <= 65535:
        raise ConfigError(f"--port {arguments.port} is refused; give a number from 1 to 65535")
    runs = _rundir.runs_dir()
    with _database(runs) as target:
        _sync(runs, target)
        uri = target.uri
        if arguments.read_only and target.embedded:
            uri = server.uri_if_up(runs, user="reader") or uri
        page = omniboard.start(uri, port=arguments.port, read_only=arguments.read_only)
        try:
            opened = not arguments.no_open and omniboard.open_in_browser(page)
            print(f"Omniboard shows {target}:\n\n    {page.url}\n")
            print("(opened in the browser) " * opened + "Ctrl-C ends it", flush=True)
            _keep_up(runs, target, page)
        except KeyboardInterrupt:
            return 0
        finally:
            page.stop()
    return 1


def _keep_up(runs: Path, target: mongo.Target, page: omniboard.Page) -> None:
    """Bring runs of other machines and of dead processes to MongoDB while the page is up."""
    while page.is_up:
        time.sleep(_SYNC_EVERY_S)
        _sync(runs, target)
    print("Omniboard ended by itself; call marl browse again", file=sys.stderr)


def _keeps_up(path: Path) -> bool:
    """Whether a process of this machine writes the run, and so mirrors it."""
    sign = read_heartbeat(path)
    return sign is not None and sign["host"] == platform.node() and is_alive(sign)


def _sync(runs: Path, target: mongo.Target) -> None:
    from pymongo import errors

    directories = [runs / run_id for run_id in run_ids(runs)]
    try:
        sync_all([path for path in directories if not _keeps_up(path)], target, quiet=True)
    except errors.PyMongoError as error:
        print(f"note: {target} does not answer ({type(error).__name__})", file=sys.stderr)


@contextlib.contextmanager
def _database(runs: Path) -> Iterator[mongo.Target]:
    """The database to show; the embedded one is started, and stopped again, if it was not up."""
    target = mongo.target(runs)
    if target is not None:
        mongo.ping(target)
        yield target
        return
    print("starting the embedded MongoDB", flush=True)
    try:
        server.start(runs)
        started = mongo.target(runs)
        assert started is not None
        yield started
    finally:
        server.stop(runs)
