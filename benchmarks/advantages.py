"""Milliseconds of `microstep_gae` against a compiled loop, a torch loop and torchrl's functions.

    python benchmarks/advantages.py

T=2048 decisions, E=64 environments, N=2 agents, float32, one thread; the same data for all, and all
must agree with the compiled loop. To torchrl, which knows no agents, the chain of microsteps is one
agent's trajectory of T*N steps, laid out beforehand, as it likes best: [E, M, 1].
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if not __package__:  # run as a file: import from the repository, not from this directory
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numba
import numpy as np
import torch
from torch import Tensor

from benchmarks import _report
from marlcore.advantages import microstep_gae

T, E, N = 2048, 64, 2
GAMMA_PRIME, LAMBDA_PRIME = 0.99, 0.95
END_RATE = 0.005
TOLERANCE = 1e-4
OURS, NUMBA = "microstep_gae", "numba loop over T*N"


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one function over many calls, and its result [T, E, N]."""

    name: str
    milliseconds: list[float]
    result: np.ndarray[Any, Any]


def make_credit() -> dict[str, Tensor]:
    """Arguments of `microstep_gae`: normal numbers, ends here and there, half of them terminal."""
    generator = torch.Generator().manual_seed(0)
    ended = torch.rand(T, E, generator=generator) < END_RATE
    return {
        "rewards": torch.randn(T, E, generator=generator),
        "values": torch.randn(T, E, N, generator=generator),
        "next_values": torch.randn(T, E, generator=generator),
        "terminated": ended & (torch.rand(T, E, generator=generator) < 0.5),
        "episode_ended": ended,
    }


@numba.njit(cache=True)
def numba_loop(rewards, values, next_values, terminated, ended, gamma, decay):
    """The recursion as it is written, a number at a time, in the order of memory."""
    T, E, N = values.shape
    advantages = np.empty_like(values)
    carry = np.zeros(E, dtype=values.dtype)
    for t in range(T - 1, -1, -1):
        for e in range(E):
            advantage = np.float32(0.0) if ended[t, e] else carry[e]
            successor = np.float32(0.0) if terminated[t, e] else next_values[t, e]
            target = rewards[t, e] + gamma * successor
            for i in range(N - 1, -1, -1):
                advantage = target - values[t, e, i] + decay * advantage
                advantages[t, e, i] = advantage
                target = gamma * values[t, e, i]
            carry[e] = advantage
    return advantages


def torch_loop(
    *,
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    terminated: Tensor,
    episode_ended: Tensor,
    gamma_prime: float,
    lambda_prime: float,
) -> Tensor:
    """The recursion a decision at a time, all environments at once; agents are done beforehand."""
    decay, (_, E, N) = gamma_prime * lambda_prime, values.shape
    target = rewards + gamma_prime * (next_values * ~terminated)
    own = [torch.empty(0)] * N
    for i in reversed(range(N)):
        zeta = target - values[..., i]
        own[i] = zeta if i == N - 1 else zeta + decay * own[i + 1]
        target = gamma_prime * values[..., i]
    goes_on = (~episode_ended).to(values.dtype)
    first = [torch.zeros(E)]
    steps = zip(own[0].unbind()[::-1], (decay**N * goes_on).unbind()[::-1], strict=True)
    for zeta, weight in steps:
        first.append(torch.addcmul(zeta, weight, first[-1]))
    following = torch.stack(first[-2::-1]) * goes_on
    return torch.stack([own[i] + decay ** (N - i) * following for i in range(N)], dim=-1)


def measure(name: str, function: Callable[[], Any], repetitions: int) -> Timing:
    """Call once to warm up, then `repetitions` times by the clock."""
    result = np.array(function())
    milliseconds = []
    for _ in range(repetitions):
        start = time.perf_counter()
        function()
        milliseconds.append(1e3 * (time.perf_counter() - start))
    return Timing(name, milliseconds, result)


