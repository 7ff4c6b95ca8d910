"""Progress for people: a live display on a terminal, plain lines otherwise; and the final table."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from experiments import _output

_LINE_EVERY_S = 5.0

_SHOWN = (
    ("return", "rollout/return_mean", "{:.2f}"),
    ("success", "rollout/success_rate", "{:.0%}"),
    ("length", "rollout/episode_length_mean", "{:.0f}"),
    ("policy loss", "update/policy_loss", "{:.4f}"),
    ("value loss", "update/value_loss", "{:.4g}"),
    ("entropy", "update/entropy", "{:.3f}"),
    ("kl", "update/approx_kl", "{:.4f}"),
    ("clipped", "update/clip_fraction", "{:.0%}"),
    ("explained", "update/explained_variance", "{:.2f}"),
    ("steps/s", "time/env_steps_per_s", "{:,.0f}"),
)
"""(label, metric, format) of what an update shows; what was not measured is left out."""

_SHOWN_EVALUATION = (
    ("return", "eval/return_mean", "{:.2f}"),
    ("success", "eval/success_rate", "{:.0%}"),
)


class ConsoleRecorder:
    """Shows records as they come. A Recorder.

    Args:
        mode: "auto" is rich on a terminal and plain otherwise.
        total_env_steps: where the run ends.
        start_step: env steps at the start: those of the checkpoint that the run resumes from.
        start_update: updates done before.
    """

    def __init__(
        self,
        mode: Literal["auto", "rich", "plain", "off"],
        *,
        total_env_steps: int,
        start_step: int = 0,
        start_update: int = 0,
    ) -> None:
        self._total = total_env_steps
        self._start_step = start_step
        self._step = start_step
        self._update = start_update
        self._started = time.monotonic()
        self._last_line_at = -math.inf
        self._held: str | None = None
        self._mode = mode
        if mode == "auto":
            self._mode = "rich" if _output.terminal().isatty() else "plain"
        self._live: Any = None

    def record(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Show an update, an evaluation, or both."""
        if self._mode == "off":
            return
        is_update = any(key.startswith(("update/", "rollout/")) for key in metrics)
        self._step = step
        self._update += is_update
        if is_update:
            self._show(self._progress() + "  " + describe(metrics, _SHOWN), metrics)
        evaluation = describe(metrics, _SHOWN_EVALUATION)
        if evaluation:
            self._release()
            self._print(f"evaluation at {step:,} env steps  {evaluation}")

    def add_artifact(self, path: Path) -> None:
        """Do nothing: the final table names what there is."""

    def close(self) -> None:
        """Show the last record if it was held back, and end the live display."""
        if self._live is not None:
            self._live.stop()
            self._live = None
        self._release()

    def _release(self) -> None:
        """Show the line that was held back; the live display showed it already."""
        if self._held is not None:
            (_output.log_line if self._mode == "rich" else _print_now)(self._held)
            self._held = None

    def _show(self, line: str, metrics: Mapping[str, float]) -> None:
        """Update the display; a line at most every few seconds, the first and last always."""
        if self._mode == "rich":
            self._draw(metrics)
        now = time.monotonic()
        self._held = line
        if now - self._last_line_at >= _LINE_EVERY_S:
            self._last_line_at = now
            self._release()

    def _print(self, line: str) -> None:
        if self._mode == "rich" and self._live is not None:
            self._live.console.print(line, markup=False, highlight=False)
            _output.log_line(line)
        else:
            _print_now(line)

    def _progress(self) -> str:
        share = min(1.0, self._step / self._total)
        return (
            f"update {self._update}  {self._step:,}/{self._total:,} env steps ({share:.0%})  "
            f"left {format_seconds(self._seconds_left())}"
        )

    def _seconds_left(self) -> float | None:
        done = self._step - self._start_step
        if done <= 0:
            return None
        elapsed = time.monotonic() - self._started
        return max(0, self._total - self._step) * elapsed / done

    def _draw(self, metrics: Mapping[str, float]) -> None:
        from rich.console import Console, Group
        from rich.live import Live
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        if self._live is None:
            console = Console(file=_output.terminal())
            self._live = Live(
                console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
            )
            self._live.start()
        table = Table.grid(padding=(0, 2))
        for label, text in _cells(metrics, _SHOWN):
            table.add_row(Text(label, style="dim"), Text(text))
        bar = ProgressBar(total=self._total, completed=min(self._step, self._total), width=60)
        line = Table.grid()  # the bar itself ends without a new line
        line.add_row(bar)
        self._live.update(Group(Text(self._progress()), line, table), refresh=True)


