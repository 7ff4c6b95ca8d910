"""The cluster that all tests of this folder share."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.slurm_cluster.cluster import Cluster, running_cluster, why_not
from tests.sweeps.postgres import Server, running_or_skipped


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A running cluster; where MARL_REQUIRE_SERVERS is set, its absence is a failure."""
    reason = why_not()
    if reason is not None:
        if os.environ.get("MARL_REQUIRE_SERVERS"):
            pytest.fail(reason)
        pytest.skip(reason)
    with running_cluster() as running:
        yield running


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A running PostgreSQL; where MARL_REQUIRE_SERVERS is set, its absence is a failure."""
    yield from running_or_skipped()
