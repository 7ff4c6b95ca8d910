"""The Sacred experiment behind a script, built from a resolved configuration when a run starts.

Sacred's own parsing never sees the user's text: it takes wrong types and misspelt keys with a
warning. It gets the resolved configuration, and observers: files always, MongoDB if asked.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from experiments import _rundir
from experiments._script import Script

_ROOT = Path(__file__).resolve().parents[1]
_LONGEST_OUTPUT = 4_000_000
"""Characters of output that Sacred keeps; a MongoDB document holds 16 MB. stdout.log has all."""


def run(
    script: Script,
    config: Mapping[str, Any],
    *,
    run_dir: Path,
    options: Mapping[str, str],
    mongo: tuple[Any, str] | None,
    main: Callable[[Any], dict[str, Any]],
) -> dict[str, Any]:
    """Run `main(sacred_run)` as a Sacred run, recorded in `run_dir` and MongoDB."""
    sacred = _import_sacred()
    experiment = sacred.Experiment(script.name, base_dir=str(_ROOT), save_git_info=False)
    experiment.doc = script.doc
    experiment.logger = _logger()
    experiment.sources.add(_script_source(script.name))
    experiment.observers += _observers(run_dir, mongo)
    experiment.captured_out_filter = lambda _: _output(run_dir)
    experiment.add_config(dict(config))

    @experiment.main
    def train(_run: Any) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        return main(_run)

    sacred_options = {
        name: value for name, value in options.items() if name in ("--name", "--comment")
    }
    sacred_options["--loglevel"] = options.get("--loglevel", "WARNING")
    sacred_options["--capture"] = "no"  # experiments._output keeps it, and the terminal a terminal
    sacred_options["--id"] = _attempt_id(run_dir)
    return experiment.run(options=sacred_options).result


def _import_sacred() -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="pkg_resources is deprecated as an API")
        warnings.filterwarnings("ignore", message="Deprecated call to `pkg_resources")
        import sacred
        import sacred.observers

    sacred.SETTINGS["DISCOVER_SOURCES"] = "sys"
    sacred.SETTINGS["DISCOVER_DEPENDENCIES"] = "pkg"
    return sacred


def _script_source(name: str) -> Any:
    """The script itself, which Sacred would not find: it is `__main__`."""
    from sacred.dependencies import Source

    return Source.create(str(_ROOT / "experiments" / f"{name}.py"), save_git_info=False)


def _observers(run_dir: Path, mongo: tuple[Any, str] | None) -> list[Any]:
    from sacred.observers import FileStorageObserver, MongoObserver

    place = run_dir / "sacred"
    observers: list[Any] = [FileStorageObserver(place)]
    if mongo:
        client, database = mongo
        observers.append(
            MongoObserver(client=client, db_name=database, failure_dir=str(place / "failed"))
        )
    return observers


def _attempt_id(run_dir: Path) -> str:
    """The run's id for its first attempt, then id.2, id.3: Sacred takes an id once."""
    attempt, name = 1, run_dir.resolve().name
    while (run_dir / "sacred" / (name if attempt == 1 else f"{name}.{attempt}")).exists():
        attempt += 1
    return name if attempt == 1 else f"{name}.{attempt}"


def _output(run_dir: Path) -> str:
    try:
        with (run_dir / _rundir.OUTPUT).open(encoding="utf-8", errors="replace") as file:
            return file.read(_LONGEST_OUTPUT)
    except OSError:
        return ""


def _logger() -> logging.Logger:
    """Sacred's logger without its lines on how a run ended, which the command line prints."""
    logger = logging.getLogger("marlcore.sacred")
    logger.propagate = False
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    handler.addFilter(lambda record: not str(record.msg).startswith(("Failed after", "Aborted af")))
    logger.handlers = [handler]
    return logger
