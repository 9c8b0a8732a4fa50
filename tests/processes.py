"""Starts the ranks of a group of processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import torch


def run_ranks(script: Path, *words: object, size: int = 2, timeout: float = 280) -> None:
    """Run a script once for each rank, which is its first argument, until all have ended well; none outlives this."""
    jobs = [subprocess.Popen([sys.executable, str(script), str(rank), *map(str, words)]) for rank in range(size)]
    try:
        assert [job.wait(timeout=timeout) for job in jobs] == [0] * size
    finally:
        for job in jobs:
            job.kill()


def results_of_ranks(worker: str, folder: Path, **options: Any) -> list[Any]:
    """What two ranks saved as ``RANK.pt`` in a folder, which a script is told after its rank."""
    (folder / "worker.py").write_text(worker)
    run_ranks(folder / "worker.py", folder, **options)
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]
