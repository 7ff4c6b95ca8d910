"""Metrics of runs as CSV, Parquet, or JSON of marl-eval.

    marl export RUN RUN --output metrics.csv
    marl export name=acppo status=COMPLETED --output metrics.parquet
    marl export --all --format marl-eval --output results.json

Runs are named, or chosen by conditions as in `marl runs`.
"""

from __future__ import annotations

import argparse
import sys

from experiments.commands._choose import add_choice, choose
from experiments.tracking.catalog import Catalog
from experiments.tracking.export import FORMATS, export
from marlcore.config_errors import ConfigError

_ENDINGS = {".csv": "csv", ".parquet": "parquet", ".json": "marl-eval"}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    add_choice(parser)
    parser.add_argument("--output", "-o", required=True, metavar="FILE", help="- prints it")
    parser.add_argument("--format", metavar="FORMAT", help=f"{', '.join(FORMATS)}; else by ending")


def run(arguments: argparse.Namespace) -> int:
    """Write the file."""
    ending = "." + arguments.output.rpartition(".")[2]
    kind = arguments.format or _ENDINGS.get(ending)
    if kind is None:
        raise ConfigError(
            f"--output {arguments.output}: its ending says no format; add --format with one of "
            f"{', '.join(FORMATS)}"
        )
    catalog = Catalog()
    chosen = choose(catalog, arguments)
    warnings = export(((one, catalog.series(one)) for one in chosen), arguments.output, kind)
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    if arguments.output != "-":
        print(f"{len(chosen)} runs in {arguments.output}")
    return 0
