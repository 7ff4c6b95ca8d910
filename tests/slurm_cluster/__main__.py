"""Keep a cluster up until Ctrl-C: python -m tests.slurm_cluster."""

from __future__ import annotations

import signal
import sys

from tests.slurm_cluster.cluster import running_cluster, why_not

if reason := why_not():
    sys.exit(reason)
signal.signal(signal.SIGTERM, signal.default_int_handler)
with running_cluster() as cluster:
    print(f"export SLURM_CONF={cluster.root}/slurm.conf", flush=True)
    try:
        signal.pause()
    except KeyboardInterrupt:
        print("going down")
