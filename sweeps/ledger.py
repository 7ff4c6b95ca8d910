"""Who works on what: one row a unit (a seed of a trial), in the database of the study.

A claim is a lease with a fencing token. Every claim of a unit raises its token, and every change
names the token it was made under: a worker that froze, lost its lease and woke up changes nothing
any more. The rows are the truth; Optuna's trials follow from them (sweeps.study).

SQLite is written by one process at a time, which holds a lock on a file beside it. PostgreSQL
serialises by itself; claims, which look at many rows, hold an advisory lock.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import threading
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from experiments.tracking import locks
from experiments.tracking.spool import process_start

WAITING, RUNNING, DONE = "waiting", "running", "done"
FAILED, PRUNED, CANCELLED = "failed", "pruned", "cancelled"
FINAL = (DONE, FAILED, PRUNED, CANCELLED)

_LOCK_S = 120
"""How long a claim waits for the lock on PostgreSQL, and may hold it."""
_metadata = sa.MetaData()
_units = sa.Table(
    "marl_units",
    _metadata,
    sa.Column("study", sa.String(80), primary_key=True),
    sa.Column("trial", sa.Integer, primary_key=True),
    sa.Column("role", sa.String(8), primary_key=True),
    sa.Column("seed", sa.BigInteger, primary_key=True),
    sa.Column("state", sa.String(10), nullable=False),
    sa.Column("token", sa.Integer, nullable=False),
    sa.Column("failures", sa.Integer, nullable=False),
    sa.Column("takeovers", sa.Integer, nullable=False),
    sa.Column("owner", sa.Text),
    sa.Column("expires", sa.Double),
    sa.Column("run", sa.Text),
    sa.Column("score", sa.Double),
    sa.Column("error", sa.Text),
)


@dataclass(frozen=True)
class Unit:
    """One run of a trial."""

    trial: int
    role: str
    """tuning or test."""
    seed: int
    state: str = WAITING
    token: int = 0
    failures: int = 0
    """How often its run was killed."""
    takeovers: int = 0
    """How often it was taken from a worker that was dead or silent."""
    owner: str | None = None
    """Who holds it, as `Owner.text` writes it."""
    expires: float | None = None
    """Until when, in seconds since 1970."""
    run: str | None = None
    """Id of its run."""
    score: float | None = None
    error: str | None = None

    @property
    def key(self) -> tuple[int, str, int]:
        """What it is, whatever became of it."""
        return self.trial, self.role, self.seed

    @property
    def is_final(self) -> bool:
        """Whether nothing is left to do."""
        return self.state in FINAL


class LeaseLostError(Exception):
    """Somebody else has the unit, or nobody needs it."""


@dataclass(frozen=True)
class Owner:
    """A worker: where its process can be seen it can be told whether it lives."""

    place: str
    """Machine, boot and process namespace: containers may have the same host name."""
    pid: int
    started: int | None
    """Of its process, in clock ticks since boot."""

    @classmethod
    def of_this_process(cls) -> Owner:
        """The caller."""
        return cls(_place(), os.getpid(), process_start(os.getpid()))

    @property
    def text(self) -> str:
        """As it is stored."""
        return json.dumps([self.place, self.pid, self.started])

    @classmethod
    def read(cls, text: str | None) -> Owner:
        """From what is stored."""
        return cls(*json.loads(text or '["", 0, null]'))

    @property
    def is_gone(self) -> bool:
        """Whether it is known to be dead; of other places nothing is known."""
        known = self.place == _place() and self.started is not None
        return known and process_start(self.pid) != self.started


def _place() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{platform.node()} {boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux
        return platform.node()


class Ledger:
    """The rows of one study.

    Args:
        url: of the database, as SQLAlchemy takes it.
        study: the study's key, which no other study has.
        lock: file that is locked for every change of an SQLite file; None: PostgreSQL.
    """

    def __init__(self, url: sa.URL, study: str, lock: Path | None) -> None:
        self.study, self._lock = study, lock
        self._engine = sa.create_engine(url, **engine_options(url))
        self._depth, self._mutex = 0, threading.RLock()
        with self.exclusive():
            _metadata.create_all(self._engine)

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Nobody else claims; on SQLite, nobody else writes. May be entered again inside itself."""
        with self._mutex:
            if self._depth:
                yield
                return
            self._depth = 1
            try:
                with exclusive(self._engine, self._lock):
                    yield
            finally:
                self._depth = 0

    def units(self) -> list[Unit]:
        """All of them, in order."""
        columns = [column for column in _units.c if column.name != "study"]
        query = sa.select(*columns).where(_units.c.study == self.study)
        query = query.order_by(_units.c.trial, _units.c.role.desc(), _units.c.seed)
        with self._engine.connect() as connection:
            return [Unit(**row._mapping) for row in connection.execute(query)]

    def add(self, units: Sequence[Unit]) -> None:
        """Add units to be worked on; those that are there stay as they are."""
        with self.exclusive(), self._engine.begin() as connection:
            there = {unit.key for unit in self.units()}
            rows = [{"study": self.study, **_values(u)} for u in units if u.key not in there]
            if rows:
                connection.execute(sa.insert(_units), rows)

    def take(self, unit: Unit, owner: Owner, *, lease_s: float) -> Unit | None:
        """Claim a unit as it was seen; None if somebody was faster."""
        mine = taken(unit, owner, lease_s=lease_s)
        return mine if self._change(unit, mine, states=(WAITING, RUNNING)) else None

    def renew(self, unit: Unit, *, lease_s: float, run: str | None = None) -> Unit | None:
        """Stay its owner; None if the lease is lost."""
        mine = replace(unit, expires=time.time() + lease_s, run=run or unit.run)
        return mine if self._change(unit, mine, states=(RUNNING,)) else None

    def finish(self, unit: Unit, state: str, **facts: Any) -> bool:
        """Say what became of it; False if the lease is lost, and nothing is changed."""
        done = replace(unit, state=state, owner=None, expires=None, **facts)
        return self._change(unit, done, states=(RUNNING,))

    def cancel(self, unit: Unit) -> bool:
        """Nobody needs it; who works on it loses it."""
        gone = replace(unit, state=CANCELLED, token=unit.token + 1, owner=None, expires=None)
        return self._change(unit, gone, states=(WAITING, RUNNING))

    def _change(self, before: Unit, after: Unit, *, states: Sequence[str]) -> bool:
        """Compare and swap, by the token."""
        is_it = sa.and_(
            _units.c.study == self.study,
            _units.c.trial == before.trial,
            _units.c.role == before.role,
            _units.c.seed == before.seed,
            _units.c.token == before.token,
            _units.c.state.in_(states),
        )
        # What is written by others, under the same token, stays: nothing but our own changes.
        changed = {
            name: value
            for name, value in _values(after).items()
            if value != getattr(before, name) or name == "state"
        }
        with self.exclusive(), self._engine.begin() as connection:
            return connection.execute(sa.update(_units).where(is_it).values(changed)).rowcount == 1


