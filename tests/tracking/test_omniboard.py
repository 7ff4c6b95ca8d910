"""Omniboard on a real database in a real browser: what the page shows of our records."""

from __future__ import annotations

import time
import webbrowser
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pymongo
import pytest

from experiments.tracking import omniboard, server


@pytest.fixture
def tab(browser: Any, page: omniboard.Page) -> Iterator[Any]:
    """The page in a fresh browser, entered by its link."""
    yield from _tab(browser, page)


def _tab(browser: Any, page: omniboard.Page) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1500, "height": 950})
    tab = context.new_page()
    tab.set_default_timeout(20_000)
    tab.goto(page.url)
    tab.wait_for_selector("[test-attr=cell-row_expander-2]")
    yield tab
    context.close()


def open_run_1(tab: Any) -> None:
    tab.click("[test-attr=cell-row_expander-2]")  # the newest is on top
    tab.wait_for_selector(".js-plotly-plot .legend")


def show(tab: Any, name: str, text: str) -> None:
    tab.click(f'#sidebar >> text="{name}"')
    tab.wait_for_selector(f".tab-content >> text={text}")


def curves(tab: Any) -> dict[str, list[float | None]]:
    """What was handed to plotly."""
    return dict(
        tab.evaluate(
            "document.querySelector('.js-plotly-plot').data.map(line => [line.name, line.y])"
        )
    )


def test_the_page_lists_the_runs(tab: Any, screenshot: Callable[[Any, str], None]) -> None:
    tab.wait_for_selector("text=3 experiments")
    for status in ("COMPLETED", "PREEMPTED", "FAILED"):
        assert tab.locator(f'.public_fixedDataTableCell_main:has-text("{status}")').count() == 1
    dot = tab.locator(".circle.preempted").first
    assert dot.evaluate("dot => getComputedStyle(dot).backgroundColor") == "rgb(155, 89, 182)"
    choices = tab.locator("select[multiple]").first.inner_html()
    assert all(status in choices for status in ("preempted", "pruned", "timeout"))
    screenshot(tab, "omniboard_table")


def test_a_nan_is_a_gap_and_the_line_goes_on(
    tab: Any, screenshot: Callable[[Any, str], None]
) -> None:
    open_run_1(tab)
    lines = curves(tab)
    expected = [None, 1, 2, None, 4]
    assert lines["rollout/return_mean"] == expected
    assert lines["rollout/return_mean.unsmoothed"] == expected
    assert lines["update/policy_loss/agent_1"] == [0.5, 0.4, 0.3, 0.2, 0.1]
    screenshot(tab, "omniboard_metrics")


def test_smoothing_leaves_gaps_and_averages_the_rest(tab: Any) -> None:
    open_run_1(tab)
    tab.fill(".smoothing-input input, input.smoothing-input", "0.5")
    tab.wait_for_function(
        "document.querySelector('.js-plotly-plot').data.some(line => line.y[2] === 1.5)"
    )
    # 1, (1 + 2) / 2, (1.5 + 4) / 2
    assert curves(tab)["rollout/return_mean"] == [None, 1, 1.5, None, 2.75]


def test_a_run_shows_its_output_config_sources_and_artifacts(
    tab: Any, screenshot: Callable[[Any, str], None]
) -> None:
    open_run_1(tab)
    show(tab, "Captured Out", "the output of run 1")
    show(tab, "Config", "seed")
    tab.click(".node-ellipsis >> nth=0")
    tab.wait_for_selector("text=clip_epsilon")
    screenshot(tab, "omniboard_config")
    show(tab, "Artifacts", "empty.txt")
    tab.click("text=note.txt >> nth=0")
    tab.wait_for_selector("text=the note of this run")
    screenshot(tab, "omniboard_artifacts")
    show(tab, "Source Files", "experiments/mappo.py")
    tab.click("text=experiments/mappo.py >> nth=0")
    tab.wait_for_selector("text=42")
    screenshot(tab, "omniboard_sources")
    show(tab, "Host Info", "node17")
    show(tab, "Experiment Details", "mainfile")


def test_tags_and_notes_are_written_to_the_run(sacred_runs: server.Server, tab: Any) -> None:
    tab.click("text=a comment >> nth=0")
    tab.wait_for_selector("textarea")
    tab.fill("textarea", "seen")
    tab.click(".glyphicon-ok >> visible=true >> nth=-1")
    with pymongo.MongoClient(sacred_runs.uri()) as client:
        deadline = time.monotonic() + 10
        while client.sacred.runs.count_documents({"omniboard.notes": "seen"}) != 1:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_a_page_that_only_reads_shows_a_run_all_the_same(
    browser: Any, read_only_page: omniboard.Page, screenshot: Callable[[Any, str], None]
) -> None:
    for tab in _tab(browser, read_only_page):
        open_run_1(tab)
        assert len(curves(tab)) == 4
        screenshot(tab, "omniboard_read_only")


def test_the_private_file_leads_the_browser_in(
    browser: Any, page: omniboard.Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    class Browser:
        def open(self, url: str) -> bool:
            opened.append(url)
            return True

    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(webbrowser, "get", Browser)
    assert omniboard.open_in_browser(page)
    path = Path(opened[0].removeprefix("file://"))
    assert page.password not in opened[0]
    assert path.stat().st_mode & 0o777 == 0o600
    context = browser.new_context()
    tab = context.new_page()
    tab.goto(opened[0])
    tab.wait_for_selector("text=3 experiments", timeout=20_000)
    assert page.password not in tab.url
    context.close()


def test_without_a_display_no_browser_is_opened(
    page: omniboard.Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert not omniboard.open_in_browser(page)
