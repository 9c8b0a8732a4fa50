"""Two processes train one model: rank 0 takes the commands, both carry them out at the same step."""

from __future__ import annotations

from contextlib import closing

import torch

from processes import run_ranks
from surgecollapse.record import CommandQueue, RunStore

WORKER = """
import os
import sys
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
from surgecollapse import attach
from surgecollapse.commands import Collapse, Pump
from surgecollapse.record import MemoryRecorder

rank, folder = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
torch.manual_seed(0)
model = DistributedDataParallel(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
own = torch.Generator().manual_seed(rank)  # each rank has data of its own
x, y = torch.randn(32, 8, generator=own), torch.randint(4, (32,), generator=own)
memory, refused = MemoryRecorder(), ""
controller = attach(
    model, optimizer, sparsity=0.5, total_steps=40, policy="no_op", recorders=[memory], commands=f"{folder}/run.db"
)
for step in range(40):
    if rank == 0 and step == 13:
        controller.request(Collapse(fraction=0.5))
        controller.request(Collapse(fraction=0.5, layers=("no such layer",)))
    if rank == 1 and step == 13:
        try:
            controller.request(Pump(noise_std=0.1))
        except ValueError as error:
            refused = str(error)
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
asked = [(e.step, e.kind, e.status) for e in memory.events if type(e).__name__ == "Request"]
weight = model.module[0].weight.detach()
found = {"weight": weight, "asked": asked, "refused": refused, "last": controller.command_loop.last}
torch.save(found, f"{folder}/{rank}.pt")
distributed.destroy_process_group()
# All is saved. Without the interpreter's teardown: a thread of gloo that still holds a tensor and asks for the GIL
# in it ends the process with SIGABRT (torch 2.13, once in some hundred runs).
os._exit(0)
"""


def test_both_ranks_carry_out_what_rank_0_was_asked_at_the_same_step(tmp_path):
    RunStore(tmp_path / "run.db", mode="w").close()
    (tmp_path / "worker.py").write_text(WORKER)
    run_ranks(tmp_path / "worker.py", tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert first["asked"] == second["asked"] == [(20, "collapse", "applied"), (20, "collapse", "rejected")]
    assert torch.equal(first["weight"], second["weight"])
    assert (first["weight"] == 0).sum() == 64
    assert first["last"] == second["last"] == 2
    assert "expected rank 0, got rank 1" in second["refused"]
    with closing(CommandQueue(tmp_path / "run.db")) as queue:
        assert not queue.pending()
        assert [asked.step for asked in queue.applied()] == [20]
