"""The Sacred experiment behind a script, built from a resolved configuration when a run starts.

Sacred's own parsing never sees the user's text: it takes wrong types and misspelt keys with a
warning. It gets the resolved configuration, and one observer: the run's spool.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments._script import Script
from experiments.tracking import provenance
from experiments.tracking.spool import Spool
from experiments.tracking.store import Store

_ROOT = Path(__file__).resolve().parents[1]
_PACKAGES = ("marlcore", "experiments", "sweeps", "slurm")


def run(
    script: Script,
    config: Mapping[str, Any],
    *,
    argv: Sequence[str],
    spool: Spool,
    options: Mapping[str, str],
    main: Callable[[Any], dict[str, Any]],
    observers: tuple[Any, ...] = (),
) -> dict[str, Any]:
    """Run `main(sacred_run)` as a Sacred run, recorded in the spool and by other `observers`.

    Of the command line's `options`, Sacred takes its own.
    """
    sacred = _import_sacred()
    from experiments.tracking.observer import SpoolObserver

    store = Store(spool.run_dir.resolve().parent)
    experiment = sacred.Experiment(script.name, base_dir=str(_ROOT), save_git_info=False)
    experiment.doc = script.doc
    experiment.logger = _logger()
    experiment.sources |= set(_sources())
    experiment.observers += [
        SpoolObserver(spool, store, lambda: provenance.collect(config, argv, store)),
        *observers,
    ]
    experiment.captured_out_filter = lambda _: ""  # experiments._output keeps it
    experiment.add_config(dict(config))

    @experiment.main
    def train(_run: Any) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        return main(_run)

    sacred_options = {
        name: value for name, value in options.items() if name in ("--name", "--comment")
    }
    sacred_options["--loglevel"] = options.get("--loglevel", "WARNING")
    sacred_options["--capture"] = "no"  # and the terminal stays a terminal
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


def _sources() -> list[Any]:
    """Every module of the repository: Sacred finds those that are imported already, alone."""
    from sacred.dependencies import Source

    files = [path for package in _PACKAGES for path in sorted((_ROOT / package).rglob("*.py"))]
    return [Source.create(str(path), save_git_info=False) for path in files]


def _logger() -> logging.Logger:
    """Sacred's logger without its lines on how a run ended, which the command line prints."""
    logger = logging.getLogger("marlcore.sacred")
    logger.propagate = False
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    handler.addFilter(lambda record: not str(record.msg).startswith(("Failed after", "Aborted af")))
    logger.handlers = [handler]
    return logger
