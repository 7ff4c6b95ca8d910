"""Servers that tests start themselves: Slurm, PostgreSQL."""

from __future__ import annotations

import os

import pytest


def need(reason: str | None) -> None:
    """Skip the test if a server cannot be had; where MARL_REQUIRE_SERVERS is set, fail."""
    if reason is None:
        return
    if os.environ.get("MARL_REQUIRE_SERVERS"):
        pytest.fail(reason)
    pytest.skip(reason)
