"""What a run ran on: versions and hardware, for its record."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from typing import Any

import torch


def environment() -> dict[str, Any]:
    """Versions, threads and hardware as JSON-ready values.

    >>> sorted(environment())[:3]
    ['cores', 'cuda', 'device']
    """
    cuda = torch.cuda.is_available()
    return {
        "surgecollapse": metadata.version("surgecollapse"),
        "torch": torch.__version__,
        "numpy": metadata.version("numpy"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda,
        "device": torch.cuda.get_device_name(0) if cuda else "cpu",
    }
