"""Evaluate a run or a checkpoint: return, success rate with its interval, a video.

    python experiments/evaluate.py RUN_OR_CHECKPOINT [OPTIONS]

RUN_OR_CHECKPOINT is a run's id, the start of one, its directory, or a checkpoint's directory.
"""

from __future__ import annotations

import argparse
import json
import sys
import traceback
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

if not __package__:  # run as a file: import from the repository, not from this directory
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from experiments import _rundir
from experiments._program import Parser
from marlcore.config_errors import ConfigError, show


def _integer(minimum: int, maximum: int) -> Any:
    def read(text: str) -> int:
        if not text.isdecimal() or len(text) > 12 or not minimum <= int(text) <= maximum:
            raise argparse.ArgumentTypeError(
                f"{show(text)} is refused; give an integer from {minimum} to {maximum}"
            )
        return int(text)

    return read


def _parser() -> argparse.ArgumentParser:
    parser = Parser("python experiments/evaluate.py", __doc__)
    parser.add_argument("run", metavar="RUN_OR_CHECKPOINT")
    parser.add_argument(
        "--episodes", type=_integer(1, 100_000), default=100, metavar="N", help="episodes (100)"
    )
    parser.add_argument(
        "--seed",
        type=_integer(0, 2**31 - 1),
        default=12345,
        metavar="N",
        help="seed of the episodes (12345; training uses others)",
    )
    parser.add_argument(
        "--stochastic", action="store_true", help="sample actions instead of taking the likeliest"
    )
    parser.add_argument(
        "--checkpoint",
        metavar="WHICH",
        help="best, latest or the env steps of one (best if there is one, else latest)",
    )
    video = parser.add_mutually_exclusive_group()
    video.add_argument("--video", type=Path, metavar="PATH", help="where the video goes (.mp4)")
    video.add_argument("--no-video", action="store_true", help="write no video")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON alone")
    return parser


def find_checkpoint(text: str, which: str | None) -> Path:
    """The checkpoint that is meant; best before latest if none is named."""
    if which is not None:
        if _rundir.is_checkpoint(Path(text)):
            raise ConfigError(f"{text} is a checkpoint already; leave --checkpoint {which} out")
        return _rundir.find_checkpoint(text, which)
    best = _rundir.find_run(text) / _rundir.BEST
    return _rundir.find_checkpoint(text, "best" if best.is_dir() else "latest")


def _video(arguments: argparse.Namespace, checkpoint: Path) -> Path | None:
    if arguments.no_video:
        return None
    if arguments.video is None:
        return _rundir.find_run(str(checkpoint)) / "videos" / f"evaluation_{checkpoint.name}.mp4"
    if arguments.video.suffix != ".mp4":
        raise ConfigError(f"--video {show(str(arguments.video))} is refused; end it in .mp4")
    if not arguments.video.parent.is_dir():
        raise ConfigError(f"--video: there is no directory {arguments.video.parent}")
    return arguments.video


def main(argv: Sequence[str]) -> int:
    """Evaluate what the command line names; returns the exit code."""
    try:
        arguments = _parser().parse_args(argv)
        checkpoint = find_checkpoint(arguments.run, arguments.checkpoint)
        video = _video(arguments, checkpoint)
        result = _evaluate(arguments, checkpoint, video)
    except ValueError as error:  # ConfigError among them
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except Exception:
        traceback.print_exc()
        return 1
    if arguments.json:
        print(json.dumps(result, default=str))
        return 0
    from experiments.console import print_table, result_rows

    how = "sampled" if arguments.stochastic else "deterministic"
    rows = [*result_rows(result), ("episodes", f"{arguments.episodes}, {how} actions")]
    print_table(f"Evaluation of {checkpoint}", [*rows, ("seed", str(arguments.seed))])
    return 0


def _evaluate(
    arguments: argparse.Namespace, checkpoint: Path, video: Path | None
) -> dict[str, Any]:
    from experiments import _evaluation

    if video is not None:
        video.parent.mkdir(exist_ok=True)
    with redirect_stdout(sys.stderr if arguments.json else sys.stdout):
        result: dict[str, Any] = _evaluation.evaluate_run(
            checkpoint,
            num_episodes=arguments.episodes,
            seed=arguments.seed,
            deterministic=not arguments.stochastic,
            video=video,
        )
    return {"checkpoint": str(checkpoint), **result}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
