"""Recorders of other tools: TensorBoard, Weights & Biases, Sacred. Each implements Recorder.

TensorBoard and W&B are comforts: when one fails, a warning is printed once and training goes on.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from experiments import _rundir
from experiments.console import ConsoleRecorder
from marlcore.config import ExperimentConfig, LoggingConfig
from marlcore.recording import JsonLinesRecorder, Recorder, TeeRecorder, drop_after

_NAMES_OF_SACRED = ("run.json", "config.json", "cout.txt", "metrics.json")
"""An artifact of such a name would end Sacred's recording of files."""


class TensorBoardRecorder:
    """Writes scalars to TensorBoard files; on resuming, later points of the old run are purged."""

    def __init__(self, log_dir: Path, *, start_step: int = 0) -> None:
        from torch.utils.tensorboard import SummaryWriter

        purge_step = start_step + 1 if start_step else None
        self._writer: Any = SummaryWriter(str(log_dir), purge_step=purge_step)

    def record(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Write each metric as a scalar."""
        for key, value in metrics.items():
            self._writer.add_scalar(key, value, step)
        self._writer.flush()

    def add_artifact(self, path: Path) -> None:
        """Note where the file is; TensorBoard keeps no files."""
        self._writer.add_text("artifacts", str(path))

    def close(self) -> None:
        """Write what is pending."""
        self._writer.close()


class WandbRecorder:
    """Sends metrics and artifacts to Weights & Biases, or keeps them in the run for `wandb sync`.

    The x axis of every metric is `env_steps`, not W&B's own step, which cannot go back: a resumed
    run repeats the steps after its checkpoint.
    """

    def __init__(
        self, run_dir: Path, config: Mapping[str, Any], settings: LoggingConfig, *, resumes: bool
    ) -> None:
        import wandb

        self._run: Any = wandb.init(
            project=settings.wandb_project,
            entity=settings.wandb_entity,
            mode="online" if settings.wandb == "online" else "offline",
            id=run_dir.resolve().name,
            name=run_dir.resolve().name,
            dir=str(run_dir),
            config=dict(config),
            resume="allow" if resumes and settings.wandb == "online" else None,
            settings=wandb.Settings(console="off", save_code=False, disable_git=True, silent=True),
        )
        self._run.define_metric("env_steps")
        self._run.define_metric("*", step_metric="env_steps")

    def record(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Log the record with its env steps."""
        self._run.log({**metrics, "env_steps": step})

    def add_artifact(self, path: Path) -> None:
        """Keep the file with the run, as an artifact of its name."""
        self._run.log_artifact(str(path), name=f"{path.stem}-{self._run.id}", type="file")

    def close(self) -> None:
        """End the W&B run."""
        self._run.finish()


class SacredRecorder:
    """Hands metrics and artifacts to a Sacred run."""

    def __init__(self, sacred_run: Any) -> None:
        self._run = sacred_run

    def record(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Log each finite metric; JSON and Omniboard have no other numbers."""
        for key, value in metrics.items():
            if math.isfinite(value):
                self._run.log_scalar(key, float(value), step)

    def add_artifact(self, path: Path) -> None:
        """Keep the file with the run."""
        if not path.is_file():
            raise FileNotFoundError(f"artifact {path} does not exist")
        name = f"artifact_{path.name}" if path.name in _NAMES_OF_SACRED else path.name
        self._run.add_artifact(str(path), name=name)

    def close(self) -> None:
        """Do nothing: Sacred ends its run itself."""


class TolerantRecorder:
    """Wraps a recorder that may fail: the first failure is reported and ends its use."""

    def __init__(self, name: str, make: Callable[[], Recorder]) -> None:
        self._name = name
        self._recorder: Recorder | None = None
        self._attempt(lambda: setattr(self, "_recorder", make()))

    def record(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Record, unless an earlier call failed."""
        recorder = self._recorder
        if recorder is not None:
            self._attempt(lambda: recorder.record(metrics, step=step))

    def add_artifact(self, path: Path) -> None:
        """Hand the artifact on, unless an earlier call failed."""
        recorder = self._recorder
        if recorder is not None:
            self._attempt(lambda: recorder.add_artifact(path))

    def close(self) -> None:
        """Close, unless an earlier call failed."""
        recorder = self._recorder
        if recorder is not None:
            self._attempt(recorder.close)

    def _attempt(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # whatever a logging service raises is no reason to stop
            self._recorder = None
            print(
                f"warning: {self._name} failed and gets no more metrics "
                f"({type(error).__name__}: {error}); metrics.jsonl has them all",
                file=sys.stderr,
            )


def make_recorder(
    config: ExperimentConfig,
    *,
    run_dir: Path,
    sacred_run: Any | None,
    start_step: int = 0,
    start_update: int = 0,
) -> TeeRecorder:
    """All recorders that a configuration asks for; the run's own file first.

    `start_step` and `start_update` are those of the checkpoint that the run resumes from: records
    after it are dropped.
    """
    drop_after(run_dir / _rundir.METRICS, step=start_step)
    recorders: list[Recorder] = [
        JsonLinesRecorder(run_dir / _rundir.METRICS),
        ConsoleRecorder(
            config.logging.console,
            total_env_steps=config.training.total_timesteps,
            start_step=start_step,
            start_update=start_update,
        ),
    ]
    if sacred_run is not None:
        recorders.append(SacredRecorder(sacred_run))
    if config.logging.tensorboard:
        place = run_dir / "tensorboard"
        recorders.append(
            TolerantRecorder(
                "TensorBoard", lambda: TensorBoardRecorder(place, start_step=start_step)
            )
        )
    if config.logging.wandb != "off":
        values, settings = config.model_dump(mode="json"), config.logging
        recorders.append(
            TolerantRecorder(
                "W&B", lambda: WandbRecorder(run_dir, values, settings, resumes=start_step > 0)
            )
        )
    return TeeRecorder(recorders)
