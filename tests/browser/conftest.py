"""A server over runs, and a page in a real browser."""

from __future__ import annotations

import os
import shutil
import subprocess
import time

import pytest

from browsers import CHROMIUM, end, served, start
from surgecollapse.events import Alarm, Intervention, LayerChange
from surgecollapse.lab.config import make_config
from surgecollapse.record import RunStore


@pytest.fixture(autouse=True)
def kept(tmp_path, monkeypatch):
    """Tokens of this test lie in its own folder."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def live(tmp_path):
    root = tmp_path / "runs"
    root.mkdir()
    run = root / "<b>run"
    trainer = start("run", "digits", "--steps", 100000, "--out", run, stderr=subprocess.DEVNULL,
                    env={**os.environ, "OMP_NUM_THREADS": "1"})  # fmt: skip
    try:
        until = time.monotonic() + 240  # on a busy machine, imports alone take a minute
        while not (run / "run.db").exists():
            assert trainer.poll() is None
            assert time.monotonic() < until
            time.sleep(0.1)
        yield run
    finally:
        end(trainer)


@pytest.fixture(scope="session")
def browser():
    """One browser for all tests."""
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install 'surgecollapse[test]'")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser):
    """A page with nothing kept from other tests; errors of its scripts fail the test."""
    faults = []
    context = browser.new_context(viewport={"width": 1300, "height": 1000})
    page = context.new_page()
    page.on("pageerror", lambda error: faults.append(str(error)))
    yield page
    context.close()
    assert not faults


@pytest.fixture
def written(tmp_path):
    """A run that says it is live, with a long series, sharpness with its threshold, costs and an alarm."""
    folder = tmp_path / "runs" / "written"
    folder.mkdir(parents=True)
    with RunStore(folder / "run.db", mode="w") as store:
        store.set("status", "running")
        store.set("costs", {"multiplications": {"w": 100}, "rows": 10, "window": 0})
        for step in range(20_000):
            store.measure(step, "loss/train", 1.0 + (step % 7) / 10)
        for step in range(0, 20_000, 1000):
            store.measure(step, "curvature/sharpness", step / 20_000)
            store.measure(step, "curvature/threshold", 0.9)
        half = LayerChange(name="w", size=10, live=5, energy_before=1.0, energy_after=1.0)
        store.record(Intervention(step=10_000, kind="collapse", phase="sparse", reason="because", sparsity_before=0.0,
                                  sparsity_after=0.5, layers=(half,)))  # fmt: skip
        store.record(Alarm(step=15_000, detector="change", reason="<i>rank</i> fell", forecast="does not generalize"))
        store.flush()
        yield store


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A folder of four real runs: two seeds, plain and pruned."""
    from surgecollapse.lab.training.run import train

    root = tmp_path_factory.mktemp("trained") / "runs"
    for policy in ("no_op", "gmp"):
        for seed in (0, 1):
            config = make_config(task="digits", policy=policy, seed=seed, steps=120, widths=(16, 16), every=10,
                                 evaluate_every=4, sparsity=0.8, split_seed=0)  # fmt: skip
            train(config, root / f"{policy}-s{seed}")
    return root


@pytest.fixture
def folder(trained, tmp_path):
    """A copy of the real runs that a test may change."""
    return shutil.copytree(trained, tmp_path / "runs")


@pytest.fixture
def open_page(page):
    """Opens the page of a folder of runs, and ends its server after the test."""
    servers = []

    def open_(root, where=""):
        server, address = served(root)
        servers.append(server)
        page.goto(address)
        if where:
            page.evaluate("where => { location.hash = where }", where)
        return address

    yield open_
    for server in servers:
        end(server)
