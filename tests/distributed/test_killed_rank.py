"""A process of a group that is killed, wherever it is: the others end with an error in bounded time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

WORKER = """
import os, sys
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import surgecollapse as sc

rank, folder, where = int(sys.argv[1]), sys.argv[2], sys.argv[3]
torch.set_num_threads(1)
dist.init_process_group("gloo", f"file://{folder}/meet", timedelta(minutes=10), rank=rank, world_size=2)
torch.manual_seed(0)
layers = [nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3)]
model = DistributedDataParallel(nn.Sequential(*layers))
optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
controller = sc.attach(model, optimizer, sparsity=0.8, total_steps=120, readings=sc.Readings(every=10))


def end(*_):
    if rank == 1:
        os.kill(os.getpid(), 9)


for step in range(1, 121):
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(torch.randn(16, 8)), torch.randint(3, (16,)))
    if (where, step) == ("before backward", 30):
        end()
    loss.backward()
    if (where, step) == ("before the step of a reading", 30):
        end()
    if (where, step, rank) == ("within a reading", 30, 1):  # the other one waits for its sums
        controller._loop.components.observer.read = end
    optimizer.step()
print("ended well", flush=True)
os._exit(0)
"""


@pytest.mark.parametrize("where", ["before backward", "before the step of a reading", "within a reading"])
def test_the_other_process_ends_with_an_error(tmp_path, where):
    (tmp_path / "worker.py").write_text(WORKER)
    environment = {**os.environ, "PYTHONPATH": os.environ.get("PYTHONPATH", str(Path(__file__).parents[2] / "src"))}
    ranks = [
        subprocess.Popen(
            [sys.executable, tmp_path / "worker.py", str(rank), tmp_path, where],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment,
        )
        for rank in (0, 1)
    ]  # fmt: skip
    try:
        assert ranks[1].wait(200) == -signal.SIGKILL
        began = time.monotonic()
        said = ranks[0].communicate(timeout=60)[0]
        assert time.monotonic() - began < 60
        assert ranks[0].returncode != 0
        assert "ended well" not in said
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
            rank.stdout.close()