def measure_here(credit: dict[str, Tensor], repetitions: int) -> list[Timing]:
    """Ours and the two loops."""
    coefficients = {"gamma_prime": GAMMA_PRIME, "lambda_prime": LAMBDA_PRIME}
    arrays = [tensor.numpy() for tensor in credit.values()]
    gamma, decay = np.float32(GAMMA_PRIME), np.float32(GAMMA_PRIME * LAMBDA_PRIME)
    return [
        measure(OURS, lambda: microstep_gae(**credit, **coefficients), repetitions),
        measure(NUMBA, lambda: numba_loop(*arrays, gamma, decay), repetitions),
        measure("torch loop over T", lambda: torch_loop(**credit, **coefficients), repetitions),
    ]


def measure_torchrl(credit: dict[str, Tensor], repetitions: int) -> list[Timing]:
    """Measure torchrl's functions, in the peers' environment; nothing if that is not there."""
    python = _report.peer_python("benchmarl")
    if python is None:
        return []
    with tempfile.TemporaryDirectory() as folder:
        data, results = Path(folder) / "data.npz", Path(folder) / "results.npz"
        np.savez(data, **{name: tensor.numpy() for name, tensor in credit.items()})
        script = Path(__file__).with_name("_peer_torchrl.py")
        numbers = (repetitions, GAMMA_PRIME, LAMBDA_PRIME)
        command = [python, script, data, results, *(str(number) for number in numbers)]
        times = _report.run_json(command, timeout_s=900)
        with np.load(results) as arrays:
            return [Timing(f"torchrl {name}", ms, arrays[name]) for name, ms in times.items()]


def joined(timings: list[Timing]) -> list[Timing]:
    """Rounds of the same function together."""
    names = dict.fromkeys(timing.name for timing in timings)
    groups = [[timing for timing in timings if timing.name == name] for name in names]
    return [
        Timing(group[0].name, [ms for one in group for ms in one.milliseconds], group[0].result)
        for group in groups
    ]


def check(timings: list[Timing]) -> None:
    """Refuse to compare functions that compute different things."""
    expected = next(timing.result for timing in timings if timing.name == NUMBA)
    for timing in timings:
        error = float(np.abs(timing.result - expected).max())
        if not error < TOLERANCE:
            raise RuntimeError(f"{timing.name} differs from the numba loop by {error:g}")


def report(timings: list[Timing], *, markdown: bool) -> None:
    """Print the table, or the rows of docs/BENCHMARKS.md."""
    best = {timing.name: min(timing.milliseconds) for timing in timings}
    median = {timing.name: float(np.median(timing.milliseconds)) for timing in timings}
    if markdown:
        shown = {name: f"{best[name]:.2f} / {median[name]:.2f} ms ({name})" for name in best}
        what = "advantages, best / median"
        _report.print_markdown(
            [
                _report.Row(what, shown[OURS], shown[name], f"{best[name] / best[OURS]:.2f}")
                for name in best
                if name != OURS
            ]
        )
        return
    print(f"T={T} E={E} N={N} float32, one thread; all agree to {TOLERANCE:g}")
    _report.print_table(
        ("function", "best ms", "median ms", "best / ours", "median / ours"),
        [
            (
                name,
                f"{best[name]:.3f}",
                f"{median[name]:.3f}",
                f"{best[name] / best[OURS]:.2f}",
                f"{median[name] / median[OURS]:.2f}",
            )
            for name in best
        ],
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=100, help="calls of each a round (100)")
    parser.add_argument("--rounds", type=int, default=2, help="rounds over all functions (2)")
    parser.add_argument("--markdown", action="store_true", help="print rows of docs/BENCHMARKS.md")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    credit = make_credit()
    timings: list[Timing] = []
    for number in range(1, arguments.rounds + 1):
        _report.say(f"round {number} of {arguments.rounds}: ours, numba, torch")
        timings += measure_here(credit, arguments.repetitions)
        _report.say(f"round {number} of {arguments.rounds}: torchrl")
        timings += measure_torchrl(credit, max(1, arguments.repetitions // 5))
    check(timings)
    report(joined(timings), markdown=arguments.markdown)
    return 0


if __name__ == "__main__":
    sys.exit(main())
