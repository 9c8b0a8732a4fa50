"""A process that trains one cell after another on one thread, and the row that it returns."""

from __future__ import annotations

import logging
import math
import os
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from surgecollapse.errors import one_line

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
_NICE = 10
FAILURES = (ValueError, OSError, RuntimeError, MemoryError, ArithmeticError, ImportError)
"""What a single run may fail with, so that the others go on; all else is a mistake of the library."""


def serve(connection: Connection, scratch: str, core: int | None = None) -> None:
    """Train the configurations that come, until none comes; answer each as :func:`answer_of` does.

    Row and error are both ``None`` where the run was interrupted. A mistake of the library itself ends the process
    with its traceback.

    Args:
        connection: to the parent.
        scratch: folder for temporary run directories.
        core: the one that the process is to use, if that is settled.
    """
    serve_with(lambda values: train_cell(values, Path(scratch)), connection, core)


def serve_with(
    work: Callable[[dict[str, Any]], dict[str, Any] | None], connection: Connection, core: int | None
) -> None:
    """Do with each message that comes what ``work`` says; answer as :func:`serve` does."""
    for name in _THREADS:
        os.environ[name] = "1"
    # Ctrl-C reaches the whole group; the parent decides. Inside a run, the run itself listens, and stops.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if core is not None:
        os.sched_setaffinity(0, {core})
    if hasattr(os, "nice"):
        os.nice(_NICE)
    while True:
        try:
            values = connection.recv()
        except (EOFError, OSError):
            return
        try:
            connection.send(answer_of(work, values))
        except OSError:
            return


Answer = tuple[dict[str, Any] | None, str | None, tuple[str, ...]]
"""A row or an error in one line, and what was warned of."""


def answer_of(work: Callable[[dict[str, Any]], dict[str, Any] | None], values: dict[str, Any]) -> Answer:
    """Do the work; warnings, also those of logs, are returned, since the terminal belongs to the parent."""
    row, failure, logs = None, None, _Kept(logging.WARNING)
    with warnings.catch_warnings(record=True) as caught:
        logging.getLogger().addHandler(logs)
        try:
            row = work(values)
        except FAILURES as error:
            failure = one_line(error)
        finally:
            logging.getLogger().removeHandler(logs)
    return row, failure, tuple(dict.fromkeys([*(one_line(warned.message) for warned in caught), *logs.lines]))


class _Kept(logging.Handler):
    """Keeps what is logged."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(" ".join(record.getMessage().split()))


def train_cell(values: dict[str, Any], scratch: Path) -> dict[str, Any] | None:
    """Train one configuration in a temporary directory; all but ``seconds`` depends on the configuration alone.

    Args:
        values: a configuration, as :func:`~surgecollapse.lab.config.as_mapping` gives it.
        scratch: where the temporary directory goes.

    Returns:
        What the tables are made of, or ``None`` if the run was interrupted.
    """
    if "torch" not in sys.modules:
        os.environ.update(dict.fromkeys(_THREADS, "1"))
    from surgecollapse.lab.config import make_config
    from surgecollapse.lab.training.run import train

    with tempfile.TemporaryDirectory(dir=scratch, prefix="cell-") as folder:
        result = train(make_config(**values), Path(folder) / "run")
    if result.status == "interrupted":
        return None
    summary = result.summary
    loss, bits = summary["loss"], summary.get("bits_per_character")
    return {
        "accuracy": summary["accuracy"],
        "accuracy_validation": summary["accuracy_validation"],
        "loss": loss if math.isfinite(loss) else None,
        **({"bits_per_character": bits} if bits is not None and math.isfinite(bits) else {}),
        "mean_density": summary["mean_density"],
        "sparsity_reached": summary["sparsity"],
        "flops_inference": summary["flops_inference"],
        "flops_training": summary["flops_training"],
        "seconds": round(summary["seconds"], 3),
        "interventions": summary["interventions"],
        "parameters": summary["parameters"],
        "steps": summary["steps"],
    }
