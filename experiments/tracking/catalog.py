"""All runs that can be reached: those in the runs directory, and those that MongoDB alone has."""

from __future__ import annotations

import datetime
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from experiments import _rundir
from experiments.tracking import mongo, read, view
from experiments.tracking.spool import read_events
from experiments.tracking.view import RunView, Series, flat
from marlcore import config_keys
from marlcore.config_errors import ConfigError, show

_DIGITS = 7
_FIELDS = (
    *("experiment.name", "config", "status", "start_time", "stop_time", "heartbeat"),
    *("host.hostname", "info.run_id", "info.attempts", "info.provenance.git", "info.trial"),
    "omniboard",
    "fail_trace",
)


class Catalog:
    """Finds runs and reads them, from disk where they are there.

    Args:
        runs: the runs directory.
        remote: whether MongoDB is asked as well, where one is known.
    """

    def __init__(self, runs: Path | None = None, *, remote: bool = True) -> None:
        self.runs = _rundir.runs_dir() if runs is None else runs
        self._remote = remote

    def views(self) -> list[RunView]:
        """Every run, oldest first."""
        local = read.list_views(self.runs)
        known = {one.id for one in local}
        remote = [one for one in self._remote_views({}) if one.id not in known]
        return sorted([*local, *remote], key=lambda one: (one.started or 0.0, one.id))

    def find(self, text: str) -> RunView:
        """The run that a path, an id, the beginning of one or a number in MongoDB means.

        Raises:
            ConfigError: there is none (naming the nearest), or there are several.
        """
        if not text:
            raise ConfigError("no run ''; give an id, the beginning of one, or a directory")
        ids = read.run_ids(self.runs)
        matches = [run_id for run_id in ids if run_id.startswith(text)]
        if text in ids or "/" in text:
            return read.read_view(_rundir.find_run(text))
        numbered = self._numbered(text)
        if len(numbered) == 1:
            return numbered[0]
        if len(matches) == 1 and not numbered:
            return read.read_view(_rundir.find_run(text))
        remote = [] if matches else self._remote_views(_query(text))
        remote = [one for one in remote if one.id == text] or remote
        if len(remote) == 1:
            return remote[0]
        if matches or remote or numbered:
            several = [one.id for one in numbered] or matches or [one.id for one in remote]
            raise ConfigError(_several(text, several))
        candidates = [*ids, *(one.id for one in self._remote_views({}))]
        near = config_keys.nearest(text, candidates)
        newest = ", ".join(candidates[-3:][::-1])
        meant = f"did you mean {near}?" if near else f"there are {newest or 'no runs yet'}"
        raise ConfigError(f"no run {show(text)} in {self.runs} or MongoDB; {meant}")

    def _numbered(self, text: str) -> list[RunView]:
        """Runs with that number in MongoDB; ids that begin with a number are longer."""
        if not text.isdecimal() or len(text) > _DIGITS:
            return []
        local = [one for one in read.list_views(self.runs) if one.mongo_id == int(text)]
        return local or self._remote_views({"_id": int(text)})

    def find_all(self, texts: Iterable[str]) -> list[RunView]:
        """`find` for each, in order, each run once."""
        found = {one.id: one for one in map(self.find, texts)}
        return list(found.values())

    def directory(self, one: RunView) -> Path:
        """Where the run lies.

        Raises:
            ConfigError: MongoDB alone has it.
        """
        if one.directory is None:
            raise ConfigError(
                f"run {one.id} is in MongoDB alone; this needs its directory, which is on "
                f"{one.host or 'the machine that ran it'}"
            )
        return Path(one.directory)

    def events(self, one: RunView) -> list[dict[str, Any]]:
        """What happened to the run; of a run that MongoDB alone has, as far as it stands there."""
        if one.directory is not None:
            return read_events(Path(one.directory))
        return _events_of(self._document(one))

    def output(self, one: RunView) -> str:
        """What a run that MongoDB alone has printed; of a long output the beginning and end."""
        return str(self._document(one).get("captured_out") or "")

    def _document(self, one: RunView) -> dict[str, Any]:
        target = mongo.target(self.runs)
        assert target is not None
        client = target.connect()
        try:
            return client[target.database].runs.find_one({"_id": one.mongo_id}) or {}
        finally:
            client.close()

    def series(self, one: RunView) -> dict[str, Series]:
        """Every point of every metric; of a run that MongoDB alone has, decimated ones."""
        if one.directory is not None:
            return read.read_series(Path(one.directory))
        target = mongo.target(self.runs)
        assert target is not None
        client = target.connect()
        try:
            found = client[target.database].metrics.find({"run_id": one.mongo_id})
            return {
                m["name"]: Series(m["steps"], [_seconds(t) for t in m["timestamps"]], m["values"])
                for m in found
            }
        finally:
            client.close()

    def _remote_views(self, query: Mapping[str, Any]) -> list[RunView]:
        target = mongo.target(self.runs) if self._remote else None
        if target is None:
            return []
        from pymongo import errors

        client = None
        try:
            client = target.connect()
            database = client[target.database]
            found = list(database.runs.find(query, dict.fromkeys(_FIELDS, 1)))
            ids = [document["_id"] for document in found]
            last = database.metrics.aggregate([{"$match": {"run_id": {"$in": ids}}}, _LAST])
            metrics: dict[Any, dict[str, tuple[int, float]]] = {}
            for one in last:
                if isinstance(one.get("step"), int | float) and "name" in one:
                    points = metrics.setdefault(one["run_id"], {})
                    points[str(one["name"])] = (int(one["step"]), one.get("value"))
            return [_view_of(document, metrics.get(document["_id"], {})) for document in found]
        except (errors.PyMongoError, ConfigError) as error:
            how = (
                "refuses access"
                if isinstance(error, errors.OperationFailure)
                else "does not answer"
            )
            print(
                f"note: {target} {how} ({type(error).__name__}); this is what the disk has",
                file=sys.stderr,
            )
            self._remote = False
            return []
        finally:
            if client is not None:
                client.close()


