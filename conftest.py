"""One thread a process, for the tests and for every process that they start.

Several workers, each with a pool of threads as large as the machine, wait for each other: a training test takes 40
times as long.
"""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before tests import onnxruntime
# What torch.compile has cached for other instructions neither compiles nor runs under these.
if _instructions := os.environ.get("ATEN_CPU_CAPABILITY"):
    _cache = Path(tempfile.gettempdir()) / f"torchinductor-{os.getuid()}-{_instructions}"
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(_cache))

# A busy machine is not a fault of an example: none has a deadline, nor has making one.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option of the conformance table."""
    parser.addoption("--conformance-table", type=Path, help="write what the tests show about every place to this file")


def pytest_configure(config: pytest.Config) -> None:
    """Take Ctrl-C as at a terminal, and collect the table if it is asked for.

    A shell starts background jobs with SIGINT ignored, which the tests of interrupted runs would inherit.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    file = config.getoption("--conformance-table")
    if file is not None:
        from conformance_table import Table

        config.pluginmanager.register(Table(file))
