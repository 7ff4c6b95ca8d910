"""Fit actors to demonstrations (L1 loss; OpenVLA's by LoRA), as a start for PPO.

    python experiments/finetune.py demos/pictures with openvla_tiny --id cloned
    python experiments/acppo.py with openvla_tiny start_from=cloned

The run is one of experiments/acppo.py, or of --script, with training.demonstrations set: its actors
have that algorithm's shape, and it is recorded, resumed and evaluated like any other.
total_timesteps counts env steps of demonstrations; experiments/collect_demos.py collects them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # run as a file: import from the repository, not from this directory
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from experiments._experiment import commandline
from experiments._program import Parser, run_program
from experiments._script import find_script
from marlcore.config_errors import ConfigError

_PASSED = {"--id": "ID", "--name": "NAME", "--comment": "TEXT"}


def main(argv: Sequence[str] | None = None) -> int:
    """Fit; returns the exit code."""
    words = sys.argv[1:] if argv is None else argv
    return run_program(lambda: _finetune(words))


def _parser() -> Parser:
    parser = Parser("python experiments/finetune.py", __doc__)
    parser.add_argument("words", nargs="+", metavar="FOLDER with WORD", help="as of the script")
    parser.add_argument("--script", default="acppo", help="whose actors: acppo, mappo or ippo")
    for option, value in _PASSED.items():
        parser.add_argument(option, metavar=value, help="as of the script")
    return parser


def _finetune(words: Sequence[str]) -> int:
    arguments = _parser().parse_intermixed_args(words)
    folder, *rest = arguments.words
    if rest and (rest[0] != "with" or len(rest) == 1):
        raise ConfigError(f"{rest[0]}: write `with` and settings behind the folder")
    options = [
        f"{option}={value}" for option in _PASSED if (value := getattr(arguments, option[2:]))
    ]
    settings = [*(rest or ["with"]), f"training.demonstrations={folder}"]
    return commandline(find_script(arguments.script), [*options, *settings])


if __name__ == "__main__":
    sys.exit(main())
