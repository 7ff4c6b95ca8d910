"""Write a note to a run; it shows in `marl show` and in Omniboard.

marl note RUN "diverged after the learning rate was raised"
marl note RUN ""        takes it away
"""

from __future__ import annotations

import argparse

from experiments.commands._notes import change
from experiments.tracking.redaction import redact


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("text", metavar="TEXT")


def run(arguments: argparse.Namespace) -> int:
    """Write."""
    text = redact(arguments.text.strip()).encode("utf-8", "replace").decode()
    one, _ = change(arguments.run, lambda notes: notes.update(notes=text))
    print(f"{one.id}: {text or 'no note'}")
    return 0
