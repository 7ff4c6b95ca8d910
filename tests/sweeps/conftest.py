"""Both kinds of storage: an SQLite file, and a real PostgreSQL."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sweeps.study import Study
from tests.servers import need
from tests.sweeps.postgres import Server, running_postgres, why_not
from tests.sweeps.toy import open_toy, opened

OpenStudy = Callable[..., Study]


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A running PostgreSQL."""
    need(why_not())
    with running_postgres() as server:
        yield server


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    """Close the toy studies that the test opened."""
    yield
    while opened:
        opened.pop().close()


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def kept(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where studies are kept, set up as a user does."""
    if request.param == "postgres":
        monkeypatch.setenv("MARL_OPTUNA_URL", request.getfixturevalue("postgres").url)
    else:
        monkeypatch.delenv("MARL_OPTUNA_URL", raising=False)
    return str(request.param)


@pytest.fixture
def open_study(kept: str, tmp_path: Path) -> OpenStudy:
    """Opens the toy study, the same one each time."""
    name = f"toy-{secrets.token_hex(4)}"  # the server keeps those of other tests
    return lambda **changes: open_toy(tmp_path / name, name, **changes)
