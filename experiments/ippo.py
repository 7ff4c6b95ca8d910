"""Train with IPPO: independent PPO, each agent with a critic on its own observation.

    python experiments/ippo.py with quickstart seed=1
    python experiments/ippo.py --help

Paper: "Is Independent Learning All You Need in the StarCraft Multi-Agent Challenge?", 2011.09533.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # run as a file: import from the repository, not from this directory
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from experiments import _named
from experiments._experiment import Script, commandline
from marlcore.config import IPPOConfig

SCRIPT = Script(
    doc=__doc__ or "",
    algorithm=IPPOConfig(),
    named={
        **_named.COMMON,
        "two_arm": _named.merged(
            _named.TWO_ARM, {"algorithm": {"gamma": 0.99, "gae_lambda": 0.95}}
        ),
    },
)
"""The Sacred experiment: its name is the algorithm's, its configuration the schema's."""

if __name__ == "__main__":
    sys.exit(commandline(SCRIPT, sys.argv[1:]))
