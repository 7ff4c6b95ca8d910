"""Changes tags and notes where a run is: in its directory, or in MongoDB alone."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from experiments.tracking import mongo
from experiments.tracking.catalog import Catalog
from experiments.tracking.spool import NOTES, update_json
from experiments.tracking.view import RunView


def change(text: str, edit: Callable[[dict[str, Any]], None]) -> tuple[RunView, dict[str, Any]]:
    """Edit {"tags": [..], "notes": ".."} of a run; returns the run and what stands now."""
    catalog = Catalog()
    one = catalog.find(text)
    target = mongo.target(catalog.runs)
    if one.directory is not None:
        directory = catalog.directory(one)
        notes = update_json(directory / NOTES, edit)
        if target is not None:
            _replicate(directory, target)
        return one, notes
    assert target is not None
    notes = {"tags": list(one.tags), "notes": one.notes}
    edit(notes)
    client = target.connect()
    try:
        client[target.database].runs.update_one(
            {"_id": one.mongo_id}, {"$set": {"omniboard": notes}}
        )
    finally:
        client.close()
    return one, notes


def _replicate(directory: Any, target: mongo.Target) -> None:
    from pymongo import errors

    from experiments.tracking.replicator import Replicator

    replicator = Replicator(directory, target)
    try:
        replicator.step()
    except errors.PyMongoError as error:
        print(f"note: {target} gets it later ({type(error).__name__}): marl sync", file=sys.stderr)
    finally:
        replicator.close()
