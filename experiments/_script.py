"""What a training script declares: its algorithm, its named configs, its description."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from marlcore.config import AlgorithmConfig


@dataclass(frozen=True)
class Script:
    """One Sacred experiment, declared; it is built when a run starts (importing Sacred is slow)."""

    doc: str
    algorithm: AlgorithmConfig
    """Default configuration of the algorithm; the other sections have the schema's."""
    named: Mapping[str, Mapping[str, Any]]
    """Named configs: parts of the configuration that `with NAME` puts over the defaults."""

    @property
    def name(self) -> str:
        """The algorithm's name, which is the script's."""
        return self.algorithm.name

    @property
    def base(self) -> dict[str, Any]:
        """What the script sets before any named config."""
        changed = self.algorithm.model_dump(mode="json", exclude_defaults=True)
        return {"algorithm": {**changed, "name": self.name}}
