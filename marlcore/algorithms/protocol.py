"""What an algorithm is: what it asks of a policy, and what it makes of a rollout."""

from __future__ import annotations

from typing import Protocol

from marlcore.policies.build import PolicyNeeds
from marlcore.types import Rollout, Targets


class Algorithm(Protocol):
    """States only what differs; buffer, collector, update and checkpoint are shared."""

    @property
    def needs(self) -> PolicyNeeds:
        """Critics and beliefs it works with."""
        ...

    def targets(self, rollout: Rollout) -> Targets:
        """Return advantages [T, E, N] and value targets [T, E, C]."""
        ...

    def resolved(self) -> dict[str, float]:
        """Derived numbers worth recording, by metric-like name."""
        ...
