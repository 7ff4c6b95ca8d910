"""How far each task's arms go: quantiles of proprio, which scale what a pretrained policy reads.

    python -m marlcore.envs.quantiles        measures every task anew and rewrites the file

Measured under actions that are drawn uniformly and held for a while, so that the arms wander: over
both arms together, for a policy that is shared reads them with one scale.   P proprio
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from marlcore.config import PegInHoleConfig

_FILE = Path(__file__).with_name("quantiles.json")
_EPISODES, _STEPS, _HELD = 20, 200, 20


def proprio_quantiles(task: str, arrangement: str) -> NDArray[np.float64] | None:
    """Return the first and 99th percentile [2, P] of a task's proprio; None: not measured."""
    measured = json.loads(_FILE.read_text(encoding="utf-8"))["quantiles"]
    row = measured.get(f"{task}/{arrangement}")
    return None if row is None else np.array(row, np.float64)


def measure(config: PegInHoleConfig) -> NDArray[np.float64]:
    """Return the first and 99th percentile [2, P] over both arms of wandering episodes."""
    from marlcore.envs.peg_in_hole import PegInHoleEnv

    env = PegInHoleEnv(config, seed=0)
    rng = np.random.default_rng(0)
    sizes = env.spec.actions.num_dims
    actions = np.zeros((env.spec.num_agents, sizes), np.float32)
    rows: list[NDArray[np.float32]] = []
    for episode in range(_EPISODES):
        env.reset(episode)
        for step in range(_STEPS):
            if step % _HELD == 0:
                actions = rng.uniform(-1, 1, (env.spec.num_agents, sizes)).astype(np.float32)
            env.step(actions)
            rows.append(np.asarray(env.observe()["proprio"], np.float32))
    env.close()
    return np.quantile(np.concatenate(rows).astype(np.float64), (0.01, 0.99), axis=0)


def main() -> None:
    """Measure every task in both arrangements."""
    quantiles: dict[str, object] = {}
    for task in get_args(PegInHoleConfig.model_fields["task"].annotation):
        for arrangement in get_args(PegInHoleConfig.model_fields["arrangement"].annotation):
            reward = "sparse" if task == "TwoArmTransport" else "dense"
            config = PegInHoleConfig(
                task=task, arrangement=arrangement, reward=reward, observations="proprio"
            )
            row = measure(config).round(5).tolist()
            print(task, arrangement, row, flush=True)
            quantiles[f"{task}/{arrangement}"] = row
    how = f"{_EPISODES} episodes of {_STEPS} steps, uniform actions held {_HELD} steps, Panda arms"
    text = json.dumps({"how": how, "quantiles": quantiles}, indent=1)
    _FILE.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
