"""Run again with the run's own code, packages and settings, and compare the metrics.

    marl reproduce RUN

Checks out the recorded commit beside the repository, applies the recorded changes and untracked
sources, and runs the recorded command with the packages of the recorded lock (those of this
environment if they are the same). Metrics are compared bit for bit, but for times and memory.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.commands import _print
from experiments.commands.diff import differing, origin, packages
from experiments.tracking import provenance, reproduction
from experiments.tracking.catalog import Catalog
from experiments.tracking.read import read_series, read_view
from experiments.tracking.spool import read_events
from experiments.tracking.store import Store
from experiments.tracking.view import RunView
from marlcore.config_errors import ConfigError


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("run", metavar="RUN")
    parser.add_argument(
        "--these-packages", action="store_true", help="run with the packages that are here"
    )
    parser.add_argument("--json", action="store_true", help="print JSON at the end")


def run(arguments: argparse.Namespace) -> int:
    """Reproduce; exit code 0 if every metric is the same, 1 if not."""
    catalog = Catalog()
    one = catalog.find(arguments.run)
    directory = catalog.directory(one)
    events = read_events(directory)
    starts = [event for event in events if event["event"] == "start"]
    if not starts or not read_series(directory):
        raise ConfigError(f"run {one.id} has recorded nothing that could be compared")
    recorded = starts[-1]["provenance"]
    source = reproduction.source_of(one.id, recorded, Store(directory.resolve().parent))
    words = reproduction.words_of(events)
    with (
        tempfile.TemporaryDirectory(prefix="marl-reproduce-") as place,
        reproduction.checked_out(source, Path(place) / "code") as folder,
    ):
        python = Path(sys.executable)
        if not arguments.these_packages:
            python = reproduction.python_for(source, folder, provenance.packages())
        print(f"running {one.id} again: {one.name} with {' '.join(words)}", file=sys.stderr)
        again = reproduction.rerun(python, folder, one.name, words, directory.resolve().parent)
    if again is None:
        raise ConfigError("the second run failed; its output is above")
    return _report(catalog, one, read_view(again), as_json=arguments.json)


def _report(catalog: Catalog, one: RunView, other: RunView, *, as_json: bool) -> int:
    first, second = catalog.series(one), catalog.series(other)
    found = reproduction.differences(first, second)
    num_metrics, num_points = reproduction.num_compared(first)
    reasons = _reasons(catalog, one, other)
    if as_json:
        plain = [vars(difference) for difference in found]
        _print.print_json(
            {"run": one.id, "again": other.id, "identical": not found, "differences": plain}
            | {"origin": reasons, "metrics": num_metrics, "points": num_points}
        )
        return 1 if found else 0
    if not found:
        print(
            f"\nIDENTICAL: {num_metrics} metrics, {num_points:,} points; the second is {other.id}"
        )
        return 0
    print(
        f"\nNOT IDENTICAL: {len(found)} of {num_metrics} metrics differ; the second is {other.id}"
    )
    for difference in found:
        print(f"  {reproduction.describe(difference)}")
    print("\nWhat else differs")
    rows = [[key, _print.number(a), _print.number(b)] for key, (a, b) in reasons.items()]
    if rows:
        _print.print_table(["", one.id, other.id], rows, fixed=3)
    else:
        print("  nothing that was recorded: code, packages and machine are the same")
    return 1


def _reasons(catalog: Catalog, one: RunView, other: RunView) -> Mapping[str, tuple[Any, Any]]:
    return {
        **differing(origin(catalog, one), origin(catalog, other)),
        **differing(packages(catalog, one), packages(catalog, other)),
    }
