"""Control steps, physics included, as one compiled call into MuJoCo's library.

MuJoCo's functions are linked by name, so the library is loaded here first; the simulation's model
and data are passed as addresses. An error inside MuJoCo that its warnings do not cover (its memory
for contacts exhausted) ends the process.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from marlcore.envs.osc import Arms, Array, State, compiled, write_goals, write_mass, write_torques

_mujoco: Any = importlib.import_module("mujoco")
_linker: Any = importlib.import_module("llvmlite.binding")
_types: Any = importlib.import_module("numba").types


def _load() -> None:
    folder = Path(_mujoco.__file__).parent
    names = ("libmujoco.so*", "libmujoco*.dylib", "mujoco.dll")
    (path,) = {path for name in names for path in folder.glob(name)}
    _linker.load_library_permanently(str(path))


def _function(name: str, *parameters: Any) -> Any:
    return _types.ExternalFunction(name, _types.void(*parameters))


_load()
_address, _int = _types.intp, _types.int32
_step1 = _function("mj_step1", _address, _address)
_step2 = _function("mj_step2", _address, _address)
_full_inertia = _function("mj_fullM", _address, _types.uintp, _types.uintp)
_jacobian = _function("mj_jacSite", _address, _address, _types.uintp, _types.uintp, _int)


@compiled
def control_step(
    model: int,
    data: int,
    num_substeps: int,
    motions: Array,
    quaternions: Array,
    first_mass: Array,
    state: State,
    arms: Arms,
) -> None:
    """Run the substeps of a control step in robosuite's order.

    Each is mj_step1, the goals (in the first), the torques, mj_step2.

    Args:
        model: address of the mjModel.
        data: address of the mjData, of which `state` are views.
        num_substeps: steps of the physics; 0: compile alone.
        motions: see write_goals, as quaternions.
        quaternions: of the goals.
        first_mass: [A, n, n], what the controllers take for the arms' inertia in the first substep;
            empty: the inertia.
        state: ctrl of what is no arm stands there already.
        arms: goals are written.
    """
    inertia, sparse = state.inertia.ctypes.data, state.sparse_inertia.ctypes.data
    for substep in range(num_substeps):
        _step1(model, data)
        if substep == 0:
            write_goals(motions, quaternions, state, arms)
        _full_inertia(model, inertia, sparse)
        if substep == 0 and first_mass.size:
            write_mass(first_mass, state, arms)
        for arm in range(arms.hands.size):
            jac_pos, jac_rot = state.jac_pos[arm].ctypes.data, state.jac_rot[arm].ctypes.data
            _jacobian(model, data, jac_pos, jac_rot, arms.hands[arm])
            if arms.bases_move[arm]:
                jac_pos = state.base_jac_pos[arm].ctypes.data
                jac_rot = state.base_jac_rot[arm].ctypes.data
                _jacobian(model, data, jac_pos, jac_rot, arms.bases[arm])
        write_torques(state, arms)
        _step2(model, data)
