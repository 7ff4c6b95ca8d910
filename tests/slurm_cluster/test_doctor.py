"""`marl doctor --slurm`: on real clusters, well and badly set up; and on machines without one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from experiments import cli
from experiments.commands import doctor as machine
from experiments.tracking import mongo
from slurm import doctor_conf, doctor_nodes, doctor_presets, doctor_runs, resources
from slurm.doctor_nodes import Seen
from tests.slurm_cluster.cluster import Cluster, running_cluster, why_not

ROOT = Path(__file__).resolve().parents[2]
H100 = {"NodeName": "a", "NodeAddr": "192.0.2.7", "State": "MIXED+PLANNED", "Partitions": "p,q"}
H100 |= {"Gres": "gpu:h100:8(S:0-1),shard:h100:32(S:0-1)", "CPUTot": "192", "RealMemory": "2000000"}
SMALL = {"NodeName": "b", "NodeAddr": "127.0.0.1", "State": "DOWN*", "Partitions": "q"}
SMALL |= {"Reason": "no power [root@2026-01-02T03:04:05]", "Gres": "gpu:2080ti:4", "CPUTot": "32"}

Doctor = Callable[..., tuple[int, list[dict[str, str]]]]


@pytest.fixture
def doctor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Doctor:
    for name in ("MARL_MONGO_URI", "MARL_MONGO_URI_FILE", "SBATCH_PARTITION", "SLURM_CONF"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MARL_RUNS_DIR", str(tmp_path / "runs"))

    def call(environment: Mapping[str, str] | None = None) -> tuple[int, list[dict[str, str]]]:
        for name in ("PATH", "SLURM_CONF") if environment else ():
            monkeypatch.setenv(name, environment[name])
        code = cli.main(["doctor", "--slurm", "--json"])
        return code, json.loads(capsys.readouterr().out)

    return call


def one(findings: list[dict[str, str]], text: str) -> dict[str, str]:
    (found,) = [f for f in findings if text in f["what"]]
    return found


def states(findings: list[dict[str, str]], *texts: str) -> set[str]:
    return {one(findings, text)["state"] for text in texts}


@pytest.mark.slurm
def test_a_good_cluster(
    cluster: Cluster, doctor: Doctor, capsys: pytest.CaptureFixture[str]
) -> None:
    code, found = doctor(cluster.environment)
    assert code == 0, found
    expected = (
        *("sbatch, srun, squeue", "is UP", "sacct answers", "JobRequeue=1", "MinJobAge=300 s"),
        *("SlurmdTimeout=15 s", "ReturnToService=2", "cred_expire=6", "PreemptType=partition_prio"),
        *(
            "preempt_send_user_signal",
            "partition main (default): UP, TotalNodes=2",
            "partition high",
        ),
        *("preempted by jobs of main, high (REQUEUE), GraceTime=15 s", "2 of 2 nodes are up"),
        *("GPUs: gpu:2 on 2 nodes", "GiB free", "all nodes are this machine", "locks on files"),
        *("no MongoDB: jobs record",),
    )
    assert states(found, *expected) == {"ok"}
    assert states(found, "KillWait=5 s", "preset h100x8: sbatch", "preset cpu:") == {"note"}
    assert "8 h100 GPUs of a node (the most there is: gpu:2)" in one(found, "h100x8")["what"]
    assert "gpu_type: null, gpus_per_node: 2, cpus_per_task: 2" in one(found, "h100x8")["advice"]
    assert all(f["advice"] for f in found if f["state"] != "ok")
    assert cli.main(["doctor", "--slurm"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "       -> KillWait=30 in slurm.conf; marl jobs cancel" in "\n".join(lines)
    assert [line for line in lines if line.startswith("ok     partition main (default): UP")]


@pytest.fixture(scope="module")
def bad_cluster() -> Iterator[Cluster]:
    if reason := why_not():
        pytest.skip(reason)
    with running_cluster(
        JobRequeue="0",
        AccountingStorageType="accounting_storage/none",
        SlurmctldParameters="",
        DependencyParameters="",
        ReturnToService="0",
        SlurmdTimeout="0",
        MinJobAge="30",
    ) as running:
        yield running


@pytest.mark.slurm
def test_a_bad_cluster(
    bad_cluster: Cluster, doctor: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    presets = tmp_path / "presets"
    presets.mkdir()
    (presets / "fits.yaml").write_text("partition: low\ngpus_per_node: 2\ncpus_per_task: 2\n")
    (presets / "long.yaml").write_text("cpus_per_task: 1\ntime: 2:00:00\n")
    (presets / "lost.yaml").write_text("partition: none\n")
    (presets / "wrong.yaml").write_text("cpus: 1\n")
    monkeypatch.setattr(resources, "PRESETS", presets)
    monkeypatch.setattr(doctor_runs, "disk_of", lambda path: ("ext4", ["rw"]))
    monkeypatch.setenv("MARL_MONGO_URI", "mongodb://marl:secret@127.0.0.1:1/runs")
    change = ("scontrol", "update")
    bad_cluster.run(*change, "PartitionName=low", "GraceTime=0")
    bad_cluster.run(*change, "PartitionName=high", "State=DOWN")
    bad_cluster.run(*change, "PartitionName=main", "MaxTime=60")
    bad_cluster.run(*change, "NodeName=n1", "State=DRAIN", "Reason=bad disk")
    bad_cluster.run(*change, "NodeName=n2", "NodeAddr=192.0.2.1")  # another machine
    code, found = doctor(bad_cluster.environment)
    assert code == 1
    notes = {
        "no accounting": "AccountingStorageType=accounting_storage/slurmdbd",
        "JobRequeue=0": "JobRequeue=1",
        "MinJobAge=30 s": "MinJobAge=300",
        "SlurmdTimeout=0 s": "SlurmdTimeout=300",
        "ReturnToService=0": "ReturnToService=1",
        "no preempt_send_user_signal": "SlurmctldParameters=preempt_send_user_signal",
        "(--after) waits for ever": "DependencyParameters=kill_invalid_depend",
        "GraceTime=0 s, so a job has 5 s (KillWait)": "PartitionName=low ... GraceTime=120",
        "partition high: DOWN": "scontrol update PartitionName=high State=UP",
        "n1: IDLE+DRAIN (bad disk)": "scontrol update NodeName=n1 State=RESUME",
        "preset long: sbatch takes it, but it would not start": "time: 01:00:00",
        "preset lost: sbatch --test-only refused": "partition: one of main, low, high",
        "127.0.0.1:1/runs is of this machine": "marl sync",
        "the interpreter": "srun -w n2",
    }
    assert {(one(found, text)["state"], text) for text in notes} == {("note", t) for t in notes}
    for text, advice in notes.items():
        assert advice in one(found, text)["advice"]
    assert states(found, "preset fits: sbatch takes it, to start at", "1 of 2 nodes") == {"ok"}
    assert states(found, "preset wrong", "jobs on n2 do not find their run") == {"WRONG"}
    assert "MARL_RUNS_DIR" in one(found, "do not find their run")["advice"]
    assert "secret" not in json.dumps(found)


@pytest.mark.slurm
def test_a_controller_that_is_down(cluster: Cluster, doctor: Doctor, tmp_path: Path) -> None:
    text = (cluster.root / "slurm.conf").read_text()
    (tmp_path / "slurm.conf").write_text(text.replace("SlurmctldPort=", "SlurmctldPort=1 #"))
    code, found = doctor({**cluster.environment, "SLURM_CONF": str(tmp_path / "slurm.conf")})
    assert (code, states(found, "is DOWN")) == (1, {"WRONG"})
    assert "systemctl status slurmctld" in one(found, "is DOWN")["advice"]
    assert len([f for f in found if f["state"] == "WRONG"]) == 1


@pytest.mark.slurm
def test_a_database_of_accounting_that_is_down(
    cluster: Cluster, doctor: Doctor, tmp_path: Path
) -> None:
    port = f"AccountingStoragePort={cluster.ports['slurmdbd']}"
    text = (cluster.root / "slurm.conf").read_text()
    (tmp_path / "slurm.conf").write_text(text.replace(port, "AccountingStoragePort=1"))
    code, found = doctor({**cluster.environment, "SLURM_CONF": str(tmp_path / "slurm.conf")})
    assert (code, states(found, "sacct refused")) == (1, {"WRONG"})
    assert "slurmdbd" in one(found, "sacct refused")["advice"]


def test_a_machine_without_slurm(doctor: Doctor, tmp_path: Path) -> None:
    code, found = doctor({"PATH": str(tmp_path), "SLURM_CONF": ""})
    assert (code, len(found), found[0]["state"]) == (1, 1, "WRONG")
    assert "sbatch" in found[0]["what"]
    assert "--local N" in found[0]["advice"]


def test_commands_that_do_not_work(
    doctor: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sbatch").write_text("#!/bin/sh\necho 'fatal: no configuration' >&2; exit 1\n")
    (tmp_path / "sbatch").chmod(0o755)
    code, found = doctor({"PATH": f"{tmp_path}:/bin-of-nothing", "SLURM_CONF": ""})
    assert code == 1
    assert states(found, "srun, squeue, scontrol, scancel are not here") == {"WRONG"}
    assert "slurm.conf" in one(found, "fatal: no configuration")["advice"]
    code, found = doctor({"PATH": str(tmp_path), "SLURM_CONF": str(tmp_path / "none")})
    assert (code, states(found, "there is no such file")) == (1, {"WRONG"})


def test_without_the_option_nothing_of_slurm_is_imported() -> None:
    code = (
        "import sys; from experiments import cli; cli.main(['doctor', '--json']); "
        "print(sorted({'slurm', 'submitit'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_what_another_version_leaves_out_is_not_reported() -> None:
    empty = Seen({}, [{"PartitionName": "p"}], [{"NodeName": "localhost"}])
    assert not list(doctor_conf.check_accounting(empty))
    assert not list(doctor_conf.check_settings(empty))
    (partition, *_) = doctor_conf.check_partitions(empty)
    assert (partition.state, "partition p: UP" in partition.what) == ("ok", True)
    assert [f.state for f in doctor_nodes.check_states(empty)] == ["ok"]
    assert [f.state for f in doctor_nodes.check_names(empty)] == ["ok"]
    assert [f.what for f in doctor_presets.check_gpus(empty)] == ["GPUs: no GPU on 1 node"]
    (wait,) = doctor_conf.check_settings(Seen({"AuthInfo": "(null)"}, [], []))
    assert (wait.state, wait.advice) == ("note", "AuthInfo=cred_expire=30 in slurm.conf")


def test_nodes_that_are_not_shown() -> None:
    hidden = Seen({}, [{"PartitionName": "p", "Default": "YES"}], [])
    assert [f.state for f in doctor_nodes.check_states(hidden)] == ["note"]
    assert not list(doctor_nodes.check_names(hidden))
    assert [f.what for f in doctor_presets.check_gpus(hidden)] == ["GPUs: no nodes"]
    assert doctor_presets.misfit(resources.load(None, {}), hidden) == ([], [])


def test_nodes_of_a_large_cluster() -> None:
    seen = Seen({}, [{"PartitionName": "q", "Default": "YES"}], [H100, SMALL])
    assert seen.others == ["a"]
    up, down = doctor_nodes.check_states(seen)
    assert (up.what, down.what) == ("1 of 2 nodes are up", "b: DOWN* (no power)")
    (gpus,) = doctor_presets.check_gpus(seen)
    assert gpus.what == "GPUs: gpu:h100:8 on 1 node; gpu:2080ti:4 on 1 node"
    changes = {"gpu_type": "a100", "gpus_per_node": 4, "nodes": 3, "cpus_per_task": 4}
    lacks, advice = doctor_presets.misfit(resources.load(None, changes), seen)
    assert lacks[0] == "4 a100 GPUs of a node (the most there is: gpu:h100:8)"
    assert advice == ["gpu_type: h100", "nodes: 2"]
    fits = resources.load(None, {"gpu_type": "h100", "gpus_per_node": 8, "cpus_per_task": 12})
    assert doctor_presets.misfit(fits, seen) == ([], [])


def test_names_that_nobody_knows() -> None:
    lost = {"NodeName": "b", "NodeAddr": "b.invalid", "State": "IDLE"}
    off = {"NodeName": "c", "NodeAddr": "c.invalid", "State": "IDLE+CLOUD+POWERED_DOWN"}
    (finding,) = doctor_nodes.check_names(Seen({}, [], [lost, off]))
    assert (finding.state, finding.what) == ("WRONG", "addresses not known here: b.invalid (of b)")


@pytest.mark.parametrize(
    ("kind", "options", "state", "locks"),
    [
        ("nfs4", "rw,local_lock=none", "ok", "ok"),
        ("nfs", "rw,nolock", "ok", "note"),
        ("lustre", "rw,localflock", "ok", "note"),
        ("fuse.beegfs", "rw", "ok", "ok"),
        ("xfs", "rw", "WRONG", "ok"),
        ("fuse.fuse-overlayfs", "rw", "note", "ok"),
        ("9p", "rw", "note", "ok"),
    ],
)
def test_the_disk_of_the_runs(
    kind: str,
    options: str,
    state: str,
    locks: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MARL_RUNS_DIR", str(tmp_path / "not" / "there"))
    monkeypatch.setattr(doctor_runs, "disk_of", lambda path: (kind, options.split(",")))
    found = list(doctor_runs.check_shared(["gpu1", "gpu2"]))
    assert [f.state for f in found] == [state, locks]
    assert all(f.advice for f in found if f.state != "ok")
    exports = tmp_path / "etab"
    exports.write_text(f"# comment\n{tmp_path}\t*(rw,sync)\n")
    monkeypatch.setattr(doctor_runs, "EXPORTS", (str(exports), "/not/there"))
    assert next(iter(doctor_runs.check_shared(["gpu1"]))).state == "ok"


def test_the_mount_of_a_path_is_the_longest_and_last(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor_runs.disk_of(Path("/proc/self"))[0] == "proc"
    mounts = "a / ext4 rw 0 0\nb /x\\040y autofs rw 0 0\nc /x\\040y nfs4 rw,hard 0 0\n"
    monkeypatch.setattr(Path, "read_text", lambda self, **_: mounts)
    assert doctor_runs.disk_of(Path("/x y/runs")) == ("nfs4", ["rw", "hard"])
    assert doctor_runs.disk_of(Path("/x"))[0] == "ext4"


@pytest.mark.parametrize(
    ("uri", "state"),
    [
        ("mongodb://u:p@localhost:27017/a", "note"),
        ("mongodb://127.0.0.1/a", "note"),
        ("mongodb://u:p@db.example.org/a", "ok"),
    ],
)
def test_a_database_on_loopback(
    uri: str, state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MARL_RUNS_DIR", str(tmp_path))
    monkeypatch.setenv("MARL_MONGO_URI", uri)
    assert [f.state for f in doctor_runs.check_database(["gpu1"])] == [state]
    assert [f.state for f in doctor_runs.check_database([])] == ["ok"]
    target = mongo.Target("mongodb://marl:p@host:1", "a", embedded=True)
    monkeypatch.setattr(mongo, "target", lambda runs: target)
    assert [f.state for f in doctor_runs.check_database(["gpu1"])] == ["note"]


def test_packages_are_linked_copied_or_not_frozen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MARL_RUNS_DIR", "/proc/1")  # another disk, with no space
    (tmp_path / "file").write_text("x" * 1000)
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    (copied,) = doctor_runs.check_packages([])
    assert (copied.state, "0.0 GiB are copied once" in copied.what) == ("WRONG", True)
    monkeypatch.setenv("MARL_RUNS_DIR", str(tmp_path / "runs"))
    (linked,) = doctor_runs.check_packages([])
    assert (linked.state, "hard links" in linked.what) == ("ok", True)
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    (bare,) = doctor_runs.check_packages([])
    assert (bare.state, "not frozen" in bare.what) == ("note", True)


def test_qualities_of_service(monkeypatch: pytest.MonkeyPatch) -> None:
    said = "normal||00:00:00|cluster\nhigh|low,cheap|00:00:00|cluster\n"
    said += "low||00:00:00|requeue\ncheap||00:02:00|requeue\n"
    monkeypatch.setattr(doctor_conf.cluster, "call", lambda *words, **_: said)
    settings = {"PreemptType": "preempt/qos", "PreemptMode": "REQUEUE"}
    _, low, cheap = doctor_conf.check_preemption(Seen(settings, [], []))
    assert (low.state, low.advice) == ("note", "sacctmgr modify qos low set GraceTime=120")
    assert (cheap.state, "QOS cheap" in cheap.what) == ("ok", True)


def test_a_check_that_fails_is_a_finding() -> None:
    def check() -> Iterator[machine.Finding]:
        yield machine.Finding("ok", "this")
        raise subprocess.TimeoutExpired("sbatch", 60)

    assert [f.state for f in machine.checked(check)] == ["ok", "WRONG"]
