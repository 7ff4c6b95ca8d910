"""From a script's command line to a finished run: parse, refuse or record, run, report.

Exit codes: 0 done; 1 failed (traceback); 2 refused (one message, nothing made unless set-up failed
inside the run); 130 and 143 stopped by SIGINT and SIGTERM after saving.
"""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments import _help, _launch, _output, _rundir, _stop
from experiments._arguments import Arguments, read_arguments
from experiments._overrides import Resolved, resolve, resolve_resumed
from experiments._script import Script
from experiments._words import Words, read_words
from experiments.tracking import mongo
from experiments.tracking.follower import Follower
from experiments.tracking.redaction import refuse_in_config
from experiments.tracking.spool import Spool, open_spool
from experiments.tracking.view import flat
from marlcore.config_errors import ConfigError

_OUT_OF_MEMORY = (
    "the GPU's memory ran out; go on from the last checkpoint (resume=RUN) with "
    "algorithm.microbatch_size=1 or policy.activation_checkpointing=on, or start anew with fewer "
    "policy.lora_layers or a smaller policy.lora_rank (docs/OPENVLA.md)"
)

__all__ = ["Script", "commandline"]


def commandline(script: Script, argv: Sequence[str]) -> int:
    """Do what the command line (without the program's name) asks; returns the exit code."""
    try:
        arguments = read_arguments(argv)
        if arguments.command == "help":
            print(_help.help_text(script))
            return 0
        if arguments.command == "print_named_configs":
            _help.print_named_configs(script)
            return 0
        words = read_words(arguments.words, script.named)
        resolved = _resolve(script, words)
        refuse_in_config(flat(resolved.config.model_dump(mode="json")))
        if arguments.command == "print_config":
            _help.print_config(resolved)
            return 0
        if _launch.is_wanted(resolved.config):
            return _launch_all(script, arguments, words, resolved, argv)
        return _start(script, arguments, words, resolved, [script.name, *argv])
    except ConfigError as error:
        _output.print_error(error)
        return 2
    except KeyboardInterrupt:
        return _stop.exit_code(signal.SIGINT)
    except BrokenPipeError:  # `--help | head`
        sys.stderr.close()
        return 1


def _launch_all(
    script: Script, arguments: Arguments, words: Words, resolved: Resolved, argv: Sequence[str]
) -> int:
    """Refuse what the first process would refuse, then start all of them."""
    num_processes = resolved.config.training.num_gpus
    assert num_processes is not None
    if words.resume is not None:
        return _launch.launch(num_processes, argv, _rundir.find_run(words.resume))
    run_id = arguments.options.get("--id")
    if run_id is None:  # all of them, and the launcher, know the run then
        run_id = _rundir.new_id(script.name)
        argv = ["--id", run_id, *argv]
    _rundir.check_id(run_id)
    return _launch.launch(num_processes, argv, _rundir.runs_dir() / run_id)


def _resolve(script: Script, words: Words) -> Resolved:
    if words.resume is None:
        return resolve(words, base=script.base, named=script.named)
    run_dir = _rundir.find_run(words.resume)
    recorded = _rundir.read_config(run_dir)
    return resolve_resumed(words, recorded, run_id=run_dir.name, base=script.base)


def _start(
    script: Script, arguments: Arguments, words: Words, resolved: Resolved, argv: Sequence[str]
) -> int:
    """Make or find the run directory and train in it."""
    _launch.end_with_launcher()
    options, resume = arguments.options, words.resume
    if "--print-config" in options:
        _help.print_config(resolved)
    values = resolved.config.model_dump(mode="json")
    run_id = options.get("--id")
    if resume is not None and run_id is not None:
        raise ConfigError("--id names a new run; a resumed run keeps its id")
    checkpoint = None
    if resume is not None:
        checkpoint = _rundir.find_checkpoint(resume)
        _refuse_fewer_steps(resolved, checkpoint)
    if int(os.environ.get("RANK", "0")) > 0:
        return _follow(resolved, checkpoint)
    if run_id is not None:
        _rundir.check_id(run_id)
    mongo.target(_rundir.runs_dir())  # refuses a URI that is none
    if resume is None:
        run_dir = _rundir.create(script.name, values, run_id)
    else:
        run_dir = _rundir.find_run(resume).resolve()
    with (
        contextlib.closing(open_spool(run_dir)) as spool,
        _output.copied_to(run_dir / _rundir.OUTPUT),
        _stop.install(),
    ):
        follower = Follower(run_dir, values, resolved.config.logging)
        try:
            return _train(script, resolved, spool, checkpoint, options, argv)
        finally:
            follower.close()


