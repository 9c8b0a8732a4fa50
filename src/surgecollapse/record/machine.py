"""Versions and hardware, for records of runs, comparisons and benchmarks."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any


def machine() -> dict[str, Any]:
    """Versions and hardware as JSON-ready values, without importing torch.

    >>> sorted(machine())[:3]
    ['cores', 'cores_usable', 'numpy']
    """
    return {
        "surgecollapse": library_version(),
        **{name: metadata.version(name) for name in ("torch", "numpy")},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "cores_usable": cores(),
    }


def library_version() -> str:
    """Version of the code that runs, whatever an installer wrote down of an earlier one."""
    # Looked up, not imported: the package offers all parts, which a record must not depend on.
    return str(sys.modules[__name__.partition(".")[0]].__version__)


def processor(listing: Path = Path("/proc/cpuinfo")) -> str:
    """Name of the processor, as far as the system tells.

    Args:
        listing: in the form of ``/proc/cpuinfo``; it need not exist.
    """
    lines = listing.read_text(encoding="utf-8", errors="replace").splitlines() if listing.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def cores() -> int:
    """How many cores this process may use."""
    return len(usable_cores()) or os.cpu_count() or 1


def usable_cores() -> list[int]:
    """The cores that this process may use, by number; empty where the system does not say (macOS, Windows)."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
