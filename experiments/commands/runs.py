"""List runs, newest last.

    marl runs status=COMPLETED 'gamma_prime>0.9' --sort rollout/return_mean
    marl runs --columns id,seed,eval/success_rate

A condition is KEY, one of = != > >= < <= ~ (contains), and a value; all must hold. KEY is a field
(status, name, host, tags, env_steps, ...), a metric (its last value) or a configuration key.
Without --columns, the configuration keys that differ between the listed runs are shown.
"""

from __future__ import annotations

import argparse
import gc
import math
from collections.abc import Callable, Sequence
from typing import Any

from experiments.commands import _print
from experiments.tracking.catalog import Catalog
from experiments.tracking.select import Lookup, select
from experiments.tracking.view import RunView
from marlcore.config_errors import ConfigError

_DEFAULT = ("id", "status", "started", "took", "env_steps", "return", "success", "tags")
_MOST_KEYS = 6
_WITHOUT = ("training.num_workers", "training.device", "logging.console")
"""Keys that say where a run was made; they are shown by --columns alone."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("conditions", nargs="*", metavar="CONDITION")
    parser.add_argument("--sort", metavar="KEY", help="sort by it, the largest last")
    parser.add_argument("--descending", action="store_true", help="the largest first")
    parser.add_argument("--columns", metavar="KEY,KEY", help="show these")
    parser.add_argument("--limit", type=int, default=50, metavar="N", help="the last N (50)")
    parser.add_argument("--all", action="store_true", help="no limit")
    parser.add_argument("--local", action="store_true", help="do not ask MongoDB")
    parser.add_argument("--json", action="store_true", help="print JSON, all fields")


def run(arguments: argparse.Namespace) -> int:
    """List."""
    gc.disable()  # among millions of values that all live to the end, half of the time
    catalog = Catalog(remote=not arguments.local)
    everything = catalog.views()
    if arguments.limit < 1:
        raise ConfigError(f"--limit {arguments.limit} is refused; give a number from 1, or --all")
    if not everything and not arguments.json:
        print(f"no runs in {catalog.runs}; start one: python experiments/acppo.py with quickstart")
        return 0
    views = select(everything, arguments.conditions) if everything else []
    views = _sorted(views, everything, arguments.sort)
    left_out = 0 if arguments.all else max(0, len(views) - arguments.limit)
    views = views[left_out:]  # the newest, or the largest
    if arguments.descending:
        views.reverse()
    if arguments.json:
        _print.print_json([_print.as_plain(one) for one in views])
        return 0
    if not views:
        print(f"none of {len(everything)} runs fulfils the conditions")
        return 0
    header, rows = _table(views, everything, arguments.columns)
    _print.print_table(header, rows, fixed=2)
    if left_out:
        print(f"({left_out:,} more of {len(views) + left_out:,}: --all)")
    return 0


def _sorted(views: list[RunView], all_views: Sequence[RunView], sort: str | None) -> list[RunView]:
    if not sort:
        return views
    get = Lookup(all_views).getter(sort)

    def key(one: RunView) -> tuple[int, Any]:
        value = get(one)
        if isinstance(value, int | float) and not math.isnan(value):
            return (1, (value, ""))
        return (
            (0, (0.0, "")) if value is None or isinstance(value, float) else (2, (0.0, str(value)))
        )

    return sorted(views, key=key)


def _table(
    views: Sequence[RunView], all_views: Sequence[RunView], columns: str | None
) -> tuple[list[str], list[list[str]]]:
    if columns is not None:
        names = [name.strip() for name in columns.split(",") if name.strip()]
        if not names:
            raise ConfigError(f"--columns {columns} names none; give KEY,KEY")
        lookup = Lookup(all_views)
        getters = [_SHOWN.get(name) or _text(lookup.getter(name)) for name in names]
    else:
        lookup = Lookup(views)
        keys = [key for key in lookup.differing() if key not in _WITHOUT]
        keys.sort(key=lambda key: (key != "seed", key))
        getters = [_SHOWN[name] for name in _DEFAULT]
        getters += [_text(lookup.getter(key)) for key in keys[:_MOST_KEYS]]
        names = [*_DEFAULT, *(key.rpartition(".")[2] for key in keys[:_MOST_KEYS])]
        if not any(one.tags for one in views):
            del names[7], getters[7]
    return names, [[get(one) for get in getters] for one in views]


def _text(get: Callable[[RunView], Any]) -> Callable[[RunView], str]:
    return lambda one: _print.number(get(one))


def _metric(*names: str) -> Callable[[RunView], str]:
    def read(one: RunView) -> str:
        return _print.number(next((one.metrics[n] for n in names if n in one.metrics), None))

    return read


_SHOWN: dict[str, Callable[[RunView], str]] = {
    "id": lambda one: one.id,
    "status": lambda one: one.status,
    "started": lambda one: _print.ago(one.started),
    "took": lambda one: _print.duration(one.seconds),
    "env_steps": lambda one: _print.number(one.env_steps),
    "return": _metric("eval/return_mean", "rollout/return_mean"),
    "success": _metric("eval/success_rate", "rollout/success_rate"),
    "tags": lambda one: " ".join(one.tags),
}
"""Columns with a form of their own; return and success are of the evaluation where there is one."""
