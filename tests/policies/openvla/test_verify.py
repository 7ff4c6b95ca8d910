"""The network against recorded arrays of the reference (tests/golden/openvla)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from marlcore.policies.openvla import checkpoint, tiny, vision
from marlcore.policies.openvla.model import OpenVLA
from marlcore.policies.openvla.shape import FULL_SIZE
from marlcore.policies.openvla.tensors import shapes_of
from marlcore.policies.openvla.verify import Report, main, verify

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "openvla"


@pytest.mark.parametrize(("name", "num_arrays"), [("a56", 344), ("a224", 175)])
def test_every_recorded_array_is_reproduced(name: str, num_arrays: int) -> None:
    report = verify(GOLDEN / name)
    assert not report.failures, "\n".join(report.lines())
    assert len(report.rows) == num_arrays


def test_the_smallest_mistake_is_seen(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """LayerNorm with 1e-5 instead of 1e-6 moves features by 2e-4."""
    monkeypatch.setattr(vision, "_NORM_EPS", 1e-5)
    assert main([str(GOLDEN / "a56")]) == 1
    assert "vision/img0__siglip" in capsys.readouterr().out


def test_a_folder_without_arrays_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path)]) == 2
    assert "has no meta.json" in capsys.readouterr().err
    assert main([]) == 2


def test_another_shape_and_nan_are_errors() -> None:
    report = Report()
    report.compare("shape", torch.zeros(2), torch.zeros(3), 1.0)
    report.compare("nan", torch.tensor(float("nan")), torch.zeros(()), 1.0)
    assert report.failures == ["shape", "nan"]


def test_the_real_model_has_the_published_names_and_shapes() -> None:
    published = json.loads((GOLDEN / "openvla7b_state_dict_shapes.json").read_text())
    with torch.device("meta"):
        model = OpenVLA(FULL_SIZE)
        from marlcore.policies.openvla.heads import ActionHead, ProprioProjector

        head, projector = ActionHead(7, 4096), ProprioProjector(8, 4096)
    assert sum(p.numel() for p in model.parameters()) > 7e9
    own = {**shapes_of(model.state_dict()), **tiny.unused_shapes(FULL_SIZE)}
    assert own == {name: tuple(shape) for name, shape in published["vla"].items()}
    unused = [name for name in published["vla"] if checkpoint.is_unused(name, FULL_SIZE)]
    assert sorted(unused) == sorted(tiny.unused_shapes(FULL_SIZE))
    for module, key in ((head, "action_head"), (projector, "proprio_projector")):
        named = {f"module.{n}": shape for n, shape in shapes_of(module.state_dict()).items()}
        assert named == {n: tuple(shape) for n, shape in published[key].items()}
