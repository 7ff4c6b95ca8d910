"""Write a run's OpenVLA agents in OpenVLA-OFT's layout: adapter, action head, proprio projector.

    python experiments/export.py RUN_OR_CHECKPOINT FOLDER [--merge]

With --merge the backbone's weights are written too, the adapter added: FOLDER is then a checkpoint,
for policy.pretrained_checkpoint here and for other programs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # run as a file: import from the repository, not from this directory
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from experiments._program import Parser
from experiments.evaluate import find_checkpoint


def _parser() -> argparse.ArgumentParser:
    parser = Parser("python experiments/export.py", __doc__)
    parser.add_argument("run", metavar="RUN_OR_CHECKPOINT")
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="is made; must be empty")
    parser.add_argument("--merge", action="store_true", help="write the weights as well, merged")
    parser.add_argument(
        "--checkpoint",
        metavar="WHICH",
        help="best, latest or the env steps of one (best if there is one, else latest)",
    )
    return parser


def main(argv: Sequence[str]) -> int:
    """Export what the command line names; returns the exit code."""
    try:
        arguments = _parser().parse_args(argv)
        checkpoint = find_checkpoint(arguments.run, arguments.checkpoint)
        from experiments import _evaluation

        places = _evaluation.export_run(checkpoint, arguments.folder, merge=arguments.merge)
    except ValueError as error:  # ConfigError among them
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    for place in places:
        print(f"{place}: {', '.join(sorted(path.name for path in place.iterdir()))}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
