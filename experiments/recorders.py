"""What a training loop records to."""

from __future__ import annotations

from experiments.console import ConsoleRecorder
from experiments.tracking.spool import Spool
from marlcore.config import ExperimentConfig
from marlcore.recording import TeeRecorder


def make_recorder(
    config: ExperimentConfig,
    *,
    spool: Spool,
    start_step: int = 0,
    start_update: int = 0,
    saved_at: float | None = None,
) -> TeeRecorder:
    """What a training loop records to: the spool first, then the console.

    `start_step`, `start_update` and `saved_at` are those of the checkpoint that the run resumes
    from: records after it are taken back.
    """
    console = ConsoleRecorder(
        config.logging.console,
        total_env_steps=config.training.total_timesteps,
        start_step=start_step,
        start_update=start_update,
    )
    return TeeRecorder([spool.recorder(resumed_at=start_step, saved_at=saved_at), console])
