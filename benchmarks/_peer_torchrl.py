"""Times torchrl's GAE functions on the chain of microsteps; run by advantages.py in their venv.

    python _peer_torchrl.py DATA.npz RESULTS.npz REPETITIONS GAMMA_PRIME LAMBDA_PRIME

Prints one JSON line: milliseconds of every call, per function.
"""

from __future__ import annotations

import json
import sys
import time
import warnings

import numpy as np
import torch

warnings.filterwarnings("ignore")

from torchrl.objectives.value.functional import (  # noqa: E402
    generalized_advantage_estimate,
    vec_generalized_advantage_estimate,
)


def chain(data: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Microsteps as one agent's trajectory: [E, T*N, 1] each."""
    values = data["values"]
    successors = torch.cat([values[..., 1:], data["next_values"].unsqueeze(-1)], dim=-1)

    def at_the_last_agent(x: torch.Tensor) -> torch.Tensor:
        microsteps = x.new_zeros(values.shape)
        microsteps[..., -1] = x
        return microsteps

    tensors = {
        "state_value": values,
        "next_state_value": successors,
        "reward": at_the_last_agent(data["rewards"]),
        "done": at_the_last_agent(data["episode_ended"]),
        "terminated": at_the_last_agent(data["terminated"]),
    }
    return {
        name: x.transpose(0, 1).flatten(1).unsqueeze(-1).contiguous() for name, x in tensors.items()
    }


def main() -> None:
    data_path, results_path, repetitions, gamma, decay = sys.argv[1:]
    torch.set_num_threads(1)
    with np.load(data_path) as arrays:
        data = {name: torch.from_numpy(arrays[name]) for name in arrays}
    T, E, N = data["values"].shape
    microsteps = chain(data)
    milliseconds: dict[str, list[float]] = {}
    results = {}
    for function in (generalized_advantage_estimate, vec_generalized_advantage_estimate):
        times = []
        for _ in range(int(repetitions) + 1):  # the first warms up
            start = time.perf_counter()
            advantages, _ = function(float(gamma), float(decay), **microsteps)
            times.append(1e3 * (time.perf_counter() - start))
        milliseconds[function.__name__] = times[1:]
        results[function.__name__] = advantages.reshape(E, T, N).transpose(0, 1).numpy()
    np.savez(results_path, **results)
    print(json.dumps(milliseconds))


if __name__ == "__main__":
    main()
