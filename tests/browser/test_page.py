"""The page in a real browser, over a real training run in another process."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from surgecollapse.record import CommandQueue, RunStore

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install 'surgecollapse[test]'")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium, then the browser tests run"),
    pytest.mark.xdist_group("browser"),
]


def start(*words, **options):
    return subprocess.Popen([sys.executable, "-m", "surgecollapse.cli", *map(str, words)], **options)


def served(root, port=0):
    server = start("watch", root, "--port", port, stdout=subprocess.PIPE, text=True)
    return server, server.stdout.readline().strip()


def end(process):
    process.send_signal(signal.SIGINT)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


@pytest.fixture
def live(tmp_path):
    root = tmp_path / "runs"
    root.mkdir()
    run = root / "<b>run"
    trainer = start("run", "digits", "--steps", 100000, "--out", run, stderr=subprocess.DEVNULL,
                    env={**os.environ, "OMP_NUM_THREADS": "1"})  # fmt: skip
    try:
        until = time.monotonic() + 60
        while not (run / "run.db").exists():
            assert trainer.poll() is None
            assert time.monotonic() < until
            time.sleep(0.1)
        yield run
    finally:
        end(trainer)


def test_a_click_reaches_the_masks_and_the_page_moves_and_asks_for_nothing_outside(live):
    server, address = served(live.parent)
    asked, faults = [], []
    try:
        with playwright.sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            page = browser.new_page()
            page.on("request", lambda request: asked.append(request.url))
            page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
            page.on("pageerror", lambda error: faults.append(str(error)))
            page.goto(address)
            page.get_by_role("button", name="<b>run", exact=True).click(timeout=20_000)
            page.wait_for_selector(".chart canvas", timeout=20_000)
            step = "document.querySelector('#strip div:nth-child(3) b').textContent"
            first = page.evaluate(step)
            until = time.monotonic() + 15
            while page.evaluate(step) == first:
                assert time.monotonic() < until, "the page stands still"
                time.sleep(0.1)
            form = page.locator("form[data-kind=collapse]")
            form.locator("[name=fraction]").fill("0.5")
            form.locator("button").click()
            page.wait_for_selector("#asked .applied", timeout=10_000)
            page.wait_for_selector("#events .applied", timeout=10_000)
            assert not faults
            assert {url.split("/")[2] for url in asked} == {address.split("/")[2]}
            assert address.split("#")[1] not in page.url
            browser.close()
    finally:
        end(server)
    (command,) = CommandQueue(live / "run.db").all()
    with RunStore(live / "run.db") as store:
        done = [event for event in store.interventions() if "asked by a person" in event.reason]
    assert (command.status, len(done)) == ("applied", 1)
    before = sum(change.size for change in done[0].layers) * (1 - done[0].sparsity_before)
    assert done[0].pruned == pytest.approx(before / 2, abs=len(done[0].layers) + 1)
