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
    def __init__(self, policy):
        torch.manual_seed(0)
        parts = [nn.Linear(8, 32), nn.ReLU(), nn.Dropout(0.0), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3)]
        self.model = DistributedDataParallel(nn.Sequential(*parts))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), 5e-3)
        self.controller = attach(
            self.model, self.optimizer, 0.8, STEPS, policy=policy, readings=Readings(every=5)
        )

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
for policy in ("cyclic_pruning", "entropy_cycles", "rigl"):
    whole = Loop(policy)
    whole.train(0, HALF)
    if rank == 0:
        torch.save(whole.state(), f"{folder}/{policy}.pt")
    distributed.barrier()
    whole.train(HALF, STEPS)
    again = Loop(policy)
    state = torch.load(f"{folder}/{policy}.pt", weights_only=True)
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
    found[policy] = runs
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
def test_all_ranks_go_on_bitwise_from_the_checkpoint_of_rank_0(ranks, policy):
    for found in ranks:
        whole, again = found[policy]
        assert whole["done"] == again["done"]
        assert whole["readings"] == again["readings"]
        assert all(torch.equal(p, again["weights"][name]) for name, p in whole["weights"].items())


def test_each_rank_has_its_own_half_of_the_probe_batch_back(ranks):
    first, second = (found["cyclic_pruning"] for found in ranks)
    assert len(first[0]["probe"]) == len(second[0]["probe"]) == 32
    assert not torch.equal(first[0]["probe"], second[0]["probe"])
    assert torch.equal(first[0]["probe"], first[1]["probe"])
    assert torch.equal(second[0]["probe"], second[1]["probe"])
