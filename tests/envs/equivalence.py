"""The compiled environment beside robosuite's own, step by step, and robosuite's beside itself.

python -m tests.envs.equivalence [--episodes 34] [--only NAME]

Three copies of an environment run the same episodes, half of them with random actions and half
scripted (both hands forward, which makes the arms touch and stretches them), each after a reset.
Before every env step the full state of robosuite's copy is given to the compiled one, and to
another one of robosuite's with every position moved by at most 1e-15; what both are off after the
step is compared. Steps are of three kinds:

    regular    nothing touches, and the hands' mobility J M^-1 J^T has a condition below 1e5
    singular   nothing touches, but an arm is (nearly) stretched out: rounding is amplified
    touching   bodies touch: MuJoCo's collision detection ends its search at a tolerance of 1e-6,
               so that 1e-15 may change a contact's depth by 1e-7 m and its normal by 4e-3

Deviations are the largest of positions (m, rad), velocities (m/s, rad/s), torques divided by 100,
and the reward. Observations, which hold float32 of robosuite's, are compared in regular steps.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import mujoco
import numpy as np

from marlcore.config import PegInHoleConfig
from marlcore.envs import osc
from marlcore.envs.peg_in_hole import PegInHoleEnv

CASES: dict[str, dict[str, Any]] = {
    "peg, Panda, opposed": {},
    "peg, Panda, parallel": {"arrangement": "parallel"},
    "peg, Sawyer, opposed": {"robots": ("Sawyer", "Sawyer")},
    "peg, UR5e, parallel": {"robots": ("UR5e", "UR5e"), "arrangement": "parallel"},
    "lift, Panda": {"task": "TwoArmLift"},
    "handover, Panda": {"task": "TwoArmHandover"},
}
KINDS = ("regular", "singular", "touching")
NUM_STEPS = 200
TOLERANCE = 1e-9
_PERTURBATION = 1e-15
_CONDITION = 1e5


class Copies:
    """robosuite's copy, the compiled one and robosuite's shaken one of a case."""

    def __init__(self, case: dict[str, Any]) -> None:
        self.stock, self.ours, self.shaken = (
            PegInHoleEnv(PegInHoleConfig(backend=backend, **{"reward": "dense", **case}), seed=3)
            for backend in ("robosuite", "compiled", "robosuite")
        )
        self._contacts = [_watch_contacts(env) for env in (self.stock, self.shaken)]
        self.deviations: dict[str, list[tuple[float, float]]] = defaultdict(list)
        """By kind of step, of the compiled copy and of the shaken one."""
        self.observations = 0.0
        """Largest deviation of an observation in a regular step."""
        self.num_unlike = 0
        """Regular steps with another success."""

    def run(self, seed: int, *, num_steps: int = NUM_STEPS) -> None:
        """Run an episode."""
        generator = np.random.default_rng(seed)
        for env in (self.stock, self.ours, self.shaken):
            env.reset(seed)
        num_dims = self.stock.spec.actions.num_dims
        for actions in actions_of(seed, num_dims)[:num_steps]:
            for env in (self.ours, self.shaken):
                mujoco.mj_copyData(env._data, env._model, self.stock._data)
            num_positions = self.stock._model.nq
            self.shaken._data.qpos[:] += _PERTURBATION * generator.uniform(-1, 1, num_positions)
            self._step(actions)

    def _step(self, actions: np.ndarray) -> None:
        for contacts in self._contacts:
            contacts.clear()
        stock, ours, shaken = (env.step(actions) for env in (self.stock, self.ours, self.shaken))
        off = _deviation(self.ours, self.stock) + abs(ours.reward - stock.reward)
        own = _deviation(self.shaken, self.stock) + abs(shaken.reward - stock.reward)
        kind = self._kind()
        self.deviations[kind].append((off, own))
        if kind == "regular":
            seen, expected = self.ours._vectors()["state"], self.stock._vectors()["state"]
            self.observations = max(self.observations, float(np.abs(seen - expected).max()))
            self.num_unlike += ours.success != stock.success

    def _kind(self) -> str:
        if any(max(contacts) > 0 for contacts in self._contacts):
            return "touching"
        return "singular" if condition(self.ours) > _CONDITION else "regular"

    def row(self) -> list[str]:
        """For the table."""
        cells: list[str] = []
        for kind in KINDS:
            found = np.array(self.deviations[kind]).reshape(-1, 2)
            cells.append(str(len(found)))
            for column in found.T:
                share = 100 * np.mean(column > TOLERANCE) if len(column) else 0.0
                cells.append(f"{column.max(initial=0.0):.0e} ({share:.1f} %)")
        return [*cells, f"{self.observations:.0e}", str(self.num_unlike)]

    def close(self) -> None:
        """Close them."""
        for env in (self.stock, self.ours, self.shaken):
            env.close()


def actions_of(seed: int, num_dims: int) -> np.ndarray:
    """Random actions of an even seed, scripted ones of an odd one: [T, 2, D]."""
    actions = np.random.default_rng(seed).uniform(-1, 1, (NUM_STEPS, 2, num_dims))
    if seed % 2:
        actions *= 0.2
        actions[:, :, 0] += 0.8
    return actions.astype(np.float32)


def condition(env: PegInHoleEnv) -> float:
    """The larger condition of the arms' mobilities in the last substep of a compiled copy."""
    control: Any = env._control
    state, arms = control._state, control._arms
    largest = 0.0
    for arm, n in enumerate(arms.num_joints):
        dofs = arms.joints[arm, 1, :n]
        mass = np.ascontiguousarray(state.inertia[np.ix_(dofs, dofs)])
        jac = np.concatenate([state.jac_pos[arm][:, dofs], state.jac_rot[arm][:, dofs]])
        largest = max(largest, float(np.linalg.cond(osc.mobility(mass, jac))))
    return largest


def _watch_contacts(env: PegInHoleEnv) -> list[int]:
    """Contacts in each substep from now on; of a copy that robosuite computes."""
    seen: list[int] = []

    def step2(model: Any, data: Any) -> None:
        seen.append(int(data.ncon))
        mujoco.mj_step2(model, data)

    env._mujoco = SimpleNamespace(mj_step1=mujoco.mj_step1, mj_step2=step2)
    return seen


def _deviation(env: PegInHoleEnv, stock: PegInHoleEnv) -> float:
    one, other = env._data, stock._data
    parts = [one.qpos - other.qpos, one.qvel - other.qvel, (one.ctrl - other.ctrl) / 100]
    return max(float(np.abs(part).max()) for part in parts)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Compiled control beside robosuite's.")
    parser.add_argument("--episodes", type=int, default=34, help="of each case, 200 steps each")
    parser.add_argument("--only", default="", help="cases whose name holds this")
    arguments = parser.parse_args()
    heads = [head for kind in KINDS for head in (f"{kind} steps", "ours", "robosuite's")]
    heads = ["case", *heads, "observations", "other success"]
    print("| " + " | ".join(heads) + " |\n" + "| --- " * len(heads) + "|", flush=True)
    for name, case in CASES.items():
        if arguments.only in name:
            copies = Copies(case)
            for seed in range(arguments.episodes):
                copies.run(seed)
            print("| " + " | ".join([name, *copies.row()]) + " |", flush=True)
            copies.close()


if __name__ == "__main__":
    main()
