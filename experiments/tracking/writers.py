"""Records of other tools: TensorBoard, Weights & Biases."""

from __future__ import annotations

import netrc
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from experiments.tracking.redaction import WANDB_KEY, read_secret
from marlcore.config import LoggingConfig
from marlcore.recording import Record


class TensorBoardWriter:
    """Writes scalars to TensorBoard files, by TensorBoard's own writer (torch's needs torch)."""

    def __init__(self, log_dir: Path) -> None:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        log_dir.mkdir(parents=True, exist_ok=True)
        self._writer: Any = EventFileWriter(str(log_dir), flush_secs=5)

    def write(self, record: Record) -> None:
        """Write each metric as a scalar."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=key, simple_value=x) for key, x in record.metrics.items()]
        summary = Summary(value=values)
        event = Event(wall_time=record.time, step=record.step, summary=summary)
        self._writer.add_event(event)

    def add_artifact(self, path: Path) -> None:
        """Do nothing: TensorBoard keeps no files."""

    def close(self) -> None:
        """Write what is pending."""
        self._writer.close()


class WandbWriter:
    """Sends metrics and artifacts to Weights & Biases, or keeps them in the run's directory.

    The x axis of every metric is `env_steps`, not W&B's own step, which cannot go back: a resumed
    run repeats the steps after its checkpoint. What W&B would collect by itself (command, host,
    environment, output) is left out: the run's own record has it, without secrets.
    """

    def __init__(
        self, run_dir: Path, config: Mapping[str, Any], settings: LoggingConfig, *, online: bool
    ) -> None:
        import wandb

        self._run: Any = wandb.init(
            project=settings.wandb_project,
            entity=settings.wandb_entity,
            mode="online" if online else "offline",
            id=run_dir.resolve().name,
            name=run_dir.resolve().name,
            dir=str(run_dir),
            config=dict(config),
            resume="allow" if online else None,
            settings=wandb.Settings(
                console="off",
                save_code=False,
                disable_git=True,
                silent=True,
                x_disable_meta=True,
                api_key=read_secret(WANDB_KEY) if online else None,
            ),
        )
        self._run.define_metric("env_steps")
        self._run.define_metric("*", step_metric="env_steps")

    def write(self, record: Record) -> None:
        """Log the record with its env steps."""
        self._run.log({**record.metrics, "env_steps": record.step})

    def add_artifact(self, path: Path) -> None:
        """Keep the file with the run, as an artifact of its name."""
        self._run.log_artifact(str(path), name=f"{path.stem}-{self._run.id}", type="file")

    def close(self) -> None:
        """End the W&B run."""
        self._run.finish()


def has_wandb_key() -> bool:
    """Whether W&B can be asked: a key in the environment, its file, or what `wandb login` left."""
    if read_secret(WANDB_KEY):
        return True
    import wandb

    address = os.environ.get("WANDB_BASE_URL") or wandb.Settings().base_url
    try:
        return netrc.netrc().authenticators(urlsplit(address).hostname or "") is not None
    except (OSError, netrc.NetrcParseError):
        return False
