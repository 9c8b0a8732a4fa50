"""Trackers that follow a run while it trains, each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from surgecollapse.trackers.registry import check_tracker

PATIENCE = 120.0
"""Seconds for which a run that has ended waits for its exporters."""
AFTER_FAILURE = 2.0
"""Seconds for which a run that failed does: its record may never say that it ended."""
_NICE = 5
_late: list[subprocess.Popen[bytes]] = []
"""Exporters that go on by themselves."""


@contextmanager
def exporting(run: Path, trackers: Sequence[str], tell: Callable[[str], None]) -> Iterator[None]:
    """Have a run followed for the length of a block, in which it trains.

    Each exporter is another process with a lower priority, which reads the run's file through a connection that cannot
    write. If it fails or is slow, training knows nothing of it; what it says lies in ``export-NAME.log`` in the run. At
    the end of the block exporters may finish for :data:`PATIENCE` seconds, all together. After an error in it they may
    do so for :data:`AFTER_FAILURE`; they go on by themselves after that.

    Args:
        run: run directory, whose record is there already.
        trackers: names, see :data:`~surgecollapse.trackers.registry.TRACKERS`.
        tell: is given lines for the person.

    Raises:
        ConfigError: if a name is unknown.
    """
    for name in trackers:
        check_tracker(name)
    started = {name: _start(run, name) for name in dict.fromkeys(trackers)}
    patience = AFTER_FAILURE
    try:
        yield
        patience = PATIENCE
    finally:
        end = time.monotonic() + patience
        for name, process in started.items():
            tell(_outcome(run, name, process, end))


def log_of(run: Path, name: str) -> Path:
    """Where an exporter's words are."""
    return run / f"export-{name}.log"


def _start(run: Path, name: str) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "surgecollapse", "report", str(run), "--to", name, "--follow"]
    priority = ["nice", "-n", str(_NICE)] if os.name == "posix" else []
    with log_of(run, name).open("wb") as log:
        # A session of its own: Ctrl-C is for the run, whose end the exporter then sees.
        return subprocess.Popen(
            [*priority, *words], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip


def _outcome(run: Path, name: str, process: subprocess.Popen[bytes], end: float) -> str:
    try:
        code = process.wait(max(0.0, end - time.monotonic()))
    except subprocess.TimeoutExpired:
        _late.append(process)
        return f"{name}: still writing, see {log_of(run, name)}"
    said = log_of(run, name).read_text(encoding="utf-8", errors="replace").splitlines()
    last = said[-1] if said else f"exit code {code}"
    return f"{name}: {last}" if code == 0 else f"{name}: failed ({last}); later: surgecollapse report {run} --to {name}"
