"""What differs between two runs: configuration, code, packages, machine, results.

marl diff RUN RUN
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from experiments.commands import _print
from experiments.tracking.catalog import Catalog
from experiments.tracking.view import RunView, flat

_SKIPPED = ("config_hash", "argv", "packages", "seed")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("a", metavar="RUN")
    parser.add_argument("b", metavar="RUN")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Compare."""
    catalog = Catalog()
    a, b = catalog.find(arguments.a), catalog.find(arguments.b)
    found = {
        "configuration": differing(a.config, b.config),
        "where it came from": differing(origin(catalog, a), origin(catalog, b)),
        "packages": differing(packages(catalog, a), packages(catalog, b)),
        "last metrics": differing(a.metrics, b.metrics),
    }
    if arguments.json:
        _print.print_json({"a": a.id, "b": b.id, **found})
        return 0
    for title, pairs in found.items():
        if not pairs:
            print(f"\n{title}: no difference")
            continue
        print(f"\n{title}")
        rows = [[key, _print.number(x), _print.number(y)] for key, (x, y) in pairs.items()]
        _print.print_table(["", a.id, b.id], rows, fixed=3)
    return 0


def differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What is not the same in both; None where one has no such thing."""
    names = [*a, *(name for name in b if name not in a)]
    return {n: (a.get(n), b.get(n)) for n in names if repr(a.get(n)) != repr(b.get(n))}


def provenance(catalog: Catalog, one: RunView) -> dict[str, Any]:
    """Of the last attempt; empty where nobody recorded it."""
    starts = [event for event in catalog.events(one) if event["event"] == "start"]
    return dict(starts[-1]["provenance"]) if starts else {}


def origin(catalog: Catalog, one: RunView) -> dict[str, Any]:
    """Code, machine and environment, by dotted keys."""
    found = {k: v for k, v in provenance(catalog, one).items() if k not in _SKIPPED}
    return flat(found) or {"git.commit": one.commit, "git.dirty": one.dirty}


def packages(catalog: Catalog, one: RunView) -> dict[str, Any]:
    """Installed packages."""
    return dict(provenance(catalog, one).get("packages", {}))
