"""Demonstrations: scripted episodes of TwoArmPegInHole, and the folder that they lie in.

    FOLDER/meta.json            format, environment, shapes, instructions, seed, noise, versions
    FOLDER/episode_000000.npz   one episode of T env steps

An episode's arrays (numpy's zip of .npy files, nothing pickled), T in front of all:

    every array of an observation (envs/protocol.py), seen before the env step
    actions   float32 [T, N, D]   what the script wants, in [-1, 1]: the labels
    executed  float32 [T, N, D]   what ran: the same with noise, so that states around the script's
                                  own are seen, too
    rewards   float32 [T]         of the env step
    success   bool [T]            after the env step
"""

from __future__ import annotations

import io
import json
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from marlcore.config import PegInHoleConfig
from marlcore.durable import write_whole
from marlcore.envs.peg_in_hole import PegInHoleEnv
from marlcore.envs.protocol import EnvSpec
from marlcore.envs.scripted import ScriptedInsertion

FORMAT = 1
META = "meta.json"
_VERSIONS = ("mujoco", "robosuite", "numpy")
Arrays = dict[str, NDArray[Any]]


def record_episode(
    env: PegInHoleEnv, *, seed: int, noise: float, num_steps: int, num_after: int
) -> Arrays:
    """Have the script play an episode.

    Args:
        env: is reset.
        seed: of the episode and of the noise.
        noise: standard deviation of what is added to the actions that run.
        num_steps: env steps at most.
        num_after: env steps in a row with success that end the episode.
    """
    env.reset(seed)
    script, generator = ScriptedInsertion(env), np.random.default_rng(seed)
    rows: list[Arrays] = []
    num_held = 0
    while len(rows) < num_steps and num_held < num_after:
        seen, actions = env.observe(), script.actions()
        drawn = noise * generator.standard_normal(actions.shape)
        executed = np.clip(actions + drawn, -1, 1).astype(np.float32)
        result = env.step(executed)
        num_held = num_held + 1 if result.success else 0
        rows.append(
            {
                **seen,
                "actions": actions,
                "executed": executed,
                "rewards": np.array(result.reward, np.float32),
                "success": np.array(result.success, np.bool_),
            }
        )
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def describe(
    config: PegInHoleConfig, spec: EnvSpec, *, seed: int, noise: float
) -> dict[str, object]:
    """What meta.json holds."""
    return {
        "format": FORMAT,
        "env": config.model_dump(mode="json"),
        "observation_shapes": {k: list(shape) for k, shape in spec.observation_shapes.items()},
        "observation_dtypes": spec.observation_dtypes,
        "action_sizes": list(spec.actions.sizes),
        "instructions": list(spec.instructions),
        "seed": seed,
        "noise": noise,
        "versions": {name: metadata.version(name) for name in _VERSIONS},
    }


def write_meta(folder: Path, meta: dict[str, object]) -> None:
    """Write meta.json, or check that the folder has the same.

    Raises:
        ValueError: the folder holds other demonstrations, or something else.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / META).exists():
        if any(folder.iterdir()):
            raise ValueError(f"{folder} is not empty and holds no demonstrations; name another")
        write_whole(folder / META, json.dumps(meta, indent=1) + "\n")
        return
    there = read_meta(folder)
    unlike = sorted(key for key in meta if meta[key] != there.get(key))
    if unlike:
        raise ValueError(
            f"{folder} holds other demonstrations (unlike: {', '.join(unlike)}); name another "
            "folder, or ask for the same ones"
        )


def read_meta(folder: Path) -> dict[str, Any]:
    """Read meta.json.

    Raises:
        ValueError: there is none, or of another format.
    """
    try:
        meta: Any = json.loads((folder / META).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{folder} holds no demonstrations ({error}); make some by "
            f"experiments/collect_demos.py {folder}"
        ) from None
    if not isinstance(meta, dict) or cast(dict[str, Any], meta).get("format") != FORMAT:
        raise ValueError(f"{folder / META} is not of format {FORMAT}; collect them anew")
    return cast(dict[str, Any], meta)


def episode_path(folder: Path, number: int) -> Path:
    """The file of an episode."""
    return folder / f"episode_{number:06}.npz"


def episodes_of(folder: Path) -> list[Path]:
    """The files of all episodes, in order."""
    return sorted(folder.glob("episode_*.npz"))


def write_episode(path: Path, arrays: Arrays) -> None:
    """Write an episode; a reader finds all of it or nothing."""
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    write_whole(path, file.getvalue())


def read_episode(path: Path) -> Arrays:
    """Read an episode.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path} cannot be read ({error}); remove it and collect it again"
        ) from None
