"""Train with ACPPO (agent-chained PPO): beliefs, a critic per agent, GAE over microsteps.

    python experiments/acppo.py with quickstart gamma_prime=0.97
    python experiments/acppo.py --help

Paper: "Agent-chained policy optimisation", arXiv 2606.30072.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # run as a file: import from the repository, not from this directory
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from experiments import _named
from experiments._experiment import Script, commandline
from marlcore.config import ACPPOConfig

# A decision is then discounted as MAPPO's gamma and gae_lambda of 0.95 do it.
_LIKE_MAPPO = {"algorithm": {"gamma_prime": None, "lambda_prime": 0.975}}
_FROM_MAPPO = (
    "quickstart",
    "two_arm_state",
    "two_arm_state_chunks",
    "two_arm_demonstrations",
    "two_arm_pictures",
)

SCRIPT = Script(
    doc=__doc__ or "",
    algorithm=ACPPOConfig(),
    named={
        **_named.COMMON,
        **{name: _named.merged(_named.COMMON[name], _LIKE_MAPPO) for name in _FROM_MAPPO},
        "two_arm": _named.merged(
            _named.TWO_ARM, {"algorithm": {"gamma_prime": 0.99, "lambda_prime": 0.95}}
        ),
        "two_arm_vla_acppo": _named.merged(
            _named.TWO_ARM_VLA, {"algorithm": {"gamma_prime": 0.99, "lambda_prime": 0.95}}
        ),
        "acppo_paper": _named.merged(
            _named.PAPER_UPDATE, {"algorithm": {"gamma_prime": None, "lambda_prime": 0.95}}
        ),
    },
)
"""The Sacred experiment: its name is the algorithm's, its configuration the schema's."""

if __name__ == "__main__":
    sys.exit(commandline(SCRIPT, sys.argv[1:]))
