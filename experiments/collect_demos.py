"""Collect demonstrations: a script puts the peg into the hole, and what it saw and did is kept.

    python experiments/collect_demos.py demos/state --episodes 100
    python experiments/collect_demos.py demos/pictures --episodes 50 with openvla_tiny

Behind `with` stands what experiments/mappo.py takes; only its environment counts. Episodes in which
the script fails are left out. The same command again collects what is missing. The format stands in
marlcore/envs/demonstrations.py.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

if not __package__:  # run as a file: import from the repository, not from this directory
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from experiments._experiment import resolve_command
from experiments._program import Parser, run_program
from experiments._script import find_script
from experiments.console import format_seconds
from marlcore.config import PegInHoleConfig
from marlcore.config_errors import ConfigError
from marlcore.envs import demonstrations
from marlcore.envs.decision import derive_seeds
from marlcore.envs.peg_in_hole import PegInHoleEnv

_MOST_FAILURES = 20
"""Failures in a row that end it: the script does not know this task."""
_SAY_EVERY_S = 5.0


def main(argv: Sequence[str] | None = None) -> int:
    """Collect; returns the exit code."""
    words = sys.argv[1:] if argv is None else argv
    return run_program(lambda: _collect(_parser().parse_intermixed_args(words)))


def _parser() -> argparse.ArgumentParser:
    parser = Parser("python experiments/collect_demos.py", __doc__)
    parser.add_argument("words", nargs="+", metavar="FOLDER with WORD")
    parser.add_argument(
        "--episodes", type=int, default=50, metavar="N", help="successful ones (50)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the episodes (0)")
    parser.add_argument("--noise", type=float, default=0.1, metavar="STD", help="on actions (0.1)")
    parser.add_argument(
        "--hold", type=int, default=20, metavar="N", help="env steps that success is held (20)"
    )
    return parser


def _collect(arguments: argparse.Namespace) -> int:
    folder, *rest = arguments.words
    if rest and (rest[0] != "with" or len(rest) == 1):
        raise ConfigError(f"{rest[0]}: write `with` and settings behind the folder")
    lows = {"episodes": 1, "hold": 1, "seed": 0, "noise": 0}
    for name, low in lows.items():
        value = getattr(arguments, name)
        if not low <= value < 2**31:
            raise ConfigError(f"--{name} {value} is refused; give a number from {low}")
    config = resolve_command(find_script("mappo"), rest).env
    if not isinstance(config, PegInHoleConfig) or config.task != "TwoArmPegInHole":
        raise ConfigError("the script knows TwoArmPegInHole alone; leave env.kind and env.task out")
    try:
        return _record(Path(folder), config, arguments)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _record(folder: Path, config: PegInHoleConfig, arguments: argparse.Namespace) -> int:
    seed, noise, wanted = arguments.seed, arguments.noise, arguments.episodes
    started, said_at, num_failed, num_made = time.monotonic(), 0.0, 0, 0
    with closing(PegInHoleEnv(config, seed=seed)) as env:
        meta = demonstrations.describe(config, env.spec, seed=seed, noise=noise)
        demonstrations.write_meta(folder, meta)
        for number in range(wanted):
            path = demonstrations.episode_path(folder, number)
            if path.exists():
                continue
            episode, failures = _successful(env, config, arguments, number)
            demonstrations.write_episode(path, episode)
            num_made, num_failed = num_made + 1, num_failed + failures
            if time.monotonic() > said_at + _SAY_EVERY_S or number + 1 == wanted:
                said_at = time.monotonic()
                spent = format_seconds(said_at - started)
                print(f"{number + 1} of {wanted} episodes, {spent}", flush=True)
    there = wanted - num_made
    also = f", {there} were there" if there else ""
    print(f"{folder}: {num_made} episodes{also}; {num_failed} failed and are left out")
    return 0


def _successful(
    env: PegInHoleEnv, config: PegInHoleConfig, arguments: argparse.Namespace, number: int
) -> tuple[demonstrations.Arrays, int]:
    """Episode `number`, and how many attempts at it failed; it depends on the seed alone."""
    for attempt in range(_MOST_FAILURES):
        (seed,) = derive_seeds(arguments.seed, number, attempt)
        episode = demonstrations.record_episode(
            env,
            seed=seed,
            noise=arguments.noise,
            num_steps=config.max_episode_steps,
            num_after=arguments.hold,
        )
        if episode["success"][-arguments.hold :].all():
            return episode, attempt
    raise ConfigError(
        f"the script failed {_MOST_FAILURES} times in a row; give it more env steps "
        "(env.max_episode_steps), less --noise, or another arrangement of the arms"
    )


if __name__ == "__main__":
    sys.exit(main())
