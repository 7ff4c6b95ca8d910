"""Brings MongoDB up to a run's spool: killed half-way and repeated, each point stands once.

A step reads what is new in the spool and writes it; the status is written last. Points are
appended under the condition that as many stand there as are believed to; otherwise the metric is
written anew. A lock keeps a run's own thread and `marl sync` from doing this at once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gridfs
from pymongo import errors
from pymongo.database import Database

from experiments.tracking import documents, locks, replica
from experiments.tracking.decimation import Decimator
from experiments.tracking.files import Files
from experiments.tracking.mongo import Target
from experiments.tracking.spool import (
    CONFIG,
    METRICS,
    NOTES,
    REPLICA,
    has_ended,
    read_events,
    read_heartbeat,
    read_json,
    update_json,
)
from experiments.tracking.tail import MetricsTail
from marlcore.durable import write_whole


class Replicator:
    """Replicates one run to one database.

    Raises (from `step`):
        pymongo.errors.PyMongoError: the server is away, slow or refuses; a later step goes on.
    """

    def __init__(self, run_dir: Path, target: Target) -> None:
        self.run_dir, self.target = run_dir, target
        self._client = target.connect()
        self._database: Database[Any] = self._client[target.database]
        self._tail = MetricsTail(run_dir / METRICS)
        self._written: dict[str, tuple[int, int]] = {}
        """Metric -> (stride, number of points) that the server is believed to have."""
        self._fields: dict[str, Any] = {}
        """Fields of the run's document as last written."""
        self._number: int | None = None
        self._sizes: list[int] | None = None
        self._files: Files | None = None

    def step(self) -> bool:
        """Write what is new; returns False while the run has not started."""
        with locks.held(self.run_dir / ".replica.lock"):
            return self._step()

    def close(self) -> None:
        """Leave the server."""
        self._client.close()

    def _step(self) -> bool:
        sizes = replica.sizes(self.run_dir)  # first: what comes later counts as not written
        events = read_events(self.run_dir)
        if not any(event["event"] == "start" for event in events):
            return False
        self._forget_if_gone()
        number = self._number if self._number is not None else self._find_or_insert(events)
        changed = sizes != self._sizes
        if changed:
            self._write_metrics(number, settled=not has_ended(self.run_dir))
        self._write_run(number, events, changed)
        self._sync_notes(number)
        if changed:
            self._note_progress(number, sizes)
        self._sizes = sizes
        return True

    def _forget_if_gone(self) -> None:
        """Begin anew if the run's document was deleted; its number may be another run's by now."""
        own = {"_id": self._number, "info.run_id": self.run_dir.resolve().name}
        if self._number is not None and self._database.runs.find_one(own, {"_id": 1}) is None:
            self._number, self._sizes, self._files = None, None, None
            self._fields, self._written = {}, {}

    def _find_or_insert(self, events: list[dict[str, Any]]) -> int:
        """The run's number in the database: the next free one if it is new there, as in Sacred."""
        runs = self._database.runs
        runs.create_index(
            "info.run_id", unique=True, partialFilterExpression={"info.run_id": {"$exists": True}}
        )
        run_id = self.run_dir.resolve().name
        self._files = Files(gridfs.GridFS(self._database), self.run_dir)
        while True:
            found = runs.find_one({"info.run_id": run_id}, {"_id": 1})
            if found is not None:
                break
            last = runs.find_one({"_id": {"$type": "number"}}, {"_id": 1}, sort=[("_id", -1)])
            document = documents.started(_named(events, run_id), self._config())
            document["experiment"]["sources"] = self._files.sources(events)
            try:
                number = int(last["_id"]) + 1 if last else 1
                runs.insert_one({"_id": number, **document})
            except errors.DuplicateKeyError:  # someone took the number, or wrote the run
                continue
            self._fields = document
        self._number = int(found["_id"])
        return self._number

    def _write_metrics(self, number: int, *, settled: bool) -> None:
        if self._tail.read():
            self._written.clear()  # the run went back to a checkpoint
        if not self._written:  # records that were taken back may have been all of a metric
            names = sorted(self._tail.decimators)
            self._database.metrics.delete_many({"run_id": number, "name": {"$nin": names}})
        for name, decimator in self._tail.decimators.items():
            self._write_metric(number, name, decimator, settled=settled)

    def _write_metric(self, number: int, name: str, decimator: Decimator, *, settled: bool) -> None:
        points = decimator.settled() if settled else decimator.points()
        stride, known = self._written.get(name, (0, 0))
        metrics, own = self._database.metrics, {"_id": self._metric_id(name)}
        if stride == decimator.stride and known <= len(points):
            if known == len(points):
                return
            new = documents.metric(number, name, points[known:])
            arrays = {field: {"$each": new[field]} for field in ("steps", "timestamps", "values")}
            done = metrics.update_one({**own, "steps": {"$size": known}}, {"$push": arrays})
            if done.matched_count:
                self._written[name] = (stride, len(points))
                return
        metrics.replace_one(own, documents.metric(number, name, points), upsert=True)
        self._written[name] = (decimator.stride, len(points))

    def _write_run(self, number: int, events: list[dict[str, Any]], changed: bool) -> None:
        sign = read_heartbeat(self.run_dir)
        fields: dict[str, Any] = {}
        if sign is not None:
            fields["heartbeat"] = documents.moment(sign["time"])
        if changed:
            assert self._files is not None
            named = _named(events, self.run_dir.resolve().name)
            fields = {**documents.started(named, self._config()), **fields}
            fields["experiment"]["sources"] = self._files.sources(events)
            fields["artifacts"] = self._files.artifacts(number, events)
            fields["captured_out"] = documents.output(self.run_dir)
            fields["info"]["metrics"] = [
                {"name": name, "id": str(self._metric_id(name))} for name in self._tail.decimators
            ]
            fields.setdefault("result", None)
            fields |= documents.ended(events)
        new = {k: v for k, v in fields.items() if k not in self._fields or self._fields[k] != v}
        gone = {"stop_time", "fail_trace"} - fields.keys() if changed else set()
        if new:
            own = {"_id": number, "info.run_id": self.run_dir.resolve().name}
            former = {"$unset": dict.fromkeys(gone, "")} if gone else {}  # of an earlier attempt
            self._database.runs.update_one(own, {"$set": new, **former})
            self._fields |= new

    def _sync_notes(self, number: int) -> None:
        """Tags and notes go both ways; what changed here since the last time wins.

        Where they were never brought together (a new database, a document made anew), what is here
        wins unless it is nothing.
        """
        runs, state = self._database.runs, read_json(self.run_dir / REPLICA, {})
        here = replica.notes(self.run_dir)
        there = replica.as_notes(
            (runs.find_one({"_id": number}, {"omniboard": 1}) or {}).get("omniboard")
        )
        if here is None or here == there:
            return
        known = state.get("target") == self.target.name and there is not None
        synced = state.get("notes") if known else replica.NO_NOTES
        if here != synced:
            wanted = here
            runs.update_one({"_id": number}, {"$set": {"omniboard": wanted}})
        elif there is not None:
            wanted = there
            write_whole(self.run_dir / NOTES, json.dumps(wanted, indent=1) + "\n")
        else:
            return
        update_json(self.run_dir / REPLICA, lambda values: values.update(notes=wanted))

    def _note_progress(self, number: int, sizes: list[int]) -> None:
        values = {"target": self.target.name, "number": number, "sizes": sizes}
        update_json(self.run_dir / REPLICA, lambda state: state.update(values))

    def _metric_id(self, name: str) -> Any:
        return documents.identity("metric", self.run_dir.resolve().name, name)

    def _config(self) -> Mapping[str, Any]:
        return read_json(self.run_dir / CONFIG, {})


def _named(events: list[dict[str, Any]], run_id: str) -> list[dict[str, Any]]:
    return [{**event, "run_id": run_id} for event in events]
