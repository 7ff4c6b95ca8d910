"""The Sacred observer that writes to the spool; the only one an experiment has.

Metrics and artifacts do not pass here: they go to the spool by the run's Recorder at once, while
Sacred would hand them on every ten seconds.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sacred.observers import RunObserver
from sacred.serializer import flatten

from experiments.tracking.failures import with_others
from experiments.tracking.provenance import redacted_code
from experiments.tracking.spool import Spool
from experiments.tracking.store import Store
from marlcore.rendezvous import place


class SpoolObserver(RunObserver):
    """Hands what Sacred knows of a run to its spool; provenance is collected when it starts."""

    def __init__(
        self, spool: Spool, store: Store, provenance: Callable[[], dict[str, Any]]
    ) -> None:
        self._spool, self._store, self._provenance = spool, store, provenance

    def started_event(
        self,
        ex_info: Mapping[str, Any],
        command: str,
        host_info: Mapping[str, Any],
        start_time: datetime.datetime,
        config: Mapping[str, Any],
        meta_info: Mapping[str, Any],
        _id: str | None,
    ) -> str | None:
        """The attempt begins."""
        root = Path(ex_info["base_dir"])
        self._spool.start(
            sacred={
                "experiment": {name: x for name, x in ex_info.items() if name != "sources"},
                "command": command,
                "host": dict(host_info),
                "meta": dict(meta_info),
                "start_time": start_time.isoformat(),
            },
            sources={
                name: self._store.put(redacted_code((root / name).read_bytes()))
                for name, _ in ex_info["sources"]
            },
            provenance=self._provenance(),
        )
        return _id

    def completed_event(self, stop_time: datetime.datetime, result: Any) -> None:
        """The attempt did what was asked."""
        self._spool.end("COMPLETED", result=flatten(result))

    def interrupted_event(self, interrupt_time: datetime.datetime, status: str) -> None:
        """A signal ended the attempt."""
        self._spool.end(status)

    def failed_event(self, fail_time: datetime.datetime, fail_trace: list[str]) -> None:
        """An exception ended the attempt."""
        trace = with_others(
            self._spool.run_dir,
            list(fail_trace),
            since=self._spool.opened - 60,
            expected=place().world_size > 1,
        )
        self._spool.end("FAILED", fail_trace=trace)
