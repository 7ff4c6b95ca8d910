"""`marl doctor --slurm`: the presets against what nodes have, and what sbatch says of them."""

from __future__ import annotations

import math
import os
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from experiments import _rundir
from experiments.commands.doctor import NOTE, OK, WRONG, Finding, checked
from experiments.tracking.spool import FROZEN
from marlcore.config_errors import ConfigError
from slurm import cluster, resources
from slurm.doctor_nodes import Seen
from slurm.resources import Resources


def check_gpus(seen: Seen) -> Iterator[Finding]:
    """Which GPUs the nodes have."""
    counts = Counter(_said(_gpus(one)) for one in seen.nodes)
    told = [f"{said} on {n} node{'s' * (n > 1)}" for said, n in counts.items()]
    yield Finding(OK, f"GPUs: {'; '.join(told) or 'no nodes'}")


def check_presets(seen: Seen) -> Iterator[Finding]:
    """Whether each preset would run."""
    for name in resources.names():
        yield from checked(partial(_preset, name, seen))


def _preset(name: str, seen: Seen) -> Iterator[Finding]:
    path = resources.PRESETS / f"{name}.yaml"
    try:
        wanted = resources.load(name, {})
    except ConfigError as error:
        yield Finding(WRONG, f"preset {name}: {error}", f"correct {path}")
        return
    lacks, changes = misfit(wanted, seen)
    try:
        said = _ask(wanted)
    except ConfigError as error:
        advice = f"in {path}: {', '.join(changes)}"
        if not changes:
            advice = f"give {path} what this cluster asks for (partition, account, qos); sinfo and "
            advice += "`sacctmgr show assoc user=$USER` list them"
        why = f"; it asks for {', and '.join(lacks)}" if lacks else ""
        yield Finding(NOTE, f"preset {name}: {error}{why}", advice)
        return
    if lacks:  # sbatch takes a time over the limit of a partition
        what = f"preset {name}: sbatch takes it, but it would not start; it asks for "
        yield Finding(NOTE, what + ", and ".join(lacks), f"in {path}: {', '.join(changes)}")
        return
    yield Finding(OK, f"preset {name}: sbatch takes it{said}")


def _ask(wanted: Resources) -> str:
    """When and where sbatch would run it."""
    try:
        from slurm.script import batch_script
    except ImportError as error:
        raise ConfigError(f"batch scripts need submitit ({error}); run: make setup") from None
    runs = _rundir.runs_dir().resolve()
    frozen = runs / FROZEN
    python = frozen / "environment-doctor" / "bin" / Path(sys.executable).name
    text = batch_script(
        [runs / "doctor"], code=frozen / "code-doctor", python=python, resources=wanted
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "submission.sh"
        path.write_text(text, encoding="utf-8")
        said = cluster.test_only(path)
    found = re.search(r"to start at .*", said)
    return f", {found[0]}" if found else ""


def misfit(wanted: Resources, seen: Seen) -> tuple[list[str], list[str]]:
    """What is asked for that no node has, and what to write instead."""
    if not seen.nodes:  # it is not shown which there are
        return [], []
    partition = _partition(wanted, seen)
    nodes = seen.nodes_of(partition) if partition else seen.nodes
    if not nodes:
        known = ", ".join(one["PartitionName"] for one in seen.partitions)
        return [f"partition {partition}, which has no nodes"], [f"partition: one of {known}"]
    lacks, changes, num_gpus = _misfit_of_gpus(wanted, nodes)
    if wanted.nodes > len(nodes):
        lacks.append(f"{wanted.nodes} nodes of {len(nodes)}")
        changes.append(f"nodes: {len(nodes)}")
    cpus = max(_number(one, "CPUEfctv") or _number(one, "CPUTot") for one in nodes)
    asked = wanted.cpus_per_task * wanted.num_tasks_per_node
    if 0 < cpus < asked:
        tasks = wanted.tasks_per_node or num_gpus or 1
        lacks.append(f"{asked} CPUs of a node (at most: {cpus})")
        changes.append(f"cpus_per_task: {max(1, cpus // tasks)}")
    memory = max(_number(one, "RealMemory") for one in nodes)
    if wanted.memory_gib and 0 < memory < wanted.memory_gib * 1024:
        gib = math.floor(memory / 1024 * 10) / 10
        lacks.append(f"{wanted.memory_gib:g} GiB of a node (at most: {gib:g})")
        changes.append(f"memory_gib: {gib:g}")
    limits = [
        one.get("MaxTime", "") for one in seen.partitions if one["PartitionName"] == partition
    ]
    for limit in limits:
        if re.match(r"[\d:-]+$", limit) and _seconds(limit) < wanted.time_s:
            lacks.append(f"{wanted.time} (partition {partition} allows {limit})")
            changes.append(f"time: {limit}")
    return lacks, changes


def _misfit_of_gpus(
    wanted: Resources, nodes: Sequence[Mapping[str, str]]
) -> tuple[list[str], list[str], int]:
    """The same of GPUs alone; and how many a node can give."""
    have = [_gpus(one) for one in nodes]
    kind, count = wanted.gpu_type, wanted.gpus_per_node
    best = max(have, key=lambda gpus: gpus[kind] if kind else gpus.total())
    if (best[kind] if kind else best.total()) >= count:
        return [], [], count
    there = max(have, key=lambda gpus: gpus.total())
    types = [name for name, _ in there.most_common() if name]
    changes: list[str] = []
    if kind and kind not in best:
        changes.append(f"gpu_type: {types[0] if types else 'null'}")
        num = there[types[0]] if types else there.total()
    else:
        num = best[kind] if kind else best.total()
    if num < count:
        changes.append(f"gpus_per_node: {num}")
    what = f"{count} {f'{kind} ' if kind else ''}GPUs of a node (the most there is: {_said(there)})"
    return [what], changes, min(num, count)


def _partition(wanted: Resources, seen: Seen) -> str | None:
    """Where a job would wait; sbatch's environment comes before its script."""
    default = [one["PartitionName"] for one in seen.partitions if one.get("Default") == "YES"]
    return os.environ.get("SBATCH_PARTITION") or wanted.partition or (default or [None])[0]


def _gpus(node: Mapping[str, str]) -> Counter[str]:
    """How many GPUs of each type a node has; those without a type under ''."""
    found: Counter[str] = Counter()
    for kind, count in re.findall(r"(?:^|,)gpu:(?:([^:,()]+):)?(\d+)", node.get("Gres", "")):
        found[kind] += int(count)
    return found


def _said(gpus: Counter[str]) -> str:
    """As slurm.conf has it."""
    parts = [f"gpu:{kind}:{count}" if kind else f"gpu:{count}" for kind, count in gpus.items()]
    return ",".join(parts) or "no GPU"


def _number(node: Mapping[str, str], key: str) -> int:
    text = node.get(key, "")
    return int(text) if text.isdecimal() else 0


def _seconds(limit: str) -> int:
    """Of a time limit as scontrol shows it."""
    return Resources.model_construct(time=limit).time_s
