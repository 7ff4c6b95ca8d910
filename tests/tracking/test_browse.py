"""`marl browse` as a user calls it, on a real ACPPO run, in a real browser."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from experiments.tracking import server
from tests.tracking.faults import ROOT, Run

pytestmark = pytest.mark.slow


def read_link(browse: subprocess.Popen[str]) -> str:
    assert browse.stdout is not None
    for line in browse.stdout:
        found = re.search(r"http://127\.0\.0\.1:\d+/\?token=\S+", line)
        if found:
            return found[0]
    raise AssertionError(f"no link; exit code {browse.wait()}")


def test_a_real_run_is_browsed(
    tmp_path: Path,
    browser: Any,
    omniboard_cache: Path,
    screenshot: Callable[[Any, str], None],
) -> None:
    if server.find_mongod() is None:
        pytest.skip("there is no mongod")
    run = Run(tmp_path, "training.total_timesteps=16000")
    assert run.process.wait(120) == 0, run.output()
    command = [sys.executable, "-m", "experiments.cli", "browse", "--no-open"]
    browse = subprocess.Popen(
        command, env=run.environment, cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        link = read_link(browse)
        context = browser.new_context(viewport={"width": 1500, "height": 950})
        tab = context.new_page()
        tab.set_default_timeout(30_000)
        tab.goto(link)
        tab.wait_for_selector("text=1 experiments")
        assert tab.locator('.public_fixedDataTableCell_main:has-text("COMPLETED")').count() == 1
        screenshot(tab, "browse_table")
        tab.click("[test-attr=cell-row_expander-0]")
        tab.wait_for_selector(".js-plotly-plot .legend")
        names = tab.evaluate(
            "document.querySelector('.js-plotly-plot').data.map(line => line.name)"
        )
        assert {"rollout/return_mean", "update/entropy"} <= set(names)
        screenshot(tab, "browse_metrics")
        for section, text in (
            ("Captured Out", "env steps"),
            ("Config", "algorithm"),
            ("Artifacts", "evaluation.json"),
            ("Source Files", "experiments/_experiment.py"),
            ("Host Info", "hostname"),
        ):
            tab.click(f'#sidebar >> text="{section}"')
            tab.wait_for_selector(f".tab-content >> text={text} >> nth=0")
        tab.click('#sidebar >> text="Source Files"')
        tab.click("text=experiments/_experiment.py >> nth=0")
        tab.wait_for_selector("text=command line to a finished run")
        screenshot(tab, "browse_sources")
        context.close()
    finally:
        browse.terminate()  # SIGINT is ignored where tests run in the background
        assert browse.stdout is not None
        browse.stdout.close()
        code = browse.wait(60)
    assert code == 0
    assert not server.status(tmp_path).running, "what was started is stopped again"


def test_a_server_that_was_up_before_stays_up(tmp_path: Path, omniboard_cache: Path) -> None:
    if server.find_mongod() is None:
        pytest.skip("there is no mongod")
    server.start(tmp_path)
    try:
        run = Run(tmp_path)
        run.wait_for_records(2)
        run.stop()
        command = [sys.executable, "-m", "experiments.cli", "browse", "--no-open", "--read-only"]
        browse = subprocess.Popen(
            command, env=run.environment, cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        read_link(browse)
        began = time.monotonic()
        browse.terminate()
        assert browse.wait(60) == 0
        assert time.monotonic() - began < 20
        assert browse.stdout is not None
        browse.stdout.close()
        assert server.status(tmp_path).running
    finally:
        server.stop(tmp_path)
