"""From a script's command line to a finished run: parse, refuse or record, run, report.

Exit codes: 0 done; 1 failed (traceback); 2 refused (one message, nothing made unless set-up failed
inside the run); stopped after saving: 130 by SIGINT, 143 by SIGTERM, 138 by SIGUSR1, 140 by
SIGUSR2, 152 by a time limit.
"""

from __future__ import annotations

import contextlib
import importlib
import os
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
from experiments.tracking import failures, mongo
from experiments.tracking.follower import Follower
from experiments.tracking.redaction import refuse_in_config
from experiments.tracking.spool import JOB, TRIAL, Spool, open_spool, read_events, read_json
from experiments.tracking.view import flat
from marlcore.config import ExperimentConfig
from marlcore.config_errors import ConfigError
from marlcore.rendezvous import place

_OUT_OF_MEMORY = (
    "the GPU's memory ran out; go on from the last checkpoint (resume=RUN) with "
    "algorithm.microbatch_size=1 or policy.activation_checkpointing=on, or start anew with fewer "
    "policy.lora_layers or a smaller policy.lora_rank (docs/OPENVLA.md)"
)

_DONE = ("completed", "success")
"""Reasons of training to end after which nothing is left to do."""

__all__ = ["Script", "commandline"]


def commandline(script: Script, argv: Sequence[str], *, wait_s: float = 0.0) -> int:
    """Do what the command line (without the program's name) asks; returns the exit code.

    A run that another process writes is waited for so long, then refused.
    """
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
        return _start(script, arguments, words, resolved, [script.name, *argv], wait_s)
    except ConfigError as error:
        _output.print_error(error)
        return 2
    except KeyboardInterrupt:
        return _stop.exit_code("SIGINT")
    except BrokenPipeError:  # `--help | head`
        sys.stderr.close()
        return 1


def check_resumed_words(name: str, run_dir: Path, words: Sequence[str]) -> None:
    """Refuse settings that a run of the script called `name` does not take when it goes on.

    Raises:
        ConfigError: they change what is computed, or ask for fewer env steps than there are.
    """
    script: Script = importlib.import_module(f"experiments.{name}").SCRIPT
    resume = [f"resume={run_dir}", *words]
    resolved = _resolve(script, read_words(resume, script.named))
    _refuse_fewer_steps(resolved, _rundir.find_start(str(run_dir)))


def _launch_all(
    script: Script, arguments: Arguments, words: Words, resolved: Resolved, argv: Sequence[str]
) -> int:
    """Refuse what the first process would refuse, then start all of them."""
    num_processes = resolved.config.training.num_gpus
    assert num_processes is not None
    command = [sys.executable, sys.argv[0]]
    if words.resume is not None:
        run_dir = _rundir.find_run(words.resume)
        return _launch.launch(num_processes, [*command, *argv], run_dir)
    run_id = arguments.options.get("--id")
    if run_id is None:  # all of them, and the launcher, know the run then
        run_id = _rundir.new_id(script.name)
        command += ["--id", run_id]
    _rundir.check_id(run_id)
    return _launch.launch(num_processes, [*command, *argv], _rundir.runs_dir() / run_id)


def resolve_command(script: Script, argv: Sequence[str]) -> ExperimentConfig:
    """The configuration that a command line means, for those who start it elsewhere.

    Raises:
        ConfigError: it would be refused here, too.
    """
    words = read_words(read_arguments(argv).words, script.named)
    if words.resume is not None:
        raise ConfigError(f"resume={words.resume}: go on with that run by marl jobs resume")
    resolved = _resolve(script, words)
    refuse_in_config(flat(resolved.config.model_dump(mode="json")))
    if resolved.config.training.num_gpus is not None:
        raise ConfigError(
            "training.num_gpus is of one machine; here nodes and processes come from the preset, "
            "--nodes, --gpus-per-node and --tasks-per-node, or from --local N"
        )
    return resolved.config


def _resolve(script: Script, words: Words) -> Resolved:
    if words.resume is None:
        return resolve(words, base=script.base, named=script.named)
    run_dir = _rundir.find_run(words.resume)
    recorded = _rundir.read_config(run_dir)
    return resolve_resumed(words, recorded, run_id=run_dir.name, base=script.base)


