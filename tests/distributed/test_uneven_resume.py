"""Ranks with other data, batch sizes and seeds resume in the middle of an epoch; one that leaves early hangs nobody."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from processes import results_of_ranks

WORKER = """
import os
import sys

import torch
from torch import distributed, nn
from torch.distributed.algorithms.join import Join
from torch.nn.parallel import DistributedDataParallel

from surgecollapse import Readings, attach

rank, folder = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
# Rank 0 has 100 samples (batches of 24, 24, 24, 24 and 4), rank 1 has 75 (24, 24, 24 and 3).
SAMPLES, BATCH, EPOCHS, HALF = 100 - 25 * rank, 24, 24, 58


def batches(seed):
    data = torch.Generator().manual_seed(7 + rank)
    x, y = torch.randn(SAMPLES, 8, generator=data), torch.randint(3, (SAMPLES,), generator=data)
    for epoch in range(EPOCHS):
        order = torch.randperm(SAMPLES, generator=torch.Generator().manual_seed(seed + 100 * epoch + rank))
        for rows in order.split(BATCH):
            yield x[rows], y[rows]


class Loop:
    def __init__(self, policy, joined, seed):
        self.joined, self.seed, self.revived = joined, seed, []
        torch.manual_seed(0)
        parts = [nn.Linear(8, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3)]
        self.model = DistributedDataParallel(nn.Sequential(*parts))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), 5e-3)
        probe = torch.randn(16, 8, generator=torch.Generator().manual_seed(rank))
        self.controller = attach(
            self.model, self.optimizer, 0.8, 120 if joined else 96, policy=policy,
            readings=Readings(every=5, probe=probe),
        )

    def train(self, first, last):
        with Join([self.model], enable=self.joined):
            for step, (x, y) in enumerate(batches(self.seed)):
                # Without Join all ranks make as many steps; their last batches have other sizes.
                if first <= step < (last if self.joined else min(last, 96)):
                    torch.manual_seed(1000 * rank + step)  # each rank has a global seed of its own
                    self.optimizer.zero_grad()
                    nn.functional.cross_entropy(self.model(x), y).backward()
                    self.optimizer.step()
                    weights = dict(self.model.module.named_parameters())
                    masks = self.controller.masks.items()
                    self.revived += [(step, name) for name, mask in masks if weights[name].detach()[~mask].any()]
        return self

    def end(self):
        self.controller.finalize()
        return {
            "weights": {name: p.detach().clone() for name, p in self.model.module.named_parameters()},
            "masks": dict(self.controller.masks),
            "done": [(event.step, event.kind, event.reason) for event in self.controller.events],
            "readings": [(r.step, r.entropy) for r in self.controller.readings if r.step > HALF],
            "revived": self.revived,
        }


found = {}
for policy in ("cyclic_pruning", "entropy_cycles", "rigl"):
    for joined in (False, True):
        whole = Loop(policy, joined, 3 + rank).train(0, HALF)
        path = f"{folder}/{policy}-{joined}.pt"
        if rank == 0:
            torch.save({"model": whole.model.state_dict(), "optimizer": whole.optimizer.state_dict()}, path)
        distributed.barrier()
        whole.train(HALF, 1000)
        again = Loop(policy, joined, 3 + rank)
        state = torch.load(path, weights_only=True)
        again.model.load_state_dict(state["model"])
        again.optimizer.load_state_dict(state["optimizer"])
        again.train(HALF, 1000)
        found[policy, joined] = (whole.end(), again.end())
torch.save(found, f"{folder}/{rank}.pt")
distributed.barrier()
distributed.destroy_process_group()
os._exit(0)  # without the interpreter's teardown, in which a thread of gloo may abort
"""
CASES = [(policy, joined) for policy in ("cyclic_pruning", "entropy_cycles", "rigl") for joined in (False, True)]
PLACES = {
    False: "DistributedDataParallel, uneven last batches and other seeds",
    True: "DistributedDataParallel, uneven inputs (Join)",
}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    return results_of_ranks(WORKER, tmp_path_factory.mktemp("uneven"), timeout=900)


def cases(column):
    return pytest.mark.parametrize(
        ("policy", "joined"),
        [
            pytest.param(policy, joined, marks=pytest.mark.conformance(column, place=PLACES[joined]))
            for policy, joined in CASES
        ],
    )


@cases("resume bitwise")
def test_a_run_resumed_in_the_middle_of_an_epoch_is_the_whole_one(ranks, policy, joined):
    for found in ranks:
        whole, again = found[policy, joined]
        assert whole["done"] == again["done"]
        assert whole["done"]
        assert whole["readings"] == again["readings"]
        assert whole["readings"]
        assert all(torch.equal(p, again["weights"][name]) for name, p in whole["weights"].items())


@cases("ranks equal")
def test_both_ranks_end_with_the_same_weights_masks_and_decisions(ranks, policy, joined):
    first, second = (found[policy, joined][0] for found in ranks)
    assert first["done"] == second["done"]
    assert all(torch.equal(p, second["weights"][name]) for name, p in first["weights"].items())
    assert all(torch.equal(mask, second["masks"][name]) for name, mask in first["masks"].items())


@cases("target reached")
def test_the_target_is_reached(ranks, policy, joined):
    for found in ranks:
        _, again = found[policy, joined]
        size = sum(mask.numel() for mask in again["masks"].values())
        assert sum(int(mask.sum()) for mask in again["masks"].values()) == int((1 - 0.8) * size + 0.5)


@cases("heads right")
def test_the_layer_of_the_output_is_left_alone(ranks, policy, joined):
    for found in ranks:
        assert all(set(run["masks"]) == {"0.weight", "3.weight"} for run in found[policy, joined])


@cases("masks held")
def test_closed_weights_are_zero_after_every_step(ranks, policy, joined):
    for found in ranks:
        assert all(run["revived"] == [] for run in found[policy, joined])


@cases("entropy read")
def test_every_reading_has_an_entropy(ranks, policy, joined):
    for found in ranks:
        for run in found[policy, joined]:
            assert run["readings"]
            assert all(entropy is not None for _, entropy in run["readings"])


GONE = """
import sys
from datetime import timedelta

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from surgecollapse import Readings, attach

rank, folder = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
distributed.init_process_group("gloo", f"file://{folder}/meet", timedelta(seconds=60), rank=rank, world_size=2)
torch.manual_seed(0)
model = DistributedDataParallel(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)))
optimizer = torch.optim.SGD(model.parameters(), 0.1)
controller = attach(model, optimizer, 0.5, 40, policy="gmp", readings=Readings(every=5))
for step in range(40):
    optimizer.zero_grad()
    model(torch.ones(4, 8)).sum().backward()
    if rank == 1 and step == 9:
        raise SystemExit(7)  # gradients are reduced, the reading of step 10 is not pooled
    optimizer.step()
"""


def test_a_rank_that_dies_before_a_reading_ends_the_others(tmp_path):
    (tmp_path / "worker.py").write_text(GONE)
    calls = [[sys.executable, str(tmp_path / "worker.py"), str(rank), str(tmp_path)] for rank in (0, 1)]
    jobs = [
        subprocess.Popen(call, stderr=subprocess.PIPE if rank == 0 else None, text=True)
        for rank, call in enumerate(calls)
    ]
    try:
        _, said = jobs[0].communicate(timeout=280)
        assert jobs[1].wait(timeout=60) == 7
        assert jobs[0].returncode not in (0, None)
        assert "all_reduce" in said, said[-2000:]
    finally:
        for job in jobs:
            job.kill()
