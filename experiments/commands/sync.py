"""Bring MongoDB up to what is on the disk; with --wandb, W&B up to one run.

    marl sync                 every run that MongoDB does not have whole
    marl sync RUN RUN
    marl sync --wandb RUN     needs a key; --offline writes a folder for `wandb sync`

MongoDB is the one of MARL_MONGO_URI, else the embedded one (`marl server start`). What is there
already stays as it is: killed half-way and repeated, each point stands once.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from experiments.commands import _print
from experiments.tracking import mongo
from experiments.tracking.catalog import Catalog
from experiments.tracking.read import run_ids
from experiments.tracking.redaction import redact
from experiments.tracking.replica import is_current
from marlcore.config_errors import ConfigError, parse_config


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("runs", nargs="*", metavar="RUN")
    parser.add_argument("--again", action="store_true", help="also runs that are up to date")
    parser.add_argument("--wandb", action="store_true", help="W&B instead of MongoDB")
    parser.add_argument("--offline", action="store_true", help="with --wandb: into a folder")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Synchronise."""
    catalog = Catalog(remote=False)
    found = [catalog.directory(one) for one in catalog.find_all(arguments.runs)]
    if arguments.wandb:
        return _to_wandb(found, offline=arguments.offline)
    if arguments.offline:
        raise ConfigError("--offline is for --wandb")
    target = mongo.target(catalog.runs)
    if target is None:
        raise ConfigError(
            "there is no MongoDB to synchronise with; run: marl server start  (or set "
            "MARL_MONGO_URI)"
        )
    mongo.ping(target)
    directories = found or [catalog.runs / run_id for run_id in run_ids(catalog.runs)]
    results = sync_all(directories, target, again=arguments.again or bool(found))
    if arguments.json:
        _print.print_json(results)
    else:
        done = [run_id for run_id, result in results.items() if result == "synchronised"]
        print(f"{len(done)} of {len(results)} runs synchronised, to {target}")
    return 0 if all(not result.startswith("failed") for result in results.values()) else 1


def sync_all(
    directories: list[Path], target: mongo.Target, *, again: bool = False, quiet: bool = False
) -> dict[str, str]:
    """Bring MongoDB up to these runs; returns what was done with each."""
    results: dict[str, str] = {}
    present = _present(target)
    for path in directories:
        run_id = path.resolve().name
        if not again and run_id in present and is_current(path, target.name):
            results[run_id] = "up to date"
            continue
        try:
            results[run_id] = _sync(path, target)
        except Exception as error:  # of one run: the others are synchronised all the same
            results[run_id] = f"failed: {type(error).__name__}"
            what = redact(str(error)).splitlines() or [""]
            print(f"{run_id}: {type(error).__name__}: {what[0][:200]}", file=sys.stderr)
        else:
            if not quiet:
                print(f"{run_id}: {results[run_id]}", file=sys.stderr)
    return results


def _sync(path: Path, target: mongo.Target) -> str:
    from experiments.tracking.replicator import Replicator

    replicator = Replicator(path, target)
    try:
        return "synchronised" if replicator.step() else "has not started"
    finally:
        replicator.close()


def _present(target: mongo.Target) -> set[str]:
    client = target.connect()
    try:
        return set(client[target.database].runs.distinct("info.run_id"))
    finally:
        client.close()


def _to_wandb(directories: list[Path], *, offline: bool) -> int:
    from experiments.tracking.mirrors import wandb_copy
    from experiments.tracking.writers import has_wandb_key

    if not directories:
        raise ConfigError("name the runs: marl sync --wandb RUN")
    if not offline and not has_wandb_key():
        raise ConfigError(
            "W&B has no key: set WANDB_API_KEY, or WANDB_API_KEY_FILE to a file of mode 600, or "
            "run `wandb login`; --offline writes a folder without one"
        )
    for path in directories:
        values = json.loads((path / "config.json").read_text(encoding="utf-8"))
        copy = wandb_copy(path, values, parse_config(values).logging, online=not offline)
        copy.step()
        copy.close()
        where = f"in {path / 'wandb'}" if offline else "sent"
        print(f"{path.resolve().name}: {where}")
    return 0
