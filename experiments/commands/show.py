"""One run: status, attempts, where it came from, settings, last metrics, artifacts.

marl show RUN
marl show RUN --config      the whole configuration
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from experiments._rundir import checkpoints
from experiments.commands import _print
from experiments.tracking.catalog import Catalog
from experiments.tracking.replica import describe_replica
from experiments.tracking.spool import read_heartbeat
from experiments.tracking.view import RunView
from marlcore import config_keys


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("--config", action="store_true", help="every key, not only changed ones")
    parser.add_argument("--json", action="store_true", help="print JSON, everything")


def run(arguments: argparse.Namespace) -> int:
    """Show."""
    catalog = Catalog()
    one = catalog.find(arguments.run)
    events = catalog.events(one)
    if arguments.json:
        _print.print_json({**_print.as_plain(one), "events": events})
        return 0
    _print.print_pairs("", _summary(catalog, one, events))
    changed = one.config if arguments.config else changed_keys(one.config)
    title = "Configuration" if arguments.config else "Configuration, what differs from the defaults"
    _print.print_pairs(title, [(key, _print.number(value)) for key, value in changed.items()])
    _print.print_pairs(
        "Last value of every metric",
        [(key, _print.number(value)) for key, value in sorted(one.metrics.items())],
    )
    _print.print_pairs(
        "Artifacts", [(e["name"], e["file"]) for e in events if e["event"] == "artifact"]
    )
    _print.print_pairs("Deaths", [("", e["what"]) for e in events if e["event"] == "death"])
    traces = [e["fail_trace"] for e in events if e.get("fail_trace")]
    if traces:
        print("\nTraceback of the last failure\n" + "".join(traces[-1]))
    return 0


def changed_keys(config: Mapping[str, Any]) -> dict[str, Any]:
    """Those keys of a flat configuration whose value is not a default."""
    defaults: dict[str, list[object]] = {}
    for key in config_keys.all_keys():
        defaults.setdefault(key.name, []).append(key.default)
    return {k: v for k, v in config.items() if all(repr(v) != repr(d) for d in defaults.get(k, []))}


def _summary(catalog: Catalog, one: RunView, events: list[dict[str, Any]]) -> list[tuple[str, str]]:
    status = one.status + (f" ({one.error})" if one.error else "")
    pairs = [("run", one.id), ("status", status)]
    if one.directory is not None:
        directory = catalog.directory(one)
        paused = (read_heartbeat(directory) or {}).get("paused")
        if paused and one.status == "RUNNING":
            pairs.append(("paused", paused))
        pairs.append(("directory", str(directory)))
        pairs.append(("MongoDB", describe_replica(directory)))
    else:
        pairs.append(("directory", f"not here; it is in MongoDB as {one.mongo_id}"))
    if one.status == "DEAD":
        where = catalog.directory(one) if one.directory is not None else None
        way = f"; go on: marl resume {one.id}" if where and checkpoints(where) else ""
        pairs.append(("last heartbeat", _print.ago(one.heartbeat) + way))
    pairs.append(("started", f"{_print.local_time(one.started)} on {one.host}"))
    pairs.append(("took", _print.duration(one.seconds)))
    if one.env_steps is not None:
        pairs.append(("env steps", f"{one.env_steps:,}"))
    changed = " with changes (marl reproduce applies them)" if one.dirty else ""
    pairs.append(("code", (one.commit[:12] + changed) if one.commit else "no git commit recorded"))
    if one.study:
        pairs.append(("sweep", f"study {one.study}, trial {one.trial}, a {one.role} seed"))
    pairs += _attempts(events)
    if one.tags:
        pairs.append(("tags", " ".join(one.tags)))
    if one.notes:
        pairs.append(("note", one.notes))
    return pairs


def _attempts(events: list[dict[str, Any]]) -> list[tuple[str, str]]:
    starts = {e["attempt"]: e for e in events if e["event"] == "start"}
    ends = {e["attempt"]: e for e in events if e["event"] == "end"}
    if len(starts) < 2:
        return []
    return [
        (
            f"attempt {number}",
            f"{_print.local_time(begin['time'])} on {begin['host']}, "
            + (ends[number]["status"] if number in ends else "without an end"),
        )
        for number, begin in starts.items()
    ]
