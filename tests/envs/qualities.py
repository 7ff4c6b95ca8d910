"""The qualities of the agents' pictures side by side, and how far they are from robosuite's.

python -m tests.envs.qualities PICTURE [--states 10]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from marlcore.config import PegInHoleConfig
from marlcore.envs.peg_in_hole import PegInHoleEnv

CAMERAS = ("frontview", "robot0_eye_in_hand", "robot1_eye_in_hand")
QUALITIES = ("full", "fast", "lite")
SIZE = 224


def pictures_of(quality: str, num_states: int) -> np.ndarray:
    """Three cameras in states of random episodes: [S, 3, height, width, 3]."""
    config = PegInHoleConfig(cameras=CAMERAS, image_size=SIZE, render_quality=quality)  # type: ignore[arg-type]
    env = PegInHoleEnv(config, seed=0)
    states: list[np.ndarray] = []
    for seed in range(num_states):
        generator = np.random.default_rng(seed)
        env.reset(seed)
        for _ in range(5 * seed):
            env.step(generator.uniform(-1, 1, (2, 6)).astype(np.float32))
        images = env.observe()["images"]
        states.append(np.stack([images[0, 0], images[0, 1], images[1, 1]]))
    env.close()
    return np.stack(states)


def main() -> None:
    """Print a row for each quality; write the picture of the fourth state."""
    parser = argparse.ArgumentParser(description="Qualities of pictures side by side.")
    parser.add_argument("picture", type=Path)
    parser.add_argument("--states", type=int, default=10)
    arguments = parser.parse_args()
    found = {quality: pictures_of(quality, arguments.states) for quality in QUALITIES}
    canvas = Image.new("RGB", (3 * SIZE, 3 * SIZE))
    draw = ImageDraw.Draw(canvas)
    for row, (quality, states) in enumerate(found.items()):
        off = np.abs(states.astype(int) - found["full"])
        for column, camera in enumerate(CAMERAS):
            canvas.paste(Image.fromarray(states[3, column]), (column * SIZE, row * SIZE))
            mean, share = off[:, column].mean(), (off[:, column].max(axis=-1) > 8).mean()
            print(f"{quality} {camera}: mean difference {mean:.2f}, beyond 8: {100 * share:.1f} %")
        draw.text((4, row * SIZE + 2), quality, fill="black")
    canvas.save(arguments.picture)


if __name__ == "__main__":
    main()
