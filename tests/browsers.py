"""A server over runs in a process of its own, for tests in a real browser."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MARKS = [
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium, then the browser tests run"),
    pytest.mark.xdist_group("browser"),
]


def start(*words, **options):
    return subprocess.Popen([sys.executable, "-m", "surgecollapse", *map(str, words)], **options)


def served(root, port=0, **options):
    server = start("watch", root, "--port", port, stdout=subprocess.PIPE, text=True, **options)
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


def wait_until(holds, what, seconds=20):
    """Asks until it holds. `holds` must call the page: attributes like `page.url` stay as they were meanwhile."""
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, what
        time.sleep(0.1)
