"""An environment that prints a lot."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from tests.envs.zoo import Zoo


class Talkative(Zoo):
    def step(self, actions: dict[str, Any]) -> Any:
        print("chatter " * 2500)
        return super().step(actions)


def talkative() -> Talkative:
    agents = ("first", "second")
    space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    return Talkative(dict.fromkeys(agents, space), dict.fromkeys(agents, space))