_LAST = {
    "$project": {
        "run_id": 1,
        "name": 1,
        "step": {"$arrayElemAt": ["$steps", -1]},
        "value": {"$arrayElemAt": ["$values", -1]},
    }
}


def _view_of(document: Mapping[str, Any], metrics: Mapping[str, tuple[int, float]]) -> RunView:
    """A summary of a document, whoever wrote it."""
    try:
        return _view(document, metrics)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        what = f"the document makes no sense: {type(error).__name__}"
        number = document["_id"]
        return RunView(
            str(number), "?", view.DAMAGED, {}, error=what, where="mongo", mongo_id=number
        )


def _view(document: Mapping[str, Any], metrics: Mapping[str, tuple[int, float]]) -> RunView:
    info, notes = document.get("info") or {}, document.get("omniboard") or {}
    git, trial = (info.get("provenance") or {}).get("git") or {}, info.get("trial") or {}
    heartbeat, status = _seconds(document.get("heartbeat")), document.get("status", "")
    if status == view.RUNNING and time.time() - (heartbeat or 0.0) > view.DEAD_AFTER_S:
        status = view.DEAD
    trace = document.get("fail_trace")
    steps = [step for step, _ in metrics.values()]
    return RunView(
        id=str(info.get("run_id") or document["_id"]),
        name=str((document.get("experiment") or {}).get("name", "?")),
        status=status,
        config=flat(document.get("config") or {}),
        attempt=len(info.get("attempts") or [0]),
        started=_seconds(document.get("start_time")),
        ended=_seconds(document.get("stop_time")),
        heartbeat=heartbeat,
        host=str((document.get("host") or {}).get("hostname", "")),
        env_steps=max(steps) if steps else None,
        metrics={name: value for name, (_, value) in metrics.items()},
        tags=tuple(notes.get("tags") or ()),
        notes=notes.get("notes") or "",
        commit=git.get("commit"),
        dirty=bool(git.get("dirty")),
        error=read.last_line(trace),
        where="mongo",
        mongo_id=document["_id"],
        study=str(trial.get("study", "")),
        trial=trial.get("trial"),
        role=str(trial.get("role", "")),
    )


def _events_of(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    info = document.get("info") or {}
    provenance = info.get("provenance") or {}
    attempts = info.get("attempts") or [{"attempt": 1, "start_time": document.get("start_time")}]
    events: list[dict[str, Any]] = [
        {
            "event": "start",
            "time": _seconds(attempt.get("start_time")) or 0.0,
            "attempt": attempt.get("attempt", 1),
            "host": attempt.get("host", ""),
            "provenance": provenance,
        }
        for attempt in attempts
    ]
    for artifact in document.get("artifacts") or []:
        events.append({"event": "artifact", "name": artifact["name"], "file": "in MongoDB"})
    if document.get("stop_time") is not None:
        end = {
            "event": "end",
            "time": _seconds(document["stop_time"]),
            "status": document["status"],
        }
        trace = {"fail_trace": document["fail_trace"]} if document.get("fail_trace") else {}
        events.append({**end, **trace, "attempt": len(attempts)})
    return events


def _query(text: str) -> dict[str, Any]:
    import re

    return {"$or": [{"info.run_id": {"$regex": "^" + re.escape(text)}}, {"_id": text}]}


def _several(text: str, ids: list[str]) -> str:
    newest = ", ".join(ids[-5:][::-1]) + (", ..." if len(ids) > 5 else "")
    return f"{text} fits {len(ids)} runs: {newest}; write more of it"


def _seconds(moment: Any) -> float | None:
    if not isinstance(moment, datetime.datetime):
        return None
    return moment.replace(tzinfo=datetime.UTC).timestamp()
