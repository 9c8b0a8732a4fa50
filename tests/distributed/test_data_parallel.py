"""Data-parallel training: one reading, one decision and one mask for all ranks, and no collective anywhere else."""

from __future__ import annotations

import pytest
import torch

from processes import results_of_ranks

WORKER = """
import os
import sys
from itertools import count

import torch
from torch import distributed, nn
from torch.distributed.algorithms.join import Join
from torch.nn.parallel import DistributedDataParallel

from surgecollapse import Readings, attach
from surgecollapse.record import MemoryRecorder

rank, folder = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3))


def train(policy, steps=120, rows=16, joined=False, **options):
    model, memory = DistributedDataParallel(net()), MemoryRecorder()
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    controller = attach(
        model, optimizer, 0.8, 120, policy=policy, readings=Readings(every=10), recorders=[memory], **options
    )
    own = torch.Generator().manual_seed(1 + rank)
    torch.manual_seed(rank)  # a user's global seed may differ between ranks

    def loop():
        for _ in range(steps):
            x, y = torch.randn(rows, 8, generator=own), torch.randint(3, (rows,), generator=own)
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            controller.note(loss=loss)
            loss.backward()
            optimizer.step()

    if joined:
        with Join([model]):
            loop()
    else:
        loop()
    readings = [(e.step, e.entropy, e.on_off, e.loss) for e in memory.events if type(e).__name__ == "Reading"]
    done = [(e.step, e.kind, e.reason) for e in memory.events if type(e).__name__ == "Intervention"]
    controller.finalize()
    return {
        "weights": [p.detach().clone() for p in model.parameters()],
        "masks": controller.masks,
        "readings": readings,
        "done": done,
        "sparsity": controller.sparsity,
    }


NAMES = ("cyclic_pruning", "entropy_thresholds", "entropy_cycles", "set", "redo", "soft_threshold")
found = {name: train(name) for name in NAMES}
found["batches of other sizes"] = train("cyclic_pruning", rows=16 + 8 * rank)
found["uneven inputs"] = train("acdc", steps=120 - 23 * rank, joined=True)
try:
    train("acdc", seed=rank)
    found["seeds"] = "accepted"
except ValueError as error:
    found["seeds"] = str(error)

# Attached before it was wrapped: too late for Join, which asks its ranks at the beginning.
inner = net()
optimizer = torch.optim.SGD(inner.parameters(), 0.1)
attach(inner, optimizer, 0.8, 100, readings=Readings(every=10))
wrapped = DistributedDataParallel(inner)
try:
    with Join([wrapped]):
        wrapped(torch.randn(16, 8))
    found["joined"] = "accepted"
except RuntimeError as error:
    found["joined"] = str(error)

# Nets of their own in one process group: each rank trains another number of steps, and waits for nobody.
calls = count()
for name in ("all_reduce", "broadcast", "broadcast_object_list", "all_gather"):
    real = getattr(distributed, name)
    setattr(distributed, name, lambda *a, real=real, **k: (next(calls), real(*a, **k))[1])
model = net()
optimizer = torch.optim.AdamW(model.parameters())
attach(model, optimizer, 0.8, 60 + 20 * rank, readings=Readings(every=10))
for _ in range(60 + 20 * rank):
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(torch.randn(16, 8)), torch.randint(3, (16,))).backward()
    optimizer.step()
found["collectives"] = next(calls)
torch.save(found, f"{folder}/{rank}.pt")
distributed.barrier()
distributed.destroy_process_group()
os._exit(0)  # without the interpreter's teardown, in which a thread of gloo may abort
"""


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    return results_of_ranks(WORKER, tmp_path_factory.mktemp("ranks"))


KINDS = (
    "cyclic_pruning",
    "entropy_thresholds",
    "entropy_cycles",
    "set",
    "redo",
    "soft_threshold",
    "batches of other sizes",
    "uneven inputs",
)


@pytest.mark.conformance("ranks equal", place="DistributedDataParallel, 2 processes")
@pytest.mark.parametrize("kind", KINDS)
def test_every_rank_has_the_same_weights_masks_and_interventions(ranks, kind):
    first, second = (found[kind] for found in ranks)
    assert all(torch.equal(a, b) for a, b in zip(first["weights"], second["weights"], strict=True))
    assert first["masks"].keys() == second["masks"].keys()
    assert all(torch.equal(mask, second["masks"][name]) for name, mask in first["masks"].items())
    assert first["done"] == second["done"]
    assert first["done"] or kind == "redo"


@pytest.mark.conformance("entropy read", place="DistributedDataParallel, 2 processes")
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "uneven inputs"])
def test_readings_are_those_of_both_ranks_together(ranks, kind):
    first, second = (found[kind]["readings"] for found in ranks)
    assert first == second
    assert len(first) >= 12
    assert all(entropy is not None and loss is not None for _, entropy, _, loss in first)


@pytest.mark.conformance("target reached", place="DistributedDataParallel, 2 processes")
def test_a_rank_that_runs_out_of_data_hangs_nobody_and_reaches_the_target(ranks):
    assert [found["uneven inputs"]["sparsity"] for found in ranks] == pytest.approx([0.8, 0.8], abs=1 / 1000)


def test_different_seeds_are_refused_on_every_rank(ranks):
    assert all("attached with different arguments" in found["seeds"] for found in ranks)


def test_join_before_the_ranks_are_known_is_refused_on_every_rank(ranks):
    assert all("attach to the DistributedDataParallel itself" in found["joined"] for found in ranks)


def test_nets_of_their_own_call_no_collective(ranks):
    assert [found["collectives"] for found in ranks] == [0, 0]
