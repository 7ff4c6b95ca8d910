"""Put tags on a run, or take them off; `marl runs 'tags~good'` and Omniboard filter by them.

marl tag RUN good baseline
marl tag RUN --remove good
"""

from __future__ import annotations

import argparse
import re
from typing import Any

from experiments.commands._notes import change
from experiments.tracking.redaction import redact
from marlcore.config_errors import ConfigError, show


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("tags", metavar="TAG", nargs="+")
    parser.add_argument("--remove", action="store_true", help="take the tags off")


def run(arguments: argparse.Namespace) -> int:
    """Change the tags."""
    for tag in arguments.tags:
        if not re.fullmatch(r"\S{1,50}", tag) or not tag.isprintable() or redact(tag) != tag:
            raise ConfigError(
                f"{show(redact(tag))} is no tag; give 1 to 50 printable characters, no spaces"
            )

    def edit(notes: dict[str, Any]) -> None:
        tags = list(notes.get("tags", []))
        if arguments.remove:
            notes["tags"] = [tag for tag in tags if tag not in arguments.tags]
        else:
            notes["tags"] = tags + [tag for tag in dict.fromkeys(arguments.tags) if tag not in tags]

    one, notes = change(arguments.run, edit)
    print(f"{one.id}: {' '.join(notes['tags']) or 'no tags'}")
    return 0
