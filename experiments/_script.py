"""What a training script declares: its algorithm, its named configs, its description."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from marlcore import config_keys
from marlcore.config import AlgorithmConfig
from marlcore.config_errors import ConfigError, show


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


def find_script(text: str) -> Script:
    """The training script that a name or a path means.

    Raises:
        ConfigError: there is none.
    """
    folder, name = Path(__file__).parent, Path(text).name.removesuffix(".py")
    names = sorted(p.stem for p in folder.glob("[a-z]*.py") if "SCRIPT = " in p.read_text("utf-8"))
    if name not in names:
        near = config_keys.nearest(name, names)
        some = ", ".join(f"experiments/{other}.py" for other in names)
        meant = f"did you mean experiments/{near}.py?" if near else f"give one of {some}"
        raise ConfigError(f"{show(text)} is no training script; {meant}")
    script: Script = importlib.import_module(f"experiments.{name}").SCRIPT
    return script