def _print_now(line: str) -> None:
    print(line, flush=True)


def describe(metrics: Mapping[str, float], shown: tuple[tuple[str, str, str], ...]) -> str:
    """One line of those metrics that there are."""
    return "  ".join(f"{label} {text}" for label, text in _cells(metrics, shown))


def _cells(
    metrics: Mapping[str, float], shown: tuple[tuple[str, str, str], ...]
) -> list[tuple[str, str]]:
    return [
        (label, form.format(metrics[key]) if math.isfinite(metrics[key]) else str(metrics[key]))
        for label, key, form in shown
        if key in metrics
    ]


def format_seconds(seconds: float | None) -> str:
    """A duration as h:mm:ss; `?` while unknown."""
    if seconds is None or not math.isfinite(seconds):
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def format_rate(successes: int, episodes: int) -> str:
    """A success rate with its 95 % Wilson interval."""
    from marlcore.statistics import wilson_interval

    low, high = wilson_interval(successes, episodes)
    rate = successes / episodes
    return f"{rate:.1%} [{low:.1%}, {high:.1%}] ({successes} of {episodes} episodes)"


def result_rows(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What an evaluation measured, as (label, text); quantities that were not measured are absent.

    Args:
        result: of `_run.run` or `_evaluation.evaluate_run`: return_mean, return_std, num_episodes,
            num_successes, num_held, length_mean, env_steps, checkpoint, video; any may be missing
            or None.
    """
    rows: list[tuple[str, str]] = []
    if result.get("env_steps") is not None:
        rows.append(("env steps", f"{result['env_steps']:,}"))
    if result.get("return_mean") is not None:
        spread = result.get("return_std")
        text = f"{result['return_mean']:.3f}" + (f" (std {spread:.3f})" if spread else "")
        rows.append(("return, mean of episodes", text))
    for label, key in (("success rate", "num_successes"), ("held at the end", "num_held")):
        if result.get(key) is not None and result.get("num_episodes"):
            rows.append((label, format_rate(result[key], result["num_episodes"])))
    if result.get("length_mean") is not None:
        rows.append(("episode length", f"{result['length_mean']:.1f} env steps"))
    for label, key in (("checkpoint", "checkpoint"), ("video", "video")):
        if result.get(key):
            rows.append((label, str(result[key])))
    return rows


def print_table(title: str, rows: list[tuple[str, str]]) -> None:
    """Print two columns; on anything but a terminal without wrapping, so that paths stay whole."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, box=box.SIMPLE, show_header=False)
    for label, text in rows:
        table.add_row(Text(label, style="bold"), Text(text, overflow="fold"))
    stream = _output.terminal()
    if stream.isatty():
        Console(file=stream).print(table)
    else:
        print(f"\n{title}")
    for label, text in rows:
        (_output.log_line if stream.isatty() else print)(f"  {label:<26}{text}")


def print_summary(result: Mapping[str, Any], *, run_dir: Path, resume: str) -> None:
    """Print what a run led to and what can be done with it."""
    rows = [
        *result_rows(result),
        ("run", str(run_dir)),
        ("evaluate", f"python experiments/evaluate.py {run_dir.name}"),
        ("go on", f"{resume} total_timesteps=N"),
    ]
    print_table("Result", rows)
