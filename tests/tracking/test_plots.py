"""Pictures: what stands in them, that they need nothing else, and that no text becomes markup."""

from __future__ import annotations

import re
import struct
from html import unescape
from pathlib import Path

import pytest

from experiments.tracking.compare import Comparison, Estimate, Group, Member, Pair
from experiments.tracking.plots import write_html, write_png
from marlcore.config_errors import ConfigError

pytest.importorskip("matplotlib")
pytest.importorskip("plotly")

NASTY = "_</script><b>$x_1$</b>&\"'"
FOREIGN = "l\u00e4uft \u4e2d\u6587 \U0001f600"


def member(run: str, seed: int | None, steps: tuple[int, ...] = (0, 500, 1000)) -> Member:
    values = tuple(0.1 * i for i in range(len(steps)))
    return Member(run, "acppo", seed, "COMPLETED", 0.2, steps, values)


def group(label: str, *members: Member) -> Group:
    first = members[0]
    several = len(members) > 1
    band = (tuple(v - 0.05 for v in first.values), tuple(v + 0.05 for v in first.values))
    low, high = band if several else (None, None)
    score = Estimate(0.2, 0.15, 0.25) if several else Estimate(0.2, None, None)
    seeds = len({m.seed for m in members})
    return Group(label, {}, members, seeds, score, first.steps, first.values, low, high)


def comparison(*groups: Group, warnings: tuple[str, ...] = ()) -> Comparison:
    pairs = tuple(Pair(groups[0].label, g.label, Estimate(0.75, 0.5, 1.0)) for g in groups[1:])
    meaning = "undiscounted team return of the episodes that ended, mean"
    return Comparison("rollout/return_mean", meaning, groups, pairs, warnings, seed=3)


TWO = comparison(
    group("acppo", member("run-a0", 0), member("run-a1", 1)),
    group("mappo", member("run-m7", 7)),
    warnings=("run-a1 ended early",),
)


def html(result: Comparison, tmp_path: Path) -> str:
    write_html(result, tmp_path / "c.html")
    return (tmp_path / "c.html").read_text(encoding="utf-8")


def text_of(page: str) -> str:
    """What a reader sees outside the chart."""
    page = re.sub(r"<script.*?</script>|<style.*?</style>", "", page, flags=re.DOTALL)
    return " ".join(unescape(re.sub("<[^>]*>", " ", page)).split())


def test_the_page_says_all_that_was_compared(tmp_path: Path) -> None:
    text = text_of(html(TWO, tmp_path))
    for part in (
        "rollout/return_mean of 3 runs",
        "undiscounted team return of the episodes that ended, mean",
        "acppo 0.2 [0.15, 0.25] 2 seeds run-a0 (seed 0, 0.2, 1,000 steps, COMPLETED)",
        "mappo 0.2 (one seed: no interval) 1 seed run-m7 (seed 7,",
        "acppo above mappo 0.75 [0.5, 1]",
        "run-a1 ended early",
        "95% bootstrap intervals (2,000 resamples, seed 3)",
    ):
        assert part in text


def test_pointing_at_a_run_shows_its_id_and_seed(tmp_path: Path) -> None:
    page = html(TWO, tmp_path)
    chart = page[page.rindex("<script") :].encode().decode("unicode_escape")
    assert "<b>run-a1</b>, seed 1<br>acppo" in chart
    assert "acppo (2 seeds)" in chart and "mappo (1 seed)" in chart


def test_the_page_needs_no_other_file(tmp_path: Path) -> None:
    page = html(TWO, tmp_path)
    assert "plotly.js v" in page
    tags = re.findall(r"<(?:script|link|img|iframe)\b[^>]*>", re.sub(r"(?s)/\*.*?\*/", "", page))
    assert not [tag for tag in tags if re.search(r"\b(?:src|href)=[\"']?(?:https?:)?//", tag)]
    assert '"showSendToCloud": false' in page  # no button that uploads the chart


def test_many_warnings_are_folded(tmp_path: Path) -> None:
    many = tuple(f"warning {i}" for i in range(4))
    page = html(comparison(*TWO.groups, warnings=many), tmp_path)
    assert "<details><summary>4 warnings</summary>" in page and "warning 3" in page
    assert "<details>" not in html(TWO, tmp_path)


def test_the_same_comparison_is_the_same_page(tmp_path: Path) -> None:
    assert html(TWO, tmp_path) == html(TWO, tmp_path)


def test_no_text_of_a_user_becomes_markup(tmp_path: Path) -> None:
    nasty = group(NASTY, member(NASTY, None), member("b", 1))
    page = html(comparison(nasty, group("mappo", member("c", 0)), warnings=(NASTY,)), tmp_path)
    assert NASTY not in page
    assert "</script><b>" not in page
    assert text_of(page).count(NASTY) == 4  # warning, group, run, pair


def test_foreign_letters_and_broken_ones_are_written(tmp_path: Path) -> None:
    odd = comparison(group(FOREIGN, member(FOREIGN, 0)), group("b\ud800", member("x\ud800", 1)))
    assert FOREIGN in html(odd, tmp_path)
    write_png([comparison(group(FOREIGN, member(FOREIGN, 0)))], tmp_path / "c.png")


def png_size(path: Path) -> tuple[int, int]:
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n") and data.endswith(b"IEND\xaeB`\x82")
    return struct.unpack(">II", data[16:24])  # type: ignore[return-value]


def test_a_picture_is_large_enough_for_a_page(tmp_path: Path) -> None:
    write_png([TWO], tmp_path / "c.png")
    width, height = png_size(tmp_path / "c.png")
    assert width >= 1200 and height >= 700


@pytest.mark.parametrize(
    "result",
    [
        comparison(group("one", member("a", None))),
        comparison(group("point", member("a", 0, (500,)), member("b", 1, (500,)))),
        comparison(Group("none", {}, (member("a", 0),), 1, Estimate(1, 0, 2), (), (), (), ())),
        comparison(group(NASTY, member("a", 0)), group("x" * 500, member("b", 0))),
        comparison(*(group(f"g{i}", member(f"r{i}", i)) for i in range(30))),
    ],
    ids=["one seed", "one point", "no curve", "odd labels", "thirty groups"],
)
def test_odd_comparisons_are_drawn(result: Comparison, tmp_path: Path) -> None:
    write_png([result], tmp_path / "c.png")
    write_html(result, tmp_path / "c.html")
    assert png_size(tmp_path / "c.png")[0] > 0


def test_a_file_that_exists_is_replaced_and_a_bad_place_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.png"
    path.write_text("old")
    write_png([TWO], path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert list(tmp_path.iterdir()) == [path]
    for write in (lambda one, path: write_png([one], path), write_html):
        with pytest.raises(ConfigError, match="there is no directory"):
            write(TWO, tmp_path / "no" / "c.png")
        with pytest.raises(ConfigError, match="is no file"):
            write(TWO, Path("/dev/null"))
