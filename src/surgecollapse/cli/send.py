"""Ask a run of another process for something, and wait for what becomes of it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from surgecollapse.commands import command_from
from surgecollapse.record import CommandQueue

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from surgecollapse.record import QueuedCommand

_LOOK = 0.05


def tell(
    run: Path, kind: str, body: Mapping[str, Any], *, source: str = "terminal", seconds: float = 10.0
) -> QueuedCommand:
    """Put a command into a run's queue and wait until it is settled.

    Args:
        run: run directory.
        kind: a key of :data:`surgecollapse.commands.COMMANDS`.
        body: its values.
        source: who asks.
        seconds: how long to wait; then it is returned as it is, still queued.

    Raises:
        FileNotFoundError: if the directory holds no run.
        ValueError: if there is no such command, or a value is out of range.
    """
    command = command_from(kind, body)
    queue = CommandQueue(run / "run.db")
    try:
        number, end = queue.put(command, source=source), time.monotonic() + seconds
        while True:
            asked = queue.get(number)
            assert asked is not None
            if asked.status != "queued":
                return asked
            if time.monotonic() >= end:
                return queue.expire(number) or asked
            time.sleep(_LOOK)
    finally:
        queue.close()
