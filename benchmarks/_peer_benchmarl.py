"""BenchMARL's MAPPO on simple_spread, in their environment; run by training.py and learning.py.

    python _peer_benchmarl.py '{"updates": 3, "num_envs": 16, "parallel": false, ...}'

Evaluation, logging and checkpoints are off, and each environment has a seed of its own. Prints one
JSON line: env steps and seconds of every update after the first, which warms up, and the mean
return of the episodes that ended in every batch (null where none did), averaged over agents.
"""

from __future__ import annotations

import itertools
import json
import sys
import tempfile
import time
import warnings
from typing import Any

warnings.filterwarnings("ignore")

import torch  # noqa: E402
from benchmarl.algorithms import MappoConfig  # noqa: E402
from benchmarl.environments import PettingZooTask  # noqa: E402
from benchmarl.experiment import Callback, Experiment, ExperimentConfig  # noqa: E402
from benchmarl.models.mlp import MlpConfig  # noqa: E402


class Clock(Callback):
    """Notes when every batch was collected and when it was trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.collected: list[float] = []
        self.trained: list[float] = []
        self.returns: list[float | None] = []

    def on_batch_collected(self, batch: Any) -> None:
        """Look at the clock, and at the episodes that ended."""
        self.collected.append(time.perf_counter())
        ended = batch["next", "done"].squeeze(-1)
        returns = batch["next", "agent", "episode_reward"].mean(-2).squeeze(-1)[ended]
        self.returns.append(returns.mean().item() if len(returns) else None)

    def on_train_end(self, training_td: Any, group: str) -> None:
        """Look at the clock."""
        self.trained.append(time.perf_counter())


def make_config(task: dict[str, Any], folder: str) -> ExperimentConfig:
    """Their defaults, but for what a comparison needs to be the same or off."""
    config = ExperimentConfig.get_from_yaml()
    config.prefer_continuous_actions = False
    config.parallel_collection = task["parallel"]
    config.on_policy_n_envs_per_worker = task["num_envs"]
    config.on_policy_collected_frames_per_batch = task["frames"]
    config.on_policy_n_minibatch_iters = task["num_epochs"]
    config.on_policy_minibatch_size = task["minibatch_size"]
    for name in ("lr", "gamma"):
        setattr(config, name, task.get(name, getattr(config, name)))
    config.max_n_iters = task["updates"] + 1
    config.max_n_frames = None
    config.evaluation = config.render = config.create_json = False
    config.loggers = []
    config.checkpoint_interval = 0
    config.save_folder = folder
    return config


def make_model(hidden_sizes: list[int]) -> MlpConfig:
    """An MLP of theirs, with tanh as by default."""
    model = MlpConfig.get_from_yaml()
    model.num_cells = hidden_sizes
    return model


def main() -> None:
    task = json.loads(sys.argv[1])
    torch.set_num_threads(task["num_threads"])
    clock = Clock()
    spread = PettingZooTask.SIMPLE_SPREAD.get_from_yaml()
    spread.config.update(N=task["num_agents"], max_cycles=task["horizon"])
    algorithm = MappoConfig.get_from_yaml()
    for name in ("lmbda", "entropy_coef"):
        setattr(algorithm, name, task.get(name, getattr(algorithm, name)))
    with tempfile.TemporaryDirectory() as folder:
        experiment = Experiment(
            task=spread,
            algorithm_config=algorithm,
            model_config=make_model(task["hidden_sizes"]),
            critic_model_config=make_model(task["hidden_sizes"]),
            seed=task.get("seed", 0),
            config=make_config(task, folder),
            callbacks=[clock],
        )
        # It seeds all its environments alike, so that they begin the same episodes: a seed each.
        experiment.collector.set_seed(experiment.seed)
        experiment.run()
    trained = clock.trained
    result = {
        "env_steps": [task["frames"]] * (len(trained) - 1),
        "seconds": [b - a for a, b in itertools.pairwise(trained)],
        "update_s": [b - a for a, b in zip(clock.collected, trained, strict=True)][1:],
        "returns": clock.returns,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
