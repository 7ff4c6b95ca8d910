"""Presets: read strictly, changed by the command line, refused with the way out."""

from __future__ import annotations

from pathlib import Path

import pytest

from marlcore.config_errors import ConfigError
from slurm import resources
from slurm.resources import Resources


@pytest.mark.parametrize("name", resources.names())
def test_every_preset_can_be_read(name: str) -> None:
    assert resources.load(name, {}).time_s >= 3600


def test_the_command_line_comes_before_the_preset(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("partition: a\nnodes: 2\ntime: 24:00:00\nsbatch: {exclusive: true, nice: 5}\n")
    found = resources.load(str(path), {"nodes": 4, "sbatch": {"nice": "7"}})
    assert (found.partition, found.nodes, found.time) == ("a", 4, "24:00:00")
    assert found.sbatch == {"exclusive": True, "nice": "7"}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 5400),
        ("5", 300),
        ("90:30", 5430),
        ("24:00:00", 86_400),
        ("2-0", 172_800),
        ("2-12:30", 217_800),
        ("1-00:00:01", 86_401),
    ],
)
def test_time_limits_are_read_as_slurm_reads_them(text: str, seconds: int) -> None:
    assert Resources(time=text).time_s == seconds


def test_a_process_a_gpu_unless_told_otherwise() -> None:
    assert Resources(gpus_per_node=8).num_tasks_per_node == 8
    assert Resources().num_tasks_per_node == 1
    assert Resources(gpus_per_node=8, tasks_per_node=2).num_tasks_per_node == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("partitio: a", "partitio: no such key; did you mean partition?"),
        ("nodes: two", "nodes: 'two' is refused"),
        ("nodes: 0", "nodes: 0 is refused"),
        ("time: 24h", "time: '24h' is refused"),
        ("time: 2\nsignal_delay_s: 90", "more than half of time=2"),
        ("sbatch: {array: 3}", "sbatch: array is set by --seeds"),
        ("sbatch: {--nice: 3}", "no long option"),
        ("environment: {A B: 1}", "'A B' is no name of a variable"),
        ("- a\n- b", "does not hold keys and values"),
        ("a: [", "is no YAML"),
        ("time: 2026-11-26", "put such values in quotes"),
        ("!!python/object/apply:os.system ['true']", "is no YAML"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        resources.load(str(path), {})
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_an_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean h100x8"):
        resources.load("h100x9", {})
    with pytest.raises(ConfigError, match="your own is a file that ends in"):
        resources.load("zzz", {})


def test_an_empty_preset_is_all_defaults(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("# nothing\n")
    assert resources.load(str(tmp_path / "mine.yaml"), {}) == Resources()
