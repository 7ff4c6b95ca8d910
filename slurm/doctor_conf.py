"""`marl doctor --slurm`: what the controller's configuration means for jobs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

from experiments.commands.doctor import NOTE, OK, WRONG, Finding
from marlcore.config_errors import ConfigError
from slurm import cluster
from slurm.doctor_nodes import Seen

_RULES: tuple[tuple[str, Callable[[int], bool], str, str], ...] = (
    (
        "JobRequeue",
        lambda value: value == 1,
        "the default of jobs without --requeue; ours have it",
        "JobRequeue=1 in slurm.conf, for jobs of others",
    ),
    (
        "KillWait",
        lambda value: value >= 30,
        "from SIGTERM to SIGKILL at the time limit, after GraceTime, and by scancel",
        "KillWait=30 in slurm.conf; marl jobs cancel, unlike scancel, lets a run save first",
    ),
    (
        "MinJobAge",
        lambda value: value >= 60,
        "so long squeue shows a job after its end",
        "MinJobAge=300 in slurm.conf",
    ),
    (
        "SlurmdTimeout",
        lambda value: 0 < value <= 600,
        "a node that is silent for so long is lost, and its jobs are queued again (0: never)",
        "SlurmdTimeout=300 in slurm.conf",
    ),
    (
        "ReturnToService",
        lambda value: value >= 1,
        "whether a lost node that is back takes jobs again by itself",
        "ReturnToService=1 in slurm.conf; until then: scontrol update NodeName=NAME State=RESUME",
    ),
)


def check_accounting(seen: Seen) -> Iterator[Finding]:
    """Whether somebody knows how jobs ended."""
    kind = seen.settings.get("AccountingStorageType")
    if kind is None:
        return
    if kind in ("", "(null)") or kind.endswith("/none"):
        age = seen.settings.get("MinJobAge", "MinJobAge")
        yield Finding(
            NOTE,
            f"no accounting (AccountingStorageType={kind}): {age} after a job has ended nobody "
            "knows how it did",
            "AccountingStorageType=accounting_storage/slurmdbd in slurm.conf, and a slurmdbd",
        )
        return
    try:
        cluster.call("sacct", "--noheader", "--allocations", "--starttime=now")
    except ConfigError as error:
        advice = "systemctl status slurmdbd on AccountingStorageHost; until it answers nobody knows"
        yield Finding(WRONG, f"accounting ({kind}): {error}", f"{advice} how ended jobs ended")
        return
    yield Finding(OK, f"accounting ({kind}): sacct answers")


def check_settings(seen: Seen) -> Iterator[Finding]:
    """What happens to jobs that are queued again, killed or lost."""
    for name, is_fine, meaning, advice in _RULES:
        value = seen.settings.get(name, "")
        number = re.match(r"\d+", value)
        if number:
            fine = is_fine(int(number[0]))
            what = f"{name}={value.replace(' sec', ' s')}: {meaning}"
            yield Finding(OK if fine else NOTE, what, "" if fine else advice)
    info = seen.settings.get("AuthInfo")
    if info is not None:
        found = re.search(r"cred_expire=(\d+)", info)
        wait = int(found[1]) if found else 120
        others = [part for part in info.split(",") if part and part[0] != "("]
        parts = [part for part in others if not part.startswith("cred_expire")]
        yield Finding(
            OK if wait <= 30 else NOTE,
            f"cred_expire={wait} s (AuthInfo): a job that is queued again waits at least so long",
            "" if wait <= 30 else f"AuthInfo={','.join([*parts, 'cred_expire=30'])} in slurm.conf",
        )
    wanted = "kill_invalid_depend"
    if wanted not in seen.settings.get("DependencyParameters", wanted):
        what = "a job that waits for a failed one (--after) waits for ever"
        yield Finding(NOTE, what, f"DependencyParameters={wanted} in slurm.conf")


def check_preemption(seen: Seen) -> Iterator[Finding]:
    """Whether a job may have to make room, and is told before."""
    kind = seen.settings.get("PreemptType", "").removeprefix("preempt/")
    if kind in ("", "none", "(null)"):
        yield Finding(OK, "no job is preempted (PreemptType)")
        return
    yield Finding(OK, f"PreemptType={kind}, PreemptMode={seen.settings.get('PreemptMode', '?')}")
    parameters = seen.settings.get("SlurmctldParameters")
    wanted = "preempt_send_user_signal"
    if parameters is not None and wanted in parameters:
        yield Finding(OK, f"{wanted}: a preempted job gets its warning signal, and saves")
    elif parameters is not None:
        had = "" if parameters in ("", "(null)") else f"{parameters},"
        yield Finding(
            NOTE,
            f"no {wanted}: a preempted job gets SIGTERM when GraceTime begins instead of its "
            "warning signal; it saves and goes on all the same",
            f"SlurmctldParameters={had}{wanted} in slurm.conf",
        )
    if kind == "qos":
        yield from _qualities()


def _qualities() -> Iterator[Finding]:
    words = ("sacctmgr", "--noheader", "--parsable2", "show", "qos")
    said = cluster.call(*words, "format=Name,Preempt,GraceTime,PreemptMode").splitlines()
    rows = [(line.split("|") + [""] * 3)[:4] for line in said]
    victims = {name for row in rows for name in row[1].split(",")}
    for name, _, grace, mode in rows:
        if name in victims:
            fine = grace.strip("0:") != ""
            advice = "" if fine else f"sacctmgr modify qos {name} set GraceTime=120"
            what = f"QOS {name} can be preempted ({mode}), GraceTime={grace or 'none'}"
            yield Finding(OK if fine else NOTE, what, advice)


def check_partitions(seen: Seen) -> Iterator[Finding]:
    """Limits of each partition, and what a preempted job of it has."""
    for one in seen.partitions:
        yield _partition(one, seen)
    if all(one.get("Default", "YES") != "YES" for one in seen.partitions):
        yield Finding(NOTE, "no partition is the default", "give jobs --partition NAME")


def _partition(one: Mapping[str, str], seen: Seen) -> Finding:
    name, state = one["PartitionName"], one.get("State", "UP")
    default = " (default)" if one.get("Default") == "YES" else ""
    told = [state]
    told += [f"{key}={one[key]}" for key in ("TotalNodes", "MaxTime", "DefaultTime") if key in one]
    advice: list[str] = []
    if state != "UP":
        told.append("its jobs do not start")
        advice.append(f"scontrol update PartitionName={name} State=UP")
    mode, by = one.get("PreemptMode", ""), _preempted_by(one, seen)
    if by:
        grace = int(one.get("GraceTime", "0")) if one.get("GraceTime", "0").isdecimal() else 0
        told.append(f"preempted by jobs of {', '.join(by)} ({mode}), GraceTime={grace} s")
        if "SUSPEND" in mode:
            told.append("a preempted job is stopped without a signal, and keeps its memory")
        elif grace == 0:
            wait = seen.settings.get("KillWait", "KillWait").replace(" sec", " s")
            told.append(f"so a job has {wait} (KillWait) to save before it is killed")
            advice.append(f"PartitionName={name} ... GraceTime=120 in slurm.conf")
        if "CANCEL" in mode:
            told.append("a preempted job is not queued again (marl jobs resume does that)")
        if "REQUEUE" not in mode:
            advice.append(f"PartitionName={name} ... PreemptMode=REQUEUE in slurm.conf")
    what = f"partition {name}{default}: {', '.join(told)}"
    return Finding(NOTE if advice else OK, what, "; ".join(advice))


def _preempted_by(one: Mapping[str, str], seen: Seen) -> list[str]:
    """Partitions whose jobs take nodes from this one's."""
    by_tier = seen.settings.get("PreemptType") == "preempt/partition_prio"
    if not by_tier or one.get("PreemptMode", "OFF") == "OFF":
        return []
    nodes = seen.nodes_of(one["PartitionName"])
    near = {name for node in nodes for name in node.get("Partitions", "").split(",")}
    higher = [p for p in seen.partitions if _tier(p) > _tier(one)]
    return [p["PartitionName"] for p in higher if p["PartitionName"] in near]


def _tier(one: Mapping[str, str]) -> int:
    text = one.get("PriorityTier", "1")
    return int(text) if text.isdecimal() else 1