def _start(
    script: Script,
    arguments: Arguments,
    words: Words,
    resolved: Resolved,
    argv: Sequence[str],
    wait_s: float,
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
        checkpoint = _rundir.find_start(resume)
        _refuse_fewer_steps(resolved, checkpoint)
    if place().rank > 0:
        named = run_id and _rundir.runs_dir() / run_id
        return _follow(resolved, checkpoint, _rundir.find_run(resume) if resume else named or None)
    if run_id is not None:
        _rundir.check_id(run_id)
    mongo.target(_rundir.runs_dir())  # refuses a URI that is none
    if resume is None:
        run_dir = _rundir.create(script.name, values, run_id)
    else:
        run_dir = _rundir.find_run(resume).resolve()
        argv = _submitted(run_dir) or argv
    with (
        contextlib.closing(open_spool(run_dir, wait_s=wait_s)) as spool,
        _output.copied_to(run_dir / _rundir.OUTPUT),
        _stop.install(),
    ):
        follower = Follower(run_dir, values, resolved.config.logging)
        try:
            return _train(script, resolved, spool, checkpoint, options, argv)
        finally:
            follower.close()


def _submitted(run_dir: Path) -> list[str]:
    """The command line that a job or a sweep has for a run, if this is its first start."""
    argv = read_json(run_dir / JOB, {}).get("argv") or read_json(run_dir / TRIAL, {}).get("argv")
    has_started = any(event["event"] == "start" for event in read_events(run_dir))
    return argv if isinstance(argv, list) and not has_started else []


def _refuse_fewer_steps(resolved: Resolved, checkpoint: Path | None) -> None:
    wanted = resolved.config.training.total_timesteps
    done = checkpoint.name.removeprefix("checkpoint_") if checkpoint else ""
    given = "training.total_timesteps" in resolved.given
    if given and done.isdecimal() and wanted <= int(done):
        raise ConfigError(
            f"training.total_timesteps={wanted} is refused: the run has done {int(done):,} env "
            "steps; give more than that"
        )


def _follow(resolved: Resolved, checkpoint: Path | None, run_dir: Path | None) -> int:
    """Train as one of the further processes: the first one alone records."""
    from experiments import _run

    nowhere = run_dir or Path(os.devnull)
    try:
        with _stop.install():
            result = _run.run(resolved.config, run_dir=nowhere, spool=None, resume_from=checkpoint)
    except _stop.StopAtOnceError as stop:
        return _stop.exit_code(stop.reason)
    except ValueError as error:  # the first process says the same, with its traceback on record
        _output.print_error(error)
        return 2
    except Exception as error:
        what = f"{place()} failed:"
        print(what, file=sys.stderr)
        if run_dir is not None:
            failures.note(run_dir, place().rank, what, traceback.format_exception(error))
        return _failed(error)
    return 0 if result["reason"] in _DONE else _stop.exit_code(result["reason"])


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
            if result["reason"] not in _DONE:
                raise _stop.StopRequested(result["reason"])
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
    saved = isinstance(stop, _stop.StopRequested)
    name = stop.reason if isinstance(stop, _stop.Stop) else "SIGINT"
    how = "after saving a checkpoint" if saved else "at once: what follows the last one is lost"
    print(f"stopped by {name} {how}", file=sys.stderr)
    begins = "" if _rundir.checkpoints(run_dir) else " (from the beginning: nothing is saved yet)"
    print(f"resume with: {_resume_command(script, run_dir)}{begins}", file=sys.stderr)
    return _stop.exit_code(name)


def _resume_command(script: Script, run_dir: Path) -> str:
    return f"python experiments/{script.name}.py with resume={run_dir.name}"


def _print_result(result: dict[str, Any], script: Script, run_dir: Path) -> None:
    from experiments.console import print_summary

    print_summary(result, run_dir=run_dir, resume=_resume_command(script, run_dir))


def _recorded(run_dir: Path) -> int:
    """Size of the metrics file, by which set-up is told from training."""
    path = run_dir / _rundir.METRICS
    return path.stat().st_size if path.exists() else 0
