"""Which process this is, by what torchrun, srun or nobody says; and how all find each other."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from marlcore import distributed
from marlcore.config import DistributedConfig
from marlcore.rendezvous import Place, RendezvousError, place

ROOT = Path(__file__).resolve().parents[1]
TORCHRUN = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "n1",
    "MASTER_PORT": "29500",
}
SRUN = {
    "SLURM_JOB_ID": "12345",
    "SLURM_PROCID": "3",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
    "SLURM_NTASKS": "4",
}


def without(values: dict[str, str], *names: str) -> dict[str, str]:
    return {name: value for name, value in values.items() if name not in names}


def test_a_process_without_launcher_is_alone() -> None:
    assert place({}) == Place(0, 1, 0, 1, "", "", 0)


def test_torchruns_variables_are_read() -> None:
    assert place(TORCHRUN) == Place(3, 4, 1, 2, "torchrun", "n1", 29500)


def test_a_step_of_slurm_is_read_and_finds_its_own_address() -> None:
    found = place(SRUN)
    assert (found.rank, found.world_size, found.local_rank, found.local_size) == (3, 4, 1, 2)
    assert (found.launcher, found.address) == ("slurm", "gpu07")
    assert found.port == place({**SRUN, "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}).port
    assert found.port != place({**SRUN, "SLURM_JOB_ID": "12346"}).port


def test_an_address_that_is_set_comes_before_slurms_own() -> None:
    found = place({**SRUN, "MASTER_ADDR": "n9", "MASTER_PORT": "4242"})
    assert (found.address, found.port) == ("n9", 4242)


def test_torchrun_inside_a_step_of_slurm_counts() -> None:
    assert place({**SRUN, **TORCHRUN}).launcher == "torchrun"


@pytest.mark.parametrize(
    "values",
    [
        without(SRUN, "SLURM_STEP_NUM_TASKS"),  # a batch script: SLURM_NTASKS is of the allocation
        {**SRUN, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"},
    ],
)
def test_what_is_no_step_of_several_is_alone(values: dict[str, str]) -> None:
    assert place(values) == Place()


@pytest.mark.parametrize(
    ("hosts", "first"),
    [
        ("n1", "n1"),
        ("n1,n2", "n1"),
        ("n[1-2]", "n1"),
        ("gpu[012-014,7],login", "gpu012"),
        ("a[3,5]-ib", "a3-ib"),
        ("rack2-n[10-11]", "rack2-n10"),
    ],
)
def test_the_first_host_of_a_list(hosts: str, first: str) -> None:
    assert place({**SRUN, "SLURM_STEP_NODELIST": hosts}).address == first


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (without(TORCHRUN, "MASTER_ADDR"), "this is one of 4 processes, and MASTER_ADDR does not"),
        (without(TORCHRUN, "MASTER_PORT"), "MASTER_ADDR=n1 is set, and MASTER_PORT is not"),
        (without(TORCHRUN, "RANK", "LOCAL_RANK"), "RANK is not set"),
        (without(TORCHRUN, "WORLD_SIZE"), "WORLD_SIZE is not set"),
        ({**TORCHRUN, "RANK": "4"}, "RANK=4 is refused with WORLD_SIZE=4"),
        ({**TORCHRUN, "RANK": "x"}, "RANK is 'x'; it must be a number"),
        ({**TORCHRUN, "MASTER_PORT": "http"}, "MASTER_PORT is 'http'"),
        (without(SRUN, "SLURM_PROCID"), "SLURM_PROCID is not set"),
    ],
)
def test_what_makes_no_sense_is_refused(values: dict[str, str], message: str) -> None:
    with pytest.raises(RendezvousError, match=message):
        place(values)


def test_settings_are_variables_of_gloo_and_nccl() -> None:
    assert distributed.settings(DistributedConfig()) == {}
    config = DistributedConfig(infiniband=False, p2p=True, nccl_debug="INFO", socket_interface="e0")
    assert distributed.settings(config) == {
        "NCCL_IB_DISABLE": "1",
        "NCCL_P2P_DISABLE": "0",
        "NCCL_DEBUG": "INFO",
        "NCCL_SOCKET_IFNAME": "e0",
        "GLOO_SOCKET_IFNAME": "e0",
    }


JOIN = """
import sys, torch
from marlcore import distributed
try:
    with distributed.process_group(torch.device("cpu"), connect_timeout_s=float(sys.argv[1])):
        print("from", distributed.from_main(distributed.rank()))
except ValueError as error:
    print(error)
"""


def free_port() -> str:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return str(server.getsockname()[1])


def join(timeout_s: float, **values: str) -> subprocess.Popen[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "MASTER_"))}
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    return subprocess.Popen(
        [sys.executable, "-c", JOIN, str(timeout_s)],
        env={**kept, **common, **values},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )


def said(process: subprocess.Popen[str]) -> str:
    return process.communicate(timeout=120)[0]


def test_processes_find_each_other_and_hear_the_first() -> None:
    port = free_port()
    both = [join(60, RANK=rank, MASTER_PORT=port) for rank in ("1", "0")]
    assert [said(process) for process in both] == ["from 0\n", "from 0\n"]


def test_who_does_not_find_the_others_says_so_in_time() -> None:
    began = time.monotonic()
    first, second = join(3, RANK="0"), join(3, RANK="1")  # at ports of their own
    unknown = join(60, RANK="1", MASTER_ADDR="no-such-host.invalid")
    assert "process 1 of 2 did not come" in said(first)
    assert "cannot reach the first process at 127.0.0.1:" in said(second)
    assert "the name no-such-host.invalid of the first process's host is not known" in said(unknown)
    assert time.monotonic() - began < 60


def test_a_port_that_is_taken_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"cannot listen on port {port}" in said(join(5, RANK="0", MASTER_PORT=str(port)))


def test_a_network_interface_that_is_not_there_is_named() -> None:
    port = free_port()
    values = {"MASTER_PORT": port, "GLOO_SOCKET_IFNAME": "none0"}
    both = [join(5, RANK=rank, **values) for rank in ("0", "1")]
    first, second = (said(process) for process in both)
    assert "gloo does not connect them" in first and "none0" in first, first
    assert "gloo does not connect them" in second, second
