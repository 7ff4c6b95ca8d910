"""Where a run came from: commit, changes to it, packages, command, machine, allocation."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from experiments.tracking.redaction import redact, redact_known
from experiments.tracking.store import Store

ROOT = Path(__file__).resolve().parents[2]
LOCK = "requirements.lock"
ORIGIN = "origin.json"
"""In a copy of the code that was made for a job: what `git` said of the repository then."""

ENVIRONMENT = (
    *("CUDA_VISIBLE_DEVICES", "CUBLAS_WORKSPACE_CONFIG", "PYTHONHASHSEED"),
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENBLAS_CORETYPE"),
    *("MUJOCO_GL", "PYOPENGL_PLATFORM", "MARL_RUNS_DIR"),
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
    *("NCCL_DEBUG", "NCCL_IB_DISABLE", "NCCL_P2P_DISABLE", "NCCL_SOCKET_IFNAME"),
    *("SLURM_JOB_ID", "SLURM_JOB_NAME", "SLURM_JOB_PARTITION", "SLURM_JOB_NODELIST"),
    *("SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_NNODES", "SLURM_NTASKS"),
    *("SLURM_RESTART_COUNT", "SLURM_CLUSTER_NAME", "SLURM_CPUS_ON_NODE", "SLURM_GPUS_ON_NODE"),
)
"""Environment variables that are recorded; all others are nobody's business."""

_SOURCES = {".py", ".toml", ".yaml", ".yml", ".json", ".cfg", ".ini", ".sh", ".txt", ".lock", ".js"}
_LARGEST = 1_000_000
"""Bytes of an untracked file that is kept; larger ones are named only."""


def collect(config: Mapping[str, Any], argv: Sequence[str], store: Store) -> dict[str, Any]:
    """All of it, as plain data; contents go to `store`."""
    return {
        "config_hash": config_hash(config),
        "seed": config.get("seed"),
        "argv": [redact(word) for word in argv],
        "git": git(ROOT, store),
        "lock": _lock(store),
        "packages": packages(),
        "machine": machine(),
        "environment": {
            name: redact(os.environ[name]) for name in ENVIRONMENT if name in os.environ
        },
    }


def config_hash(config: Mapping[str, Any]) -> str:
    """The sha256 of a resolved configuration, in canonical JSON."""
    text = json.dumps(config, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def git(root: Path, store: Store) -> dict[str, Any] | None:
    """Commit, diff of tracked files and untracked sources; None outside a repository."""
    if (root / ORIGIN).is_file():
        found: dict[str, Any] | None = json.loads((root / ORIGIN).read_text(encoding="utf-8"))
        return found
    commit = _git(root, "rev-parse", "HEAD")
    top = _git(root, "rev-parse", "--show-toplevel")
    if commit is None or top is None or Path(top.decode().strip()) != root:
        return None
    plain = ("--no-ext-diff", "--no-textconv", "--no-color", "--src-prefix=a/", "--dst-prefix=b/")
    diff = _git(root, "diff", "HEAD", "--binary", *plain)
    listed = _git(root, "ls-files", "--others", "--exclude-standard", "-z")
    is_known = diff is not None and listed is not None  # git may be slow, or the index locked
    diff, listed = diff or b"", listed or b""
    kept = redacted_code(diff)
    names = [os.fsdecode(name) for name in listed.split(b"\0") if name]
    untracked, left_out, with_secret = _untracked(root, names, store)
    branch = _git(root, "rev-parse", "--abbrev-ref", "HEAD") or b""
    return {
        "commit": commit.decode().strip(),
        "branch": branch.decode(errors="replace").strip(),
        "dirty": bool(diff or untracked or left_out),
        "changes_are_known": is_known,
        "diff": store.put(kept) if diff else None,
        "diff_is_redacted": kept != diff,
        "untracked": untracked,
        "untracked_left_out": left_out,
        "untracked_is_redacted": with_secret,
    }


def _untracked(
    root: Path, names: Sequence[str], store: Store
) -> tuple[dict[str, str], list[str], bool]:
    """(Name -> sha256 of sources, names of what is left out, whether a source held a secret)."""
    kept: dict[str, str] = {}
    left_out: list[str] = []
    with_secret = False
    for name in names:
        path = root / name
        try:
            is_source = path.suffix in _SOURCES and not path.name.startswith(".")
            if not is_source or path.is_symlink() or path.stat().st_size > _LARGEST:
                left_out.append(redact(name))
                continue
            content = path.read_bytes()
            kept[redact(name)] = store.put(redacted_code(content))
            with_secret |= redacted_code(content) != content
        except OSError:
            left_out.append(redact(name))
    return kept, left_out[:100], with_secret


def redacted_code(content: bytes) -> bytes:
    """Code without the secrets that are known."""
    text = content.decode("utf-8", "surrogateescape")
    return redact_known(text).encode("utf-8", "surrogateescape")


def _git(root: Path, *words: str) -> bytes | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *words], capture_output=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _lock(store: Store) -> str | None:
    path = ROOT / LOCK
    if not path.is_file():
        return None
    return store.put(redact(path.read_text(encoding="utf-8")).encode())  # an index has a password


def packages() -> dict[str, str]:
    """Installed distributions and their versions, without what setuptools carries along."""
    places = [place for place in sys.path if "_vendor" not in place]
    found: dict[str, str] = {}
    for distribution in metadata.distributions(path=places):
        found.setdefault(distribution.metadata["Name"] or "?", distribution.version)
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def machine() -> dict[str, Any]:
    """Host, processor, memory, GPUs with their driver and CUDA."""
    return {
        "hostname": platform.node(),
        "platform": platform.platform(),
        "python": sys.version.split()[0],
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        **_gpus(),
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((x.partition(":")[2].strip() for x in lines if x.startswith("model name")), "")


def _gpus() -> dict[str, Any]:
    import torch

    if not torch.cuda.is_available():
        return {"gpus": [], "cuda": None, "driver": None}
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    try:
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        answer = subprocess.run(
            query, capture_output=True, text=True, timeout=20, check=True
        ).stdout
        driver: str | None = answer.splitlines()[0].strip()
    except (OSError, subprocess.SubprocessError, IndexError):
        driver = None
    return {"gpus": names, "cuda": torch.version.cuda, "driver": driver}
