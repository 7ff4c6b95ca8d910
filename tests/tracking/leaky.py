"""An environment that says all it knows, and fails with it."""

from __future__ import annotations

import os
import sys
from typing import Any

import numpy as np
from gymnasium import spaces

from tests.envs.zoo import Zoo


class Leaky(Zoo):
    total = 0

    def step(self, actions: dict[str, Any]) -> Any:
        secrets = [value for value in os.environ.values() if "canary" in value.lower()]
        Leaky.total += 1
        if Leaky.total == 1:
            for secret in secrets:
                print("whole", secret)
                for character in secret:
                    sys.stdout.write(character)
                print(secret[: len(secret) // 2], file=sys.stderr, end="")
                print(secret[len(secret) // 2 :], file=sys.stderr)
        if Leaky.total > 3000:
            raise RuntimeError(f"cannot log in with {secrets}")
        return super().step(actions)


def leaky() -> Leaky:
    agents = ("first", "second")
    space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    return Leaky(dict.fromkeys(agents, space), dict.fromkeys(agents, space))