def by_trial(units: Iterable[Unit], role: str | None = None) -> dict[int, list[Unit]]:
    """Units of each trial, of one role if it is given."""
    groups: dict[int, list[Unit]] = {}
    for unit in units:
        if role in (None, unit.role):
            groups.setdefault(unit.trial, []).append(unit)
    return groups


def taken(unit: Unit, owner: Owner, *, lease_s: float) -> Unit:
    """The unit under a new lease, before it is written."""
    return replace(
        unit,
        state=RUNNING,
        token=unit.token + 1,
        takeovers=unit.takeovers + (unit.state == RUNNING),
        owner=owner.text,
        expires=time.time() + lease_s,
    )


def is_free(unit: Unit) -> bool:
    """Whether anybody may take it: it waits, its lease is over, or its owner is dead."""
    if unit.state != RUNNING:
        return unit.state == WAITING
    return (unit.expires or 0.0) < time.time() or Owner.read(unit.owner).is_gone


def engine_options(url: sa.URL) -> dict[str, Any]:
    """Of SQLAlchemy; connections are kept, and made anew if the server was started again."""
    if url.get_backend_name() == "sqlite":
        return {"connect_args": {"timeout": 60}}
    return {"pool_pre_ping": True, "pool_size": 2, "connect_args": {"connect_timeout": 10}}


@contextlib.contextmanager
def exclusive(engine: sa.Engine, lock: Path | None) -> Iterator[None]:
    """Hold the lock of a database of studies."""
    if lock is not None:
        with locks.held(lock):
            yield
        return
    # Of this transaction nothing is written. A client that freezes in it is thrown out.
    number = zlib.crc32(b"marlcore sweeps")
    with engine.connect() as connection, connection.begin():
        for setting in ("lock_timeout", "idle_in_transaction_session_timeout"):
            connection.execute(sa.text(f"SET LOCAL {setting} = '{_LOCK_S}s'"))
        connection.execute(sa.text(f"SELECT pg_advisory_xact_lock({number})"))
        yield


def _values(unit: Unit) -> dict[str, Any]:
    return {name: getattr(unit, name) for name in Unit.__dataclass_fields__}
