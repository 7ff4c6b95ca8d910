"""The files of a cluster of two nodes on one machine."""

from __future__ import annotations

import os
from pathlib import Path

NODES = {"n1": "127.0.1.1", "n2": "127.0.1.2"}
HOSTS = "127.0.0.1 localhost\n" + "".join(f"{address} {n}\n" for n, address in NODES.items())


def slurm_conf(root: Path, ports: dict[str, int], changes: dict[str, str]) -> str:
    """slurm.conf; a value of None in `changes` would be a mistake, an empty one drops the key."""
    values = {
        "ClusterName": "two",
        "SlurmctldHost": "localhost",
        "SlurmctldPort": str(ports["slurmctld"]),
        # A job's processes meet at a port that follows from its id: clusters side by side, one for
        # each of pytest's workers, have other ids.
        "FirstJobId": str(1 + 1000 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])),
        "SlurmUser": "root",
        "SlurmdUser": "root",
        "AuthType": "auth/munge",
        # A requeued job may start after cred_expire, which is two minutes unless it is set.
        "AuthInfo": f"socket={root}/munge.socket,cred_expire=6",
        "MpiDefault": "none",
        "StateSaveLocation": f"{root}/state",
        "SlurmdSpoolDir": f"{root}/spool.%n",
        "SlurmctldPidFile": f"{root}/run/slurmctld.pid",
        "SlurmdPidFile": f"{root}/run/slurmd.%n.pid",
        "SlurmctldLogFile": f"{root}/log/slurmctld",
        "SlurmdLogFile": f"{root}/log/slurmd.%n",
        "ProctrackType": "proctrack/linuxproc",
        "TaskPlugin": "task/none",
        "JobAcctGatherType": "jobacct_gather/none",
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_Core",
        "GresTypes": "gpu",
        "ReturnToService": "2",
        "SlurmdTimeout": "15",
        "KillWait": "5",
        "JobRequeue": "1",
        "SchedulerParameters": "sched_interval=2,bf_interval=2,sched_min_interval=0",
        "PreemptType": "preempt/partition_prio",
        "PreemptMode": "REQUEUE",
        "SlurmctldParameters": "preempt_send_user_signal",
        "DependencyParameters": "kill_invalid_depend",
        "SlurmdParameters": "config_overrides",
        "AccountingStorageType": "accounting_storage/slurmdbd",
        "AccountingStorageHost": "localhost",
        "AccountingStoragePass": f"{root}/munge.socket",  # not a password: where munged listens
        "AccountingStoragePort": str(ports["slurmdbd"]),
        **changes,
    }
    lines = [f"{name}={value}" for name, value in values.items() if value]
    for name in NODES:
        lines.append(
            f"NodeName={name} NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[name]} "
            "CPUs=4 CoresPerSocket=4 RealMemory=4000 Gres=gpu:2 State=UNKNOWN"
        )
    for partition in (
        "main Default=YES PriorityTier=10 PreemptMode=OFF",
        "low PriorityTier=1 PreemptMode=REQUEUE GraceTime=15",
        "high PriorityTier=100 PreemptMode=OFF",
    ):
        lines.append(f"PartitionName={partition} Nodes=ALL")
    return "\n".join(lines) + "\n"


def slurmdbd_conf(root: Path, ports: dict[str, int], password: str) -> str:
    """slurmdbd.conf; the program refuses it unless it has mode 600."""
    values = {
        "AuthType": "auth/munge",
        "AuthInfo": f"socket={root}/munge.socket",
        "DbdHost": "localhost",
        "DbdPort": str(ports["slurmdbd"]),
        "SlurmUser": "root",
        "LogFile": f"{root}/log/slurmdbd",
        "PidFile": f"{root}/run/slurmdbd.pid",
        "StorageType": "accounting_storage/mysql",
        "StorageHost": "127.0.0.1",
        "StoragePort": str(ports["mariadbd"]),
        "StorageUser": "slurm",
        "StoragePass": password,
        "StorageLoc": "slurm",
    }
    return "".join(f"{name}={value}\n" for name, value in values.items())
