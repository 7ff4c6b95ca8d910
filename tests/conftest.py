"""How the tests are shared out where two processes run them (`make test`)."""

from __future__ import annotations

from pathlib import Path

import pytest

TESTS = Path(__file__).parent
WITH_SERVERS = ("slurm_cluster", "tracking", "sweeps")
"""Folders whose files share servers that live for a session."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep in one process the tests of a file, and of a folder whose files share servers.

    There Slurm's tests come first: they mostly wait, and others run meanwhile.
    """
    for item in items:
        path = item.path.relative_to(TESTS)
        group = path.parts[0] if path.parts[0] in WITH_SERVERS else str(path)
        item.add_marker(pytest.mark.xdist_group(group))
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: WITH_SERVERS[0] not in item.path.parts)
