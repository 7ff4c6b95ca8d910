"""The servers that all tests of this folder share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers import need
from tests.slurm_cluster.cluster import Cluster, running_cluster, why_not
from tests.sweeps import postgres as real
from tests.sweeps.postgres import Server


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A running cluster."""
    need(why_not())
    with running_cluster() as running:
        yield running


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A running PostgreSQL."""
    need(real.why_not())
    with real.running_postgres() as server:
        yield server
