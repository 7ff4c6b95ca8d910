"""Where studies are kept: one SQLite file a study, or the PostgreSQL of MARL_OPTUNA_URL.

runs/sweeps/STUDY/        files of a study, wherever its database is
    sweep.json            what was asked for
    study.db              the SQLite file, unless MARL_OPTUNA_URL is set
    worker-0.log, ...     what the workers of this machine print
    report.html, *.png    by sweeps/report.py
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import optuna
import sqlalchemy as sa

from experiments import _rundir
from experiments.tracking import spool
from experiments.tracking.redaction import OPTUNA_URL, read_secret
from marlcore import config_keys
from marlcore.config_errors import ConfigError, show
from sweeps.ledger import engine_options, exclusive

SWEEP, DATABASE = "sweep.json", "study.db"
_WAY_OUT = (
    f"start the server, correct {OPTUNA_URL}, or unset it for an SQLite file in the runs directory"
)

optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclass(frozen=True)
class Storage:
    """A database of studies."""

    url: sa.URL
    lock: Path | None
    """Of an SQLite file."""

    @property
    def kind(self) -> str:
        """Sqlite or postgresql."""
        return self.url.get_backend_name()

    @property
    def is_shared(self) -> bool:
        """Whether processes on other machines reach it."""
        return self.lock is None

    def __str__(self) -> str:
        """Where it is, without the password."""
        return self.url.render_as_string(hide_password=True)

    def open(self) -> optuna.storages.RDBStorage:
        """Optuna's storage on it; tables are made where there are none.

        Raises:
            ConfigError: there is no server, no access, or the file is no database.
        """
        try:
            with self.exclusive():
                return optuna.storages.RDBStorage(
                    self.url.render_as_string(hide_password=False),
                    engine_kwargs=engine_options(self.url),
                )
        except (sa.exc.SQLAlchemyError, RuntimeError, OSError) as error:
            raise ConfigError(f"{self}: {said(error)}; {self._way_out()}") from None

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Nobody else makes tables or studies meanwhile."""
        engine = sa.create_engine(self.url, **engine_options(self.url))
        try:
            with exclusive(engine, self.lock):
                yield
        finally:
            engine.dispose()

    def _way_out(self) -> str:
        if self.lock is None:
            return _WAY_OUT
        return f"move {self.url.database} away if it is beyond repair, and begin anew"


def said(error: BaseException) -> str:
    """What an error of the database says, in a line; no URL stands in it."""
    cause = getattr(error, "orig", None) or error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return (lines[0] if lines else type(cause).__name__)[:300]


def sweeps_dir() -> Path:
    """Where the files of studies lie."""
    return _rundir.runs_dir() / spool.SWEEPS


def storage_of(folder: Path) -> Storage:
    """The database of the study whose files lie in `folder`.

    Raises:
        ConfigError: MARL_OPTUNA_URL is not of PostgreSQL.
    """
    text = read_secret(OPTUNA_URL)
    if text is None:
        path = folder.resolve() / DATABASE
        return Storage(sa.URL.create("sqlite", database=str(path)), path.with_name("lock"))
    try:
        url = sa.make_url(text)
        kind = url.get_backend_name()
    except (sa.exc.ArgumentError, ValueError):
        raise ConfigError(f"{OPTUNA_URL} is no URL; {_FORM}") from None
    if kind not in ("postgresql", "postgres") or not url.database:
        raise ConfigError(f"{OPTUNA_URL} is refused ({kind}); {_FORM}")
    return Storage(url.set(drivername="postgresql+psycopg"), None)


_FORM = "give postgresql://USER:PASSWORD@HOST:PORT/DATABASE"


def find_study(text: str) -> Path:
    """The files of the study that a name, a sweep file or a directory means.

    Raises:
        ConfigError: there is none.
    """
    name = Path(text).name.removesuffix(".yaml").removesuffix(".yml")
    for folder in (Path(text), sweeps_dir() / name):
        if (folder / SWEEP).is_file():
            return folder
    known = sorted(path.parent.name for path in sweeps_dir().glob(f"*/{SWEEP}"))
    near = config_keys.nearest(name, known)
    some = ", ".join(known[:10]) or "none yet: python sweeps/launch.py sweeps/acppo.yaml begins one"
    meant = f"did you mean {near}?" if near else f"there are {some}"
    raise ConfigError(f"there is no study {show(text)} in {sweeps_dir()}; {meant}")


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Without Optuna's warnings of what it calls experimental."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield
