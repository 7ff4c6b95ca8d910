"""Why processes of a run failed, told by themselves: the first process, which records, asks for it.

RUN/.failures/rank-3.json    of one process; the next failure of that process replaces it
"""

from __future__ import annotations

import json
import time
from pathlib import Path

from experiments.tracking.redaction import redact_all
from experiments.tracking.spool import read_json
from marlcore.durable import write_whole

FOLDER = ".failures"
_PATIENCE_S = 3.0
"""A process that fails closes its connections, by which the first one notices, before it writes."""


def note(run_dir: Path, rank: int, what: str, trace: list[str]) -> None:
    """Keep why this process failed; a disk that takes nothing does not hide the failure itself."""
    text = json.dumps(redact_all({"time": time.time(), "what": what, "trace": trace}))
    try:
        (run_dir / FOLDER).mkdir(exist_ok=True)
        write_whole(run_dir / FOLDER / f"rank-{rank}.json", text)
    except OSError as error:
        print(f"(not kept with the run: {error})")


def with_others(run_dir: Path, own: list[str], *, since: float, expected: bool) -> list[str]:
    """The trace of the first process with those of others, the earliest failure last.

    Args:
        run_dir: of the run.
        own: trace of this process.
        since: seconds since 1970; older failures are of earlier attempts.
        expected: whether there are other processes, so that it is worth to wait for them.
    """
    now = time.time()
    found = [(now, own)]
    while expected and len(found) == 1 and time.time() < now + _PATIENCE_S:
        time.sleep(0.2)
        for path in (run_dir / FOLDER).glob("rank-*.json"):
            failure = read_json(path, {})
            if failure.get("time", 0.0) > since:
                trace = [f"\n{failure.get('what')}\n", *failure.get("trace", [])]
                found.append((failure["time"], trace))
    found.sort(key=lambda item: -item[0])
    return [line for _, trace in found for line in trace]
