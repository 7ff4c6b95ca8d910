"""`training.num_gpus`: start the same command once per GPU, as torchrun would.

Signals go to every process, which save and end; torchrun would kill them before a long update ends.
"""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from experiments.tracking.spool import note_death
from marlcore.config import ExperimentConfig
from marlcore.config_errors import ConfigError
from marlcore.rendezvous import place

LAUNCHER = "MARLLAUNCHER"
_PATIENCE_S = 30.0
"""How long the others may go on once one process has failed."""


def is_wanted(config: ExperimentConfig) -> bool:
    """Whether this process is to start others instead of training.

    Raises:
        ConfigError: if there are not as many GPUs, or another launcher started other numbers.
    """
    wanted = config.training.num_gpus
    if wanted is None:
        return False
    here = place()
    if here.launcher:
        if here.local_size != wanted:
            raise ConfigError(
                f"training.num_gpus={wanted}, but {here.launcher} started {here.local_size} "
                "processes on this machine; leave training.num_gpus out under torchrun or Slurm"
            )
        return False
    device = config.training.device
    if device != "cpu":
        _check_gpus(wanted, device)
    return wanted > 1


def launch(num_processes: int, command: Sequence[str], run_dir: Path) -> int:
    """Run a command in `num_processes` processes; return the exit code of the first to fail.

    Which process died first is said, and kept in the record of the run in `run_dir`.
    """
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    counts = dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(num_processes))
    processes: list[subprocess.Popen[bytes]] = []
    with _forwarded_to(processes):
        for rank in range(num_processes):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank), **counts, **address}
            own[LAUNCHER] = str(os.getpid())
            processes.append(subprocess.Popen(command, env={**os.environ, **own}))
        code, death = _wait(processes)
    if death is not None and run_dir.is_dir():
        note_death(run_dir, death)
    return code


def end_with_launcher() -> None:
    """Be told to save and end when the launcher is killed; nothing where there is none."""
    launcher = os.environ.pop(LAUNCHER, None)
    if launcher is not None:
        from marlcore.envs.worker import die_with

        die_with(int(launcher), by=signal.SIGTERM)


def _wait(processes: Sequence[subprocess.Popen[bytes]]) -> tuple[int, str | None]:
    """(Exit code, what became of the first process that died; None if none did)."""
    deadline: float | None = None
    failed, death, are_left = 0, None, True
    while are_left:
        are_left = bool([process for process in processes if process.poll() is None])
        codes = {i: p.returncode for i, p in enumerate(processes) if p.returncode}
        if codes and not failed:
            # A killed one first: the others fail when they miss it.
            rank, failed = min(codes.items(), key=lambda item: (item[1] > 0, item[0]))
            if failed < 0 or failed == 1:
                death = _describe_death(rank, len(processes), failed)
                print(death, file=sys.stderr)
            deadline = time.monotonic() + _PATIENCE_S
        if deadline is not None and time.monotonic() > deadline:
            for process in processes:
                process.kill()
        if are_left:
            time.sleep(0.1)
    return (128 - failed if failed < 0 else failed), death


def _describe_death(rank: int, num_processes: int, code: int) -> str:
    how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
    return f"process {rank} of {num_processes} on {platform.node()} {how}"


@contextlib.contextmanager
def _forwarded_to(processes: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    """SIGTERM goes to every process; a terminal sends its SIGINT to all of them by itself."""

    def forward(number: int, frame: FrameType | None) -> None:
        for process in processes:
            if process.poll() is None:
                process.send_signal(number)

    before = signal.signal(signal.SIGTERM, forward)
    before_int = signal.signal(signal.SIGINT, signal.SIG_IGN if sys.stdin.isatty() else forward)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGINT, before_int)


def _check_gpus(wanted: int, device: str) -> None:
    import torch

    here = torch.cuda.device_count()
    if ":" in device:
        raise ConfigError(
            f"training.device={device} is one GPU, training.num_gpus={wanted} asks for "
            f"{wanted}; leave training.device out"
        )
    if here < wanted:
        raise ConfigError(
            f"training.num_gpus={wanted}: this machine has {here} GPUs that torch can use; lower "
            "it, or set training.device=cpu for as many processes on the CPU"
        )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
