"""Two and four ranks make the run of one process on the joined batch: the same decisions and masks, equal weights."""

from __future__ import annotations

import pytest
import torch

from processes import run_ranks
from rounding import unit

POLICIES = ("cyclic_pruning", "acdc", "gmp", "granet", "rigl", "set", "soft_threshold")

WORKER = """
import os
import sys

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from surgecollapse import Readings, attach

rank, size, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
torch.set_num_threads(1)
distributed.init_process_group("gloo", init_method=f"file://{folder}/meet{size}", rank=rank, world_size=size)


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 3)).double()


def train(policy):
    model = net()
    called = DistributedDataParallel(model) if size > 1 else model
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    controller = attach(called, optimizer, 0.8, 100, policy=policy, readings=Readings(every=5))
    rows = torch.Generator().manual_seed(1)
    for _ in range(100):
        x, y = torch.randn(32, 8, generator=rows).double(), torch.randint(3, (32,), generator=rows)
        own = slice(rank * 32 // size, (rank + 1) * 32 // size)
        optimizer.zero_grad()
        nn.functional.cross_entropy(called(x[own]), y[own]).backward()
        optimizer.step()
    controller.finalize()
    return {
        "weights": [p.detach().clone() for p in model.parameters()],
        "masks": dict(controller.masks),
        "done": [(e.step, e.kind, [(l.name, l.live) for l in e.layers]) for e in controller.events],
        "entropies": [reading.entropy for reading in controller.readings],
    }


torch.save({name: train(name) for name in sys.argv[4:]}, f"{folder}/{size}-{rank}.pt")
distributed.barrier()
distributed.destroy_process_group()
os._exit(0)  # without the interpreter's teardown, in which a thread of gloo may abort
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("joined")
    (folder / "worker.py").write_text(WORKER)
    for size in (1, 2, 4):
        run_ranks(folder / "worker.py", size, folder, *POLICIES, size=size)
    return {(size, rank): torch.load(folder / f"{size}-{rank}.pt") for size in (1, 2, 4) for rank in range(size)}


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(
    "size",
    [
        pytest.param(2, marks=pytest.mark.conformance("ranks equal", place="DistributedDataParallel, 2 processes")),
        pytest.param(4, marks=pytest.mark.conformance("ranks equal", place="DistributedDataParallel, 4 processes")),
    ],
)
def test_ranks_together_are_one_process_on_the_joined_batch(runs, size, policy):
    whole = runs[1, 0][policy]
    assert whole["done"]
    for rank in range(size):
        part = runs[size, rank][policy]
        assert part["done"] == whole["done"]
        assert all(torch.equal(mask, whole["masks"][name]) for name, mask in part["masks"].items())
        assert all(entropy is not None for entropy in part["entropies"])
        for one, other in zip(part["weights"], whole["weights"], strict=True):
            # Half of the digits: rounding differs from the first sum on, and training carries it along.
            assert torch.allclose(one, other, rtol=0.0, atol=unit(torch.float64) ** 0.5)
