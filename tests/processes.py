"""Starts the ranks of a group of processes."""

from __future__ import annotations

import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import distributed


def run_ranks(script: Path, *words: object, size: int = 2, timeout: float = 280) -> None:
    """Run a script once for each rank, which is its first argument, until all have ended well; none outlives this.

    The script may import the modules of this folder.
    """
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    own = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    calls = [[sys.executable, str(script), str(rank), *map(str, words)] for rank in range(size)]
    jobs = [subprocess.Popen(call, env=own) for call in calls]
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


def fork_ranks(work: Callable[[int], object], size: int) -> None:
    """Call ``work(rank)`` in one fork of this process for each rank: what is imported here is imported once.

    The process must be a script of its own that has one thread.
    """
    ranks = []
    for rank in range(size):
        pid = os.fork()
        if not pid:
            failed = 1
            try:
                work(rank)
                failed = 0
            except BaseException:  # noqa: BLE001 (the exit below would leave it unsaid)
                traceback.print_exc()
            finally:
                os._exit(failed)  # without the interpreter's teardown, in which a thread of gloo may abort
        ranks.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in ranks] == [0] * size


def fork_group(train: Callable[[int], object], size: int, path: str) -> None:
    """Save what ``train(rank)`` returns on each rank of a process group, a fork each, as ``PATH-RANK.pt``."""

    def work(rank: int) -> None:
        distributed.init_process_group("gloo", f"file://{path}.meet", timedelta(minutes=10), size, rank)
        torch.save(train(rank), f"{path}-{rank}.pt")
        distributed.barrier()
        distributed.destroy_process_group()

    fork_ranks(work, size)
