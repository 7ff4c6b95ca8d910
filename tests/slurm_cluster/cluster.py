"""Brings the cluster up and down.

Every node is a slurmd in namespaces of its own: mounts (its /etc/hosts), host name, processes. A
node that is killed takes all its processes with it, as if power was lost. All daemons die with
this process, whatever kills it (PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.slurm_cluster.settings import HOSTS, NODES, slurm_conf, slurmdbd_conf

PACKAGES = "slurm-wlm slurm-client slurmctld slurmd munge slurmdbd mariadb-server"
_PROGRAMS = (
    *("sbatch", "srun", "squeue", "scontrol", "sacct", "sacctmgr", "slurmctld", "slurmd"),
    *("slurmdbd", "munged", "mariadbd", "mariadb", "mariadb-install-db", "unshare"),
)
_SEARCHED = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


def why_not() -> str | None:
    """Why no cluster can be brought up here; None if it can."""
    if os.geteuid() != 0:
        return "a Slurm needs root"
    missing = [name for name in _PROGRAMS if shutil.which(name, path=_SEARCHED) is None]
    if missing:
        install = f"apt-get install -y --no-install-recommends {PACKAGES}"
        return f"a Slurm needs {', '.join(missing)}: {install}"
    tried = subprocess.run(
        ["unshare", "--mount", "--uts", "--pid", "--fork", "--mount-proc", "hostname", "n1"],
        capture_output=True,
        text=True,
    )
    return f"namespaces are not allowed: {tried.stderr.strip()}" if tried.returncode else None


class Cluster:
    """A running cluster; made by `running_cluster`."""

    def __init__(self, changes: dict[str, str]) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="slurm-"))
        self.ports = {n: _free_port() for n in ("slurmctld", "slurmdbd", "mariadbd", *NODES)}
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "SBATCH"))}
        self.environment = {**kept, "PATH": _SEARCHED, "SLURM_CONF": str(self.root / "slurm.conf")}
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        self._has_accounting = changes.get("AccountingStorageType") in (
            None,
            "accounting_storage/slurmdbd",
        )
        self._password = secrets.token_hex(12)
        self._write_files(changes)

    def run(
        self, *words: str, check: bool = True, timeout_s: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        """A command as a user of the cluster gives it."""
        done = subprocess.run(
            words, env=self.environment, capture_output=True, text=True, timeout=timeout_s
        )
        assert not check or done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done

    def state(self, job_id: str) -> str:
        """What became of a job; an empty text if nobody knows it."""
        found = self.run("squeue", "-h", "-o", "%T", "-j", job_id, check=False).stdout.split()
        if found:
            return found[0]
        words = ("sacct", "-n", "-X", "-P", "-o", "State", "-j", job_id)
        return (self.run(*words, check=False).stdout.split() or [""])[0]

    def wait(self, job_id: str, *states: str, timeout_s: float = 120.0) -> str:
        """Wait until a job is in one of these states."""
        deadline = time.monotonic() + timeout_s
        while (state := self.state(job_id)) not in states:
            if time.monotonic() > deadline:
                job = self.run("scontrol", "show", "job", job_id, check=False).stdout
                log = "\n".join(self.log("slurmctld").splitlines()[-20:])
                raise AssertionError(f"job {job_id} is {state}, not {states}\n{job}\n{log}")
            time.sleep(0.5)
        return state

    def log(self, name: str) -> str:
        """What slurmctld, slurmdbd or slurmd.n1 logged."""
        path = self.root / "log" / name
        return path.read_text(errors="replace") if path.exists() else ""

    def kill_node(self, name: str) -> None:
        """Everything that runs on a node is gone, as if power was lost."""
        self._end(name, signal.SIGKILL)

    def start_node(self, name: str) -> None:
        """A node begins."""
        inner = (
            f"mount --bind {self.root}/hosts /etc/hosts && hostname {name} && "
            f"exec slurmd -D -N {name}"
        )
        spaces = ("--mount", "--uts", "--pid", "--fork", "--mount-proc", "--kill-child=SIGKILL")
        self._start(name, "unshare", *spaces, "sh", "-c", inner)

    def stop_controller(self) -> None:
        """slurmctld is killed."""
        self._end("slurmctld", signal.SIGKILL)

    def start_controller(self) -> None:
        """slurmctld begins, or goes on where it was killed."""
        self._start("slurmctld", "slurmctld", "-D")

    def start(self) -> None:
        """Bring everything up, in order."""
        socket_path = self.root / "munge.socket"
        munge = ("--key-file", "--pid-file", "--log-file", "--seed-file")
        files = [f"{option}={self.root}/munge/{option[2:-5]}" for option in munge]
        self._start("munged", "munged", "-F", "--force", f"--socket={socket_path}", *files)
        self._until(socket_path.exists, "munged")
        if self._has_accounting:
            self._start_accounting()
        self.start_controller()
        for name in NODES:
            self.start_node(name)
        self._until(self._is_idle, "the nodes")

    def stop(self) -> None:
        """Take everything down; nothing is left."""
        for name in (*NODES, "slurmctld", "slurmdbd"):
            self._end(name, signal.SIGKILL)
        for name in ("mariadbd", "munged"):
            self._end(name, signal.SIGTERM)
        shutil.rmtree(self.root, ignore_errors=True)

    def _start_accounting(self) -> None:
        data, own = self.root / "db", f"{self.root}/db.socket"
        install = ("mariadb-install-db", "--no-defaults", "--user=root", f"--datadir={data}")
        self.run(*install, "--auth-root-authentication-method=normal", "--skip-test-db")
        self._start(
            "mariadbd",
            *("mariadbd", "--no-defaults", "--user=root", f"--datadir={data}", f"--socket={own}"),
            *("--bind-address=127.0.0.1", f"--port={self.ports['mariadbd']}", "--skip-log-bin"),
            *("--innodb-flush-log-at-trx-commit=0", "--innodb-lock-wait-timeout=900"),
            f"--pid-file={self.root}/run/mariadbd.pid",
        )
        client = ("mariadb", "--no-defaults", f"--socket={own}", "--user=root", "-e")
        self._until(lambda: self.run(*client, "select 1", check=False).returncode == 0, "mariadbd")
        user = f"slurm@127.0.0.1 identified by '{self._password}'"
        self.run(*client, f"create database slurm; grant all on slurm.* to {user}")
        self._start("slurmdbd", "slurmdbd", "-D")
        words = ("sacctmgr", "-i", "add", "cluster", "two")
        self._until(lambda: self.run(*words, check=False).returncode == 0, "slurmdbd")

    def _is_idle(self) -> bool:
        done = self.run("sinfo", "-h", "-N", "-p", "main", "-o", "%T", check=False)
        return done.stdout.split() == ["idle"] * len(NODES)

    def _write_files(self, changes: dict[str, str]) -> None:
        folders = ("run", "log", "state", "dev", "munge", "db", *(f"spool.{n}" for n in NODES))
        for name in folders:
            (self.root / name).mkdir(mode=0o700)
        self.root.chmod(0o755)
        for number in range(2):  # a count without files leaves a node drained
            device = self.root / "dev" / f"gpu{number}"
            os.mknod(device, 0o666 | 0o020000, os.makedev(1, 3))
        gres = f"NodeName=n[1-2] Name=gpu File={self.root}/dev/gpu[0-1]\n"
        key = self.root / "munge" / "key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o400)
        (self.root / "hosts").write_text(HOSTS)
        (self.root / "gres.conf").write_text(gres)
        (self.root / "slurm.conf").write_text(slurm_conf(self.root, self.ports, changes))
        path = self.root / "slurmdbd.conf"
        path.touch(mode=0o600)
        path.write_text(slurmdbd_conf(self.root, self.ports, self._password))

    def _start(self, name: str, *words: str) -> None:
        with open(self.root / "log" / f"{name}.out", "ab") as output:
            self._daemons[name] = subprocess.Popen(
                words,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.root,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )

    def _end(self, name: str, number: signal.Signals) -> None:
        daemon = self._daemons.pop(name, None)
        if daemon is None:
            return
        daemon.send_signal(number)
        try:
            daemon.wait(20)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()

    def _until(self, is_so: object, what: str, timeout_s: float = 60.0) -> None:
        assert callable(is_so)
        deadline = time.monotonic() + timeout_s
        while not is_so():
            if time.monotonic() > deadline:
                logs = sorted((self.root / "log").iterdir())
                tails = "\n".join(f"{p.name}: {p.read_text(errors='replace')[-800:]}" for p in logs)
                raise AssertionError(f"{what} did not come up\n{tails}")
            time.sleep(0.1)


@contextlib.contextmanager
def running_cluster(**changes: str) -> Iterator[Cluster]:
    """A cluster whose slurm.conf has these values instead of its own."""
    cluster = Cluster(changes)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
