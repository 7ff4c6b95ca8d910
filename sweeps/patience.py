"""Waiting for a database that does not answer."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import optuna
import sqlalchemy as sa

from experiments import _stop
from sweeps.storage import said

_T = TypeVar("_T")
DATABASE_ERRORS = (
    sa.exc.OperationalError,
    sa.exc.InterfaceError,
    sa.exc.IntegrityError,
    optuna.exceptions.StorageInternalError,
    OSError,
)
"""What passes: a server that starts again, a full disk, somebody who was faster."""


def patiently(action: Callable[[], _T]) -> _T:
    """Do `action`; while the database does not answer, say so, wait, and do it again.

    Raises:
        _stop.StopAtOnceError: a signal came meanwhile.
    """
    wait_s, has_said = 0.5, False
    while True:
        try:
            result = action()
        except DATABASE_ERRORS as error:
            if not has_said:
                print(f"the database does not answer ({said(error)}); trying again", flush=True)
            has_said = True
        else:
            if has_said:
                print("the database answers again", flush=True)
            return result
        for _ in range(round(wait_s / 0.1)):
            if (told := _stop.stop_requested()) is not None:
                raise _stop.StopAtOnceError(told)
            time.sleep(0.1)
        wait_s = min(10.0, 2 * wait_s)
