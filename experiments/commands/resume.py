"""Go on with a run from its last checkpoint, if it has one: the same run, its next attempt.

marl resume RUN
marl resume RUN total_timesteps=300000
"""

from __future__ import annotations

import argparse
import os
import sys

from experiments.tracking.catalog import Catalog
from experiments.tracking.provenance import ROOT
from marlcore.config_errors import ConfigError


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("words", nargs="*", metavar="KEY=VALUE", help="settings that may change")


def run(arguments: argparse.Namespace) -> int:
    """Start the run's script in place of this process."""
    catalog = Catalog()
    one = catalog.find(arguments.run)
    directory = catalog.directory(one)
    script = ROOT / "experiments" / f"{one.name}.py"
    if not script.is_file():
        raise ConfigError(f"run {one.id} is one of {one.name}, and there is no {script}")
    command = [
        sys.executable,
        str(script),
        "with",
        f"resume={directory.resolve()}",
        *arguments.words,
    ]
    sys.stdout.flush()
    os.execv(sys.executable, command)
