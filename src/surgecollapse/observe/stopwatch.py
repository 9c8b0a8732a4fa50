"""Time that a piece of work takes, on the host and on the device."""

from __future__ import annotations

import time
from typing import Any

import torch


class Stopwatch:
    """Measures the longer of the time the host spent and the time the device's queue was busy.

    Nothing waits for the device: read :meth:`seconds` after a host sync.

    Args:
        device: where the work is queued.
    """

    def __init__(self, device: torch.device) -> None:
        self._marks: list[Any] = []
        self._cuda = device.type == "cuda"
        self._mark()
        self._began = time.perf_counter()
        self._host = 0.0

    def stop(self) -> None:
        """The work is queued (or, on a host device, done)."""
        self._host = time.perf_counter() - self._began
        self._mark()

    def seconds(self) -> float:
        """What it took; on a GPU only after a host sync that follows :meth:`stop`."""
        if not self._cuda:
            return self._host
        began, ended = self._marks
        return max(self._host, float(began.elapsed_time(ended)) / 1e3)

    def _mark(self) -> None:
        if self._cuda:
            mark: Any = torch.cuda.Event
            mark = mark(enable_timing=True)
            mark.record()
            self._marks.append(mark)