def _refuse_fewer_steps(resolved: Resolved, checkpoint: Path) -> None:
    wanted = resolved.config.training.total_timesteps
    done = checkpoint.name.removeprefix("checkpoint_")
    given = "training.total_timesteps" in resolved.given
    if given and done.isdecimal() and wanted <= int(done):
        raise ConfigError(
            f"training.total_timesteps={wanted} is refused: the run has done {int(done):,} env "
            "steps; give more than that"
        )


def _follow(resolved: Resolved, checkpoint: Path | None) -> int:
    """Train as one of torchrun's further processes: the first one alone records."""
    from experiments import _run

    nowhere = Path(os.devnull) if checkpoint is None else checkpoint.parent
    try:
        with _stop.install():
            _run.run(resolved.config, run_dir=nowhere, spool=None, resume_from=checkpoint)
    except ValueError as error:  # the first process says the same, with its traceback on record
        _output.print_error(error)
        return 2
    except Exception as error:
        rank, size = os.environ["RANK"], os.environ.get("WORLD_SIZE", "?")
        print(f"process {rank} of {size} on {platform.node()} failed:", file=sys.stderr)
        return _failed(error)
    return 0


def _train(
    script: Script,
    resolved: Resolved,
    spool: Spool,
    checkpoint: Path | None,
    options: dict[str, str],
    argv: Sequence[str],
) -> int:
    run_dir = spool.run_dir
    recorded_before = _recorded(run_dir)
    print(f"run {run_dir.name} in {run_dir}" + (f", from {checkpoint}" if checkpoint else ""))
    try:
        from experiments import _run, _sacred

        def main(_: Any) -> dict[str, Any]:
            result = _run.run(resolved.config, run_dir=run_dir, spool=spool, resume_from=checkpoint)
            stop = _stop.stop_requested()
            if result.get("reason") not in ("completed", "success"):
                raise _stop.StopRequested(stop or "SIGTERM")  # it may have come to another rank
            return {k: str(v) if isinstance(v, Path) else v for k, v in result.items()}

        config = resolved.config.model_dump(mode="json")
        result = _sacred.run(script, config, argv=argv, spool=spool, options=options, main=main)
    except KeyboardInterrupt as stop:
        return _stopped(script, run_dir, stop)
    except ValueError as error:
        if _recorded(run_dir) == recorded_before:  # set-up failed: the user's to mend
            spool.refuse()
            _output.log_line(traceback.format_exc())
            _output.print_error(error)
            print(f"(traceback in {run_dir / _rundir.OUTPUT})", file=sys.stderr)
            return 2
        traceback.print_exc()
        return 1
    except Exception as error:
        return _failed(error)
    _print_result(result, script, run_dir)
    return 0


def _failed(error: Exception) -> int:
    traceback.print_exception(error)
    if type(error).__name__ == "OutOfMemoryError":
        print(_OUT_OF_MEMORY, file=sys.stderr)
    return 1


def _stopped(script: Script, run_dir: Path, stop: KeyboardInterrupt) -> int:
    name = _stop.stop_requested() or "SIGINT"
    saved = isinstance(stop, _stop.StopRequested)
    how = "after saving a checkpoint" if saved else "at once: what follows the last one is lost"
    print(f"stopped by {name} {how}", file=sys.stderr)
    if _rundir.checkpoints(run_dir):
        print(f"resume with: {_resume_command(script, run_dir)}", file=sys.stderr)
    else:
        print("there is no checkpoint to resume from", file=sys.stderr)
    return _stop.exit_code(signal.Signals[name])


def _resume_command(script: Script, run_dir: Path) -> str:
    return f"python experiments/{script.name}.py with resume={run_dir.name}"


def _print_result(result: dict[str, Any], script: Script, run_dir: Path) -> None:
    from experiments.console import print_summary

    print_summary(result, run_dir=run_dir, resume=_resume_command(script, run_dir))


def _recorded(run_dir: Path) -> int:
    """Size of the metrics file, by which set-up is told from training."""
    path = run_dir / _rundir.METRICS
    return path.stat().st_size if path.exists() else 0
