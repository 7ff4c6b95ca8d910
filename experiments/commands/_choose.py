"""Runs by name or by condition, for the commands that take several."""

from __future__ import annotations

import argparse
import re

from experiments.tracking.catalog import Catalog
from experiments.tracking.select import select
from experiments.tracking.view import RunView
from marlcore.config_errors import ConfigError


def add_choice(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments that `choose` reads."""
    parser.add_argument("runs", nargs="*", metavar="RUN_OR_CONDITION")
    parser.add_argument("--all", action="store_true", help="all runs")


def choose(catalog: Catalog, arguments: argparse.Namespace) -> list[RunView]:
    """The runs that are named, and those that fulfil all conditions that are given.

    Raises:
        ConfigError: there is none.
    """
    conditions = [text for text in arguments.runs if re.search(r"[=<>~]", text)]
    named = [text for text in arguments.runs if text not in conditions]
    if not named and not conditions and not arguments.all:
        raise ConfigError("name runs, give conditions such as name=acppo, or --all")
    found = catalog.find_all(named)
    if conditions or arguments.all:
        known = {one.id for one in found}
        found += [o for o in select(catalog.views(), conditions) if o.id not in known]
    if not found:
        raise ConfigError("no run fulfils the conditions; `marl runs` lists what there is")
    return found
