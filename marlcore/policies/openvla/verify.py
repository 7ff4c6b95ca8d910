# pyright: basic
"""Compare this implementation with recorded arrays of the reference, one by one.

    python -m marlcore.policies.openvla.verify FOLDER

FOLDER holds a checkpoint, inputs.npz, meta.json and recorded outputs, as those of
tests/golden/openvla do. Prints the worst error of each array; exits 1 where one is beyond its
tolerance, 2 on a bad folder.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from marlcore.policies.openvla.folder import read_json

HIDDEN, ACTION, NORM, EXACT = 5e-5, 2e-5, 1e-5, 0.0
"""Tolerances: absolute on features and hidden states, on actions; relative on gradient norms."""


@dataclass
class Report:
    """Errors of arrays against their tolerances."""

    rows: list[tuple[str, float, float]] = field(default_factory=list)

    def compare(self, name: str, own: object, recorded: object, tolerance: float) -> None:
        """Take the largest absolute difference; another shape is an infinite one."""
        a, b = (
            np.asarray(x.detach() if isinstance(x, torch.Tensor) else x) for x in (own, recorded)
        )
        if a.shape != b.shape:
            error = float("inf")
        else:
            difference = np.abs(a.astype(np.float64) - b.astype(np.float64))
            error = float(difference.max()) if difference.size else 0.0
        self.rows.append((name, error, tolerance))

    @property
    def failures(self) -> list[str]:
        """Names of arrays beyond their tolerance."""
        return [name for name, error, tolerance in self.rows if not error <= tolerance]

    def lines(self) -> list[str]:
        """One line per array."""
        width = max(len(name) for name, _, _ in self.rows)
        return [
            f"{name:<{width}}  {error:9.2e}  {'ok' if error <= tol else 'FAILED'} (within {tol:g})"
            for name, error, tol in self.rows
        ]


def verify(folder: Path) -> Report:
    """Compare every array of a folder.

    Raises:
        ValueError: if the folder is not laid out like the recorded ones.
    """
    from marlcore.policies.openvla import _verify_cases

    for name in ("meta.json", "inputs.npz", "checkpoint"):
        if not (folder / name).exists():
            raise ValueError(f"{folder} has no {name}; give a folder of recorded arrays")
    report = Report()
    context = _verify_cases.Context(folder, read_json(folder / "meta.json"), report)
    with torch.no_grad():
        _verify_cases.check_inputs(context)
        _verify_cases.check_vision(context)
        _verify_cases.check_cases(context)
        _verify_cases.check_small_case(context)
        _verify_cases.check_discrete(context)
        _verify_cases.check_adapter(context)
    _verify_cases.check_training(context)
    unread = context.unread()
    if unread:
        raise ValueError(f"{folder}: nothing here compares {', '.join(unread)}")
    return report


def main(argv: Sequence[str]) -> int:
    """Verify the folder that the command line names; returns the exit code."""
    if len(argv) != 1 or argv[0] in ("-h", "--help"):
        print(__doc__)
        return 0 if argv and argv[0] in ("-h", "--help") else 2
    try:
        report = verify(Path(argv[0]))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n".join(report.lines()))
    failed = report.failures
    print(f"{len(report.rows)} arrays, {len(failed)} beyond their tolerance")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
