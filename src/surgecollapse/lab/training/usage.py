"""What training takes from the machine: processor, memory and the memory of the accelerator."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch


class Usage:
    """Reads what this process uses, a few microseconds a time.

    >>> sorted(Usage().read())[0]
    'system/cores'
    """

    def __init__(self) -> None:
        self._wall, self._busy = time.perf_counter(), time.process_time()

    def read(self) -> dict[str, float]:
        """What was used since the last call.

        Returns:
            ``system/cores``: processor seconds a second, that is cores that were busy. ``system/memory_mb``: resident
            memory. ``system/gpu_memory_mb``: memory that tensors hold on the accelerator, where there is one.
        """
        wall, busy = time.perf_counter(), time.process_time()
        found = {"system/cores": (busy - self._busy) / max(wall - self._wall, 1e-9)}
        self._wall, self._busy = wall, busy
        memory = resident_bytes()
        if memory is not None:
            found["system/memory_mb"] = memory / 1e6
        if torch.cuda.is_available() and torch.cuda.memory_allocated():
            found["system/gpu_memory_mb"] = torch.cuda.memory_allocated() / 1e6
        return found


def resident_bytes(pages: Path = Path("/proc/self/statm")) -> int | None:
    """Memory of this process that is in RAM; at its highest where the system tells no more, or ``None``.

    Args:
        pages: in the form of ``/proc/self/statm``; it need not exist.
    """
    try:
        import resource
    except ModuleNotFoundError:
        return None  # Windows
    try:
        return int(pages.read_text(encoding="ascii").split()[1]) * resource.getpagesize()
    except (OSError, ValueError, IndexError):
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024
