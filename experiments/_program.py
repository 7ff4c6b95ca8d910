"""What all command lines share: a parser that names the nearest option, and how errors end."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from experiments._output import print_error
from experiments.tracking.redaction import redact
from marlcore import config_keys
from marlcore.config_errors import ConfigError, show


class Parser(argparse.ArgumentParser):
    """Raises instead of exiting, and names the nearest option.

    Args:
        prog: the command, as it is written.
        description: the module's docstring, printed as it stands.
    """

    def __init__(self, prog: str | None = None, description: str | None = None) -> None:
        super().__init__(
            prog=prog,
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        """Refuse the command line."""
        if message.startswith("unrecognized arguments: -"):
            word = message.removeprefix("unrecognized arguments: ").split()[0].partition("=")[0]
            options = [name for action in self._actions for name in action.option_strings]
            near = config_keys.nearest(word, options)
            message = f"{show(word)} is no option; " + (
                f"did you mean {near}?" if near else "--help lists the options"
            )
        raise ConfigError(message)


def run_program(action: Callable[[], int]) -> int:
    """Do what a command line asks; returns the exit code.

    2: refused, with one message. 1: failed, with a traceback. 130: Ctrl-C.
    """
    try:
        code = action()
        sys.stdout.flush()
        return code
    except ConfigError as error:
        print_error(error)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `marl runs | head`
        _silence()
        return 1
    except OSError as error:  # no rights, a full disk
        _silence()
        print(f"error: {error.filename or 'output'}: {error.strerror or error}", file=sys.stderr)
        return 2
    except Exception:
        traceback.print_exc()
        return 1


def last_words(output: bytes) -> str:
    """What a program that failed said of it: its error, or else its last line; redacted."""
    lines = [line.strip() for line in output.decode("utf-8", "replace").split("\n")]
    told = [line for line in lines if line.startswith("error:")] or list(filter(None, lines))
    return redact(told[-1])[:1000] if told else "it said nothing"


def _silence() -> None:
    """Have nothing more written to an output that takes nothing."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
