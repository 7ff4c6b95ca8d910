"""Env steps per second of whole training, collection and update, against other libraries.

    python benchmarks/training.py                      # both comparisons
    python benchmarks/training.py --only peg_in_hole   # or simple_spread
    python benchmarks/training.py --list               # what would run

peg_in_hole: two arms from state, dense reward, horizon 200, against Stable-Baselines3's PPO on
robosuite as it comes, once with its hard resets (robosuite's default), once with soft ones as ours.
simple_spread: three particles, 25 steps, against BenchMARL's MAPPO, once with its environments in
one process (BenchMARL's default), once with a process each. Rollout, epochs, minibatches and hidden
layers are the same on both sides, early ends of an update are off, torch has one thread.

Everything runs in turn, round after round, in processes of its own; the first update of each is
left out. An env step moves all agents of one environment once.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

if not __package__:  # run as a file: import from the repository, not from this directory
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks import _report
from experiments._named import QUICKSTART
from experiments._named_public import SIMPLE_SPREAD
from marlcore.config import PegInHoleConfig

TIMEOUT_S = 3600.0
HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Contestant:
    """One configuration of one library."""

    name: str
    python: Path
    script: str
    task: dict[str, Any]
    is_peer: bool

    def train(self, **changes: Any) -> dict[str, Any]:
        """Train in a new process, with changes of the task; what its script prints."""
        task = json.dumps({**self.task, **changes})
        return _report.run_json([self.python, HERE / self.script, task], timeout_s=TIMEOUT_S)

    def run(self, updates: int) -> dict[str, float]:
        """Train in a new process; env steps per second, seconds of an update and of collecting."""
        result = self.train(updates=updates)
        total, update = sum(result["seconds"]), sum(result["update_s"])
        return {
            "env_steps_per_s": sum(result["env_steps"]) / total,
            "collect_s": (total - update) / len(result["seconds"]),
            "update_s": update / len(result["seconds"]),
        }


def ours(name: str, named: str, algorithm: str, changes: dict[str, Any]) -> Contestant:
    """One of our configurations: a named one, with changes."""
    task = {"named": named, "algorithm": algorithm, "changes": changes}
    return Contestant(f"marlcore {name}", Path(sys.executable), "_ours.py", task, is_peer=False)


def rows_of(training: dict[str, Any]) -> int:
    """Env steps of a rollout."""
    return training["num_envs"] * training["num_steps_per_rollout"]


def peg_in_hole() -> list[Contestant]:
    """MAPPO and ACPPO on every backend, and Stable-Baselines3's PPO."""
    contestants = [
        ours(
            f"{algorithm} {backend}",
            "quickstart",
            algorithm,
            {
                "env": {"reward": "dense", **backend_key(backend)},
                "algorithm": {"target_kl": None},
                "training": {"stop_success_rate": None, "num_workers": 2},
            },
        )
        for backend in backends()
        for algorithm in ("mappo", "acppo")
    ]
    if python := _report.peer_python("sb3"):
        algorithm, training = QUICKSTART["algorithm"], QUICKSTART["training"]
        task = {
            "num_envs": training["num_envs"],
            "num_steps": training["num_steps_per_rollout"],
            "minibatch_size": rows_of(training) // algorithm["num_minibatches"],
            "num_epochs": algorithm["num_epochs"],
            "hidden_sizes": QUICKSTART["policy"]["hidden_sizes"],
            "horizon": QUICKSTART["env"]["max_episode_steps"],
            "num_threads": 1,
        }
        contestants += [
            Contestant(
                f"SB3 PPO, {kind} resets",
                python,
                "_peer_sb3.py",
                {**task, "hard_reset": kind == "hard"},
                is_peer=True,
            )
            for kind in ("hard", "soft")
        ]
    return contestants


def backends() -> tuple[str, ...]:
    """Values of env.backend; robosuite alone where there is no such key."""
    field = PegInHoleConfig.model_fields.get("backend")
    return ("robosuite",) if field is None else get_args(field.annotation)


def backend_key(backend: str) -> dict[str, str]:
    """The change of configuration that chooses a backend."""
    return {"backend": backend} if "backend" in PegInHoleConfig.model_fields else {}


def simple_spread() -> list[Contestant]:
    """MAPPO with environments in worker processes and in one, and BenchMARL's, likewise."""
    contestants = [
        ours(f"mappo, {num} workers", "simple_spread", "mappo", {"training": {"num_workers": num}})
        for num in (0, 2)
    ]
    if python := _report.peer_python("benchmarl"):
        task = as_simple_spread()
        contestants += [
            Contestant(
                f"BenchMARL MAPPO, {how}",
                python,
                "_peer_benchmarl.py",
                {**task, "parallel": how != "one process"},
                is_peer=True,
            )
            for how in ("one process", f"{task['num_envs']} processes")
        ]
    return contestants


