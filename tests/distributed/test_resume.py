"""One rank's checkpoint resumes all ranks bitwise, although each rank has its own probe batch."""

from __future__ import annotations

import pytest
import torch

from processes import results_of_ranks

WORKER = """
import os
import sys

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from surgecollapse import Readings, attach

rank, folder = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
STEPS, HALF = 120, 45


class Loop:
    def __init__(self, policy, order="attached last"):
        torch.manual_seed(0)
        parts = [nn.Linear(8, 32), nn.ReLU(), nn.Dropout(0.0), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3)]
        self.model = nn.Sequential(*parts)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), 5e-3)
        if order == "attached last":
            self.model = DistributedDataParallel(self.model)
        self.controller = attach(
            self.model, self.optimizer, 0.8, STEPS, policy=policy, readings=Readings(every=5)
        )
        if order == "attached first":
            self.model = DistributedDataParallel(self.model)

    def train(self, first, last):
        own = torch.Generator().manual_seed(1 + rank)
        for step in range(last):
            x, y = torch.randn(48, 8, generator=own), torch.randint(3, (48,), generator=own)
            if step >= first:
                self.optimizer.zero_grad()
                nn.functional.cross_entropy(self.model(x), y).backward()
                self.optimizer.step()

    def state(self):
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}


found = {}
ORDERS = ("attached last", "attached first")
for policy, order in [(p, o) for p in ("cyclic_pruning", "entropy_cycles", "rigl") for o in ORDERS]:
    whole = Loop(policy, order)
    whole.train(0, HALF)
    if rank == 0:
        torch.save(whole.state(), f"{folder}/{policy}-{order}.pt")
    distributed.barrier()
    whole.train(HALF, STEPS)
    again = Loop(policy, order)
    state = torch.load(f"{folder}/{policy}-{order}.pt", weights_only=True)
    again.model.load_state_dict(state["model"])
    again.optimizer.load_state_dict(state["optimizer"])
    again.train(HALF, STEPS)
    runs = []
    for loop in (whole, again):
        loop.controller.finalize()
        weights = {name: p.detach().clone() for name, p in loop.model.named_parameters()}
        done = [(event.step, event.kind, event.reason) for event in loop.controller.events]
        readings = [(r.step, r.entropy) for r in loop.controller.readings if r.step > HALF]
        probe = loop.controller._probe.arguments(loop.model.module)[0][0]
        runs.append({"weights": weights, "done": done, "readings": readings, "probe": probe})
    found[policy, order] = runs
torch.save(found, f"{folder}/{rank}.pt")
distributed.barrier()
distributed.destroy_process_group()
os._exit(0)  # without the interpreter's teardown, in which a thread of gloo may abort
"""


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    return results_of_ranks(WORKER, tmp_path_factory.mktemp("resume"))


@pytest.mark.conformance("resume bitwise", place="DistributedDataParallel, 2 processes")
@pytest.mark.parametrize("policy", ["cyclic_pruning", "entropy_cycles", "rigl"])
@pytest.mark.parametrize("order", ["attached last", "attached first"])
def test_all_ranks_go_on_bitwise_from_the_checkpoint_of_rank_0(ranks, order, policy):
    assert ranks[0][policy, order][0]["readings"] == ranks[1][policy, order][0]["readings"]
    for found in ranks:
        whole, again = found[policy, order]
        assert whole["done"] == again["done"]
        assert whole["readings"] == again["readings"]
        assert all(torch.equal(p, again["weights"][name]) for name, p in whole["weights"].items())


@pytest.mark.parametrize("order", ["attached last", "attached first"])
def test_each_rank_has_its_own_half_of_the_probe_batch_back(ranks, order):
    first, second = (found["cyclic_pruning", order] for found in ranks)
    rows = 32 if order == "attached last" else 48  # the number of ranks is known too late to divide the rows
    assert len(first[0]["probe"]) == len(second[0]["probe"]) == rows
    assert not torch.equal(first[0]["probe"], second[0]["probe"])
    assert torch.equal(first[0]["probe"], first[1]["probe"])
    assert torch.equal(second[0]["probe"], second[1]["probe"])
