"""The command line of a training script, taken apart: options, command, words after `with`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from marlcore import config_keys
from marlcore.config_errors import ConfigError, show

COMMANDS = {
    "run": "train; what happens when no command is given",
    "print_config": "print the configuration that a run would have, changes marked",
    "print_named_configs": "print the named configs and what they set",
    "help": "print this text",
}

OPTIONS = {
    "--help": ("-h", "", "print this text"),
    "--id": ("-i", "ID", "name of the run's directory and of the run in Sacred"),
    "--name": ("-n", "NAME", "name of the experiment in Sacred"),
    "--comment": ("-c", "TEXT", "a comment kept with the run in Sacred"),
    "--loglevel": (
        "-l",
        "LEVEL",
        "what Sacred logs: DEBUG, INFO, WARNING (default), ERROR or 0-50",
    ),
    "--print-config": ("-p", "", "print the configuration before training"),
}
"""Long name: (short name, name of its value or nothing, meaning)."""

_NOT_SUPPORTED = {
    "--debug": "tracebacks of failures are printed in full anyway",
    "--pdb": "run `python -m pdb` on the script",
    "--queue": "runs start at once; queues are the matter of slurm/",
    "--priority": "runs start at once; queues are the matter of slurm/",
    "--force": "every setting is checked before the run starts",
    "--file_storage": "Sacred's files lie in the run's directory (MARL_RUNS_DIR sets the place)",
    "--mongo_db": "set MARL_MONGO_URI, which keeps passwords out of the process list",
    "--unobserved": "every run is recorded",
    "--capture": "output is always copied to stdout.log in the run's directory",
    "--beat-interval": "Sacred's heartbeat stays at 10 seconds",
    "--enforce_clean": "the state of the repository is recorded, not enforced",
    "--sql": "recording goes to files and MongoDB",
    "--tiny_db": "recording goes to files and MongoDB",
    "--s3": "recording goes to files and MongoDB",
    "--gcs": "recording goes to files and MongoDB",
}


@dataclass
class Arguments:
    """A command line."""

    command: str = "run"
    options: dict[str, str] = field(default_factory=dict)
    """Long name -> value; flags have an empty one."""
    words: list[str] = field(default_factory=list)


def read_arguments(argv: Sequence[str]) -> Arguments:
    """Take a command line apart (without the program's name).

    Raises:
        ConfigError: an unknown command or option, or a setting without `with` before it.
    """
    result, commands, seen_with = Arguments(), [], False
    queue = list(argv)
    while queue:
        word = queue.pop(0)
        if word.startswith("-") and word != "-":
            name, value = _read_option(word, queue)
            if name in result.options:
                raise ConfigError(f"{name} is given twice; give it once")
            result.options[name] = value
        elif seen_with:
            result.words.append(word)
        elif word == "with":
            seen_with = True
        else:
            commands.append(word)
    _set_command(commands, result)
    if seen_with and not result.words and "--help" not in result.options:
        raise ConfigError("nothing follows `with`; write named configs or key=value after it")
    _check_loglevel(result.options.get("--loglevel", "WARNING"))
    return result


def _set_command(commands: list[str], result: Arguments) -> None:
    for command in commands:
        if "=" in command:
            raise ConfigError(f"{show(command)}: write `with` before settings: with {command}")
        if command not in COMMANDS:
            near = config_keys.nearest(command, COMMANDS)
            raise ConfigError(
                f"{show(command)} is no command; "
                + (f"did you mean {near}? " if near else f"there are {', '.join(COMMANDS)}. ")
                + "Named configs and settings follow `with`"
            )
    if len(commands) > 1:
        raise ConfigError(f"one command at a time, not {' and '.join(commands)}")
    result.command = commands[0] if commands else "run"
    if "--help" in result.options:
        result.command = "help"


def _read_option(word: str, queue: list[str]) -> tuple[str, str]:
    text, equals, value = word.partition("=")
    shorts = {short: name for name, (short, _, _) in OPTIONS.items()}
    name = shorts.get(text, text)
    if name in _NOT_SUPPORTED:
        raise ConfigError(f"{name} of Sacred is not supported: {_NOT_SUPPORTED[name]}")
    if name not in OPTIONS:
        near = config_keys.nearest(name, OPTIONS)
        meant = f"did you mean {near}?" if near else "--help lists the options"
        raise ConfigError(f"{show(text)} is no option; {meant}")
    takes = OPTIONS[name][1]
    if not takes:
        if equals:
            raise ConfigError(f"{name} takes no value")
        return name, ""
    if not equals:
        if not queue or queue[0] == "with" or queue[0].startswith("--"):
            raise ConfigError(f"{name} needs a value: {name}={takes}")
        value = queue.pop(0)
    if not value:
        raise ConfigError(f"{name} needs a value: {name}={takes}")
    return name, value


def _check_loglevel(level: str) -> None:
    if level.isdecimal() and int(level) <= logging.CRITICAL:
        return
    if level not in logging.getLevelNamesMapping():
        raise ConfigError(f"--loglevel {show(level)} is refused; give DEBUG, INFO, WARNING, ERROR")
