"""Train with MAPPO: one central critic on the global state, GAE on the team's reward.

    python experiments/mappo.py with quickstart seed=1
    python experiments/mappo.py --help

Paper: "The Surprising Effectiveness of PPO in Cooperative, Multi-Agent Games", arXiv 2103.01955.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # run as a file: import from the repository, not from this directory
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from experiments import _named
from experiments._experiment import Script, commandline
from marlcore.config import MAPPOConfig

SCRIPT = Script(
    doc=__doc__ or "",
    algorithm=MAPPOConfig(),
    named={
        **_named.COMMON,
        "two_arm": _named.merged(
            _named.TWO_ARM, {"algorithm": {"gamma": 0.99, "gae_lambda": 0.95}}
        ),
        "two_arm_vla_mappo": _named.merged(
            _named.TWO_ARM_VLA, {"algorithm": {"gamma": 0.99, "gae_lambda": 0.95}}
        ),
        "mappo_paper": _named.merged(_named.PAPER_UPDATE, {"algorithm": {"gae_lambda": 0.95}}),
    },
)
"""The Sacred experiment: its name is the algorithm's, its configuration the schema's."""

if __name__ == "__main__":
    sys.exit(commandline(SCRIPT, sys.argv[1:]))
