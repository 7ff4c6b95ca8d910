"""`marl doctor --slurm`: what jobs need of a cluster, as far as it can be asked without a job.

What a version of Slurm does not tell is not reported.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from functools import partial

from experiments.commands.doctor import NOTE, OK, WRONG, Finding, check_runs, checked
from marlcore.config_errors import ConfigError
from slurm import cluster, doctor_conf, doctor_nodes, doctor_presets, doctor_runs
from slurm.doctor_nodes import Seen

_COMMANDS = ("sbatch", "srun", "squeue", "scontrol", "scancel")
_PING_S = 20.0


def findings() -> Iterator[Finding]:
    """Everything that can be said of the cluster that this machine submits to."""
    missing = [name for name in _COMMANDS if shutil.which(name) is None]
    if not cluster.is_here():
        advice = "run this on a login node of a Slurm cluster; slurm/submit.py --local N runs here"
        yield Finding(WRONG, f"no Slurm: this machine lacks {', '.join(missing)}", advice)
        return
    if missing:
        advice = "install Slurm's client commands, of the controller's version (slurm-client)"
        yield Finding(WRONG, f"Slurm's commands: {', '.join(missing)} are not here", advice)
    said = checked(_controller)
    yield from said
    seen: list[Seen] = []
    if not any(one.state == WRONG for one in said):
        yield from checked(partial(_look, seen))
    for one in seen:
        for check in (
            doctor_conf.check_accounting,
            doctor_conf.check_settings,
            doctor_conf.check_preemption,
            doctor_conf.check_partitions,
            doctor_nodes.check_states,
            doctor_nodes.check_names,
            doctor_presets.check_gpus,
            doctor_presets.check_presets,
        ):
            yield from checked(partial(check, one))
    yield from checked(check_runs)
    others = seen[0].others if seen else []
    if seen and seen[0].nodes:
        yield from checked(partial(doctor_runs.check_shared, others))
    yield from checked(partial(doctor_runs.check_database, others))
    yield from checked(partial(doctor_runs.check_packages, others))


def _controller() -> Iterator[Finding]:
    conf = os.environ.get("SLURM_CONF", "")
    if conf and not os.path.exists(conf):  # each command would look for it for a minute
        advice = "correct SLURM_CONF, or unset it where Slurm's own place is right"
        yield Finding(WRONG, f"SLURM_CONF={conf}: there is no such file", advice)
        return
    try:
        yield from _answers()
    except ConfigError as error:
        advice = "is there a slurm.conf here (/etc/slurm, or SLURM_CONF), and does munged run?"
        yield Finding(WRONG, str(error), advice)


def _answers() -> Iterator[Finding]:
    version = cluster.call("sbatch", "--version", timeout_s=_PING_S).strip()
    yield Finding(OK, f"{version}: {', '.join(_COMMANDS)}")
    begin = time.monotonic()
    said = cluster.call("scontrol", "ping", timeout_s=_PING_S, check=False)
    took = f"{(time.monotonic() - begin) * 1000:.0f} ms"
    lines = [line for line in said.splitlines() if line.startswith("Slurmctld")]
    if not lines:
        cluster.call("scontrol", "ping", timeout_s=_PING_S)  # refuses, and says why
    down = [line for line in lines if not line.rstrip().endswith("UP")]
    state = OK if not down else NOTE if len(down) < len(lines) else WRONG
    advice = "there: systemctl status slurmctld munge; the clocks must agree, too" if down else ""
    yield Finding(state, f"{'; '.join(lines)} ({took})", advice)


def _look(seen: list[Seen]) -> Iterator[Finding]:
    """Ask the controller; what is found by that is at most an error."""
    seen.append(doctor_nodes.look())
    yield from ()
