"""One thread a process, for the tests and for every process that they start.

Several workers, each with a pool of threads as large as the machine, wait for each other: a training test takes 40
times as long.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before tests import onnxruntime
