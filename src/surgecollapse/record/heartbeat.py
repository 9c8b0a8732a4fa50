"""Whether the process that writes a record lives: it says so in the record every few seconds.

The row lies under the key ``heartbeat`` of ``meta`` and goes when the record is closed. A process that is killed
leaves it behind, with its age.
"""

from __future__ import annotations

import os
import platform
import time
from functools import cache
from pathlib import Path
from typing import Any

BEAT_SECONDS = 5.0
"""Between two heartbeats."""
STALE_SECONDS = 30.0
"""Age from which on the writer counts as dead."""
SET_BEAT = "INSERT OR REPLACE INTO meta VALUES ('heartbeat', ?)"
"""Takes the JSON of :func:`beat`."""
DROP_BEAT = "DELETE FROM meta WHERE key = 'heartbeat'"


def beat() -> dict[str, Any]:
    """What a process says of itself: when, and which one it is, where."""
    return {"time": time.time(), "pid": os.getpid(), "place": _place()}


def gone(said: Any, stale: float = STALE_SECONDS) -> str | None:
    """Why no process takes commands any more; ``None`` if one may.

    Args:
        said: what stands under ``heartbeat``; anything but the table of :func:`beat` tells nothing.
        stale: age from which on a worker is taken to be gone.

    >>> gone({"time": time.time(), "pid": os.getpid(), "place": _place()}) is None, gone(None)
    (True, None)
    """
    if (read := _read(said)) is None:
        return None
    when, pid, place = read
    if place == _place() and not _runs(pid):
        return f"its process {pid} was killed: go on with --resume"
    age = time.time() - when
    if age > stale:
        return f"its process {pid} has not been heard of for {age:.0f} s: it was killed, or its machine is away"
    return None


def is_here(said: Any) -> bool:
    """Whether a heartbeat is of this machine, since it was started last.

    >>> is_here(beat()), is_here({"time": 0.0, "pid": 1, "place": "another machine"}), is_here(None)
    (True, False, False)
    """
    read = _read(said)
    return read is not None and read[2] == _place()


def other_process(said: Any) -> int | None:
    """Another process that writes the record now, by its heartbeat; ``None`` where none can be told.

    >>> other_process(beat()), other_process({"time": "now", "pid": 1})
    (None, None)
    """
    read = _read(said)
    if read is None or read[1:] == (os.getpid(), _place()) or gone(said) is not None:
        return None
    return read[1] if abs(time.time() - read[0]) <= STALE_SECONDS else None


def _read(said: Any) -> tuple[float, int, Any] | None:
    """Time, process id and place of a heartbeat; ``None`` of anything else."""
    if not isinstance(said, dict):
        return None
    when, pid = said.get("time"), said.get("pid")
    if not isinstance(when, int | float) or not isinstance(pid, int) or bool in (type(when), type(pid)):
        return None
    if not 0 < pid < 2**31:
        return None
    return when, pid, said.get("place")


def pid_of(said: Any) -> int | None:
    """The process that a heartbeat names."""
    pid = said.get("pid") if isinstance(said, dict) else None
    return pid if isinstance(pid, int) else None


@cache
def _place() -> str:
    """Names the space in which a process id means one process: this boot of this machine, and the id namespace."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return platform.node()


def _runs(pid: int) -> bool:
    if os.name != "posix":
        return True  # there, signal 0 is not a question
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