def as_simple_spread() -> dict[str, Any]:
    """What BenchMARL must be told to train on the batches and with the networks of ours."""
    algorithm, training = SIMPLE_SPREAD["algorithm"], SIMPLE_SPREAD["training"]
    return {
        "num_envs": training["num_envs"],
        "frames": rows_of(training),
        "minibatch_size": rows_of(training) // algorithm["num_minibatches"],
        "num_epochs": algorithm["num_epochs"],
        "hidden_sizes": SIMPLE_SPREAD["policy"]["hidden_sizes"],
        "num_agents": SIMPLE_SPREAD["env"]["factory_kwargs"]["N"],
        "horizon": SIMPLE_SPREAD["env"]["max_episode_steps"],
        "num_threads": 1,
    }


COMPARISONS = {"peg_in_hole": peg_in_hole, "simple_spread": simple_spread}


def measure(
    contestants: list[Contestant], *, updates: int, rounds: int
) -> dict[str, list[dict[str, float]]]:
    """Run all in turn, round after round; a contestant that fails is named and left out."""
    results: dict[str, list[dict[str, float]]] = {}
    failed: set[str] = set()
    for number in range(1, rounds + 1):
        for contestant in contestants:
            if contestant.name in failed:
                continue
            _report.say(f"round {number} of {rounds}: {contestant.name}")
            try:
                result = contestant.run(updates)
            except RuntimeError as error:
                _report.say(f"FAILED, left out: {error}")
                failed.add(contestant.name)
                results.pop(contestant.name, None)
                continue
            _report.say(f"  {result['env_steps_per_s']:.0f} env steps/s")
            results.setdefault(contestant.name, []).append(result)
    return results


def report(
    title: str,
    contestants: list[Contestant],
    results: dict[str, list[dict[str, float]]],
    *,
    markdown: bool,
) -> None:
    """Print a table with the ratio to every peer, or rows of docs/BENCHMARKS.md."""
    speed = {
        name: statistics.median(run["env_steps_per_s"] for run in runs)
        for name, runs in results.items()
    }
    done = [contestant for contestant in contestants if contestant.name in speed]
    peers = [contestant.name for contestant in done if contestant.is_peer]
    own = [contestant.name for contestant in done if not contestant.is_peer]
    if markdown:
        what = f"training {title}, env steps/s"
        _report.print_markdown(
            [
                _report.Row(
                    what,
                    f"{speed[name]:.0f} ({name})",
                    f"{speed[peer]:.0f} ({peer})" if peer else "-",
                    f"{speed[name] / speed[peer]:.2f}" if peer else "-",
                )
                for name in own
                for peer in peers or [""]
            ]
        )
        return
    print(f"\n{title}")
    header = ("", "steps/s", "min", "max", "collect s", "update s", *(f"/ {p}" for p in peers))
    rows = [table_row(name, results[name], [speed[p] for p in peers]) for name in speed]
    _report.print_table(header, rows)


def table_row(name: str, runs: list[dict[str, float]], peers: list[float]) -> list[str]:
    """Medians over rounds, the range of the speed, ratios to the peers."""
    speeds = [run["env_steps_per_s"] for run in runs]
    median = statistics.median(speeds)
    parts = [statistics.median(run[key] for run in runs) for key in ("collect_s", "update_s")]
    return [
        name,
        *(f"{x:.0f}" for x in (median, min(speeds), max(speeds))),
        *(f"{x:.2f}" for x in parts),
        *(f"{median / peer:.2f}" for peer in peers),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=sorted(COMPARISONS), help="one comparison alone")
    parser.add_argument("--updates", type=int, default=2, help="updates measured in a process (2)")
    parser.add_argument("--rounds", type=int, default=2, help="rounds over all (2)")
    parser.add_argument("--match", default="", help="only those with this in their name")
    parser.add_argument("--list", action="store_true", help="print what would run, and end")
    parser.add_argument("--markdown", action="store_true", help="print rows of docs/BENCHMARKS.md")
    arguments = parser.parse_args()
    for title, make in COMPARISONS.items():
        if arguments.only not in (None, title):
            continue
        contestants = [one for one in make() if arguments.match in one.name]
        if arguments.list:
            print("\n".join(f"{title}: {one.name}" for one in contestants))
            continue
        results = measure(contestants, updates=arguments.updates, rounds=arguments.rounds)
        report(title, contestants, results, markdown=arguments.markdown)
    return 0


if __name__ == "__main__":
    sys.exit(main())
