"""Four ranks resume bitwise, and a run goes from two ranks to four and from four to two, parallel and sharded."""

from __future__ import annotations

import pytest
import torch

from processes import run_ranks
from rounding import unit

POLICIES = ("cyclic_pruning", "rigl", "soft_threshold")

WORKER = '''
import sys
import warnings
from datetime import timedelta

import torch
import torch.distributed.checkpoint as dcp
from torch import distributed, nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

from processes import fork_group
from surgecollapse import Readings, Updates, attach
from surgecollapse.integrations.distributed_checkpoint import DistributedState

folder, policies = sys.argv[2], sys.argv[3:]
torch.set_num_threads(1)
STEPS, HALF, EVERY = 40, 19, 5


def in_order(_, bucket):
    """Add up the ranks' gradients in their order.

    DistributedDataParallel sorts its buckets anew after its first step, and the order in which a ring of more than two
    adds up depends on the place in a bucket: by itself it resumes to rounding alone, with a controller or without.
    """
    parts = [torch.empty_like(bucket.buffer()) for _ in range(distributed.get_world_size())]
    work = distributed.all_gather(parts, bucket.buffer(), async_op=True)
    return work.get_future().then(lambda _: sum(parts) / len(parts))


def full(tensor):
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


class Loop:
    def __init__(self, kind, policy):
        torch.manual_seed(0)
        parts = [nn.Linear(8, 26), nn.ReLU(), nn.Linear(26, 3), nn.ReLU(), nn.Linear(3, 3)]
        self.model = self.called = nn.Sequential(*parts).double()
        self.kind = kind
        if kind == "sharded":
            mesh = init_device_mesh("cpu", (distributed.get_world_size(),))
            fully_shard(self.model[0], mesh=mesh)
            fully_shard(self.model, mesh=mesh)
        if kind == "both":
            mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
            parallelize_module(self.model, mesh["tp"], {"0": ColwiseParallel(), "2": RowwiseParallel()})
            fully_shard(self.model[0], mesh=mesh["dp"])
            fully_shard(self.model, mesh=mesh["dp"])
        if kind == "parallel":
            self.called = DistributedDataParallel(self.model)
            self.called.register_comm_hook(None, in_order)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), 0.01)
        # Noise: the random draws of regrowth go on, too.
        updates = Updates(regrow_init="noise") if policy == "cyclic_pruning" else Updates()
        self.controller = attach(
            self.called, self.optimizer, 0.7, STEPS, policy=policy, updates=updates, readings=Readings(every=EVERY)
        )

    def train(self, first, last):
        rank, size = distributed.get_rank(), distributed.get_world_size()
        if self.kind == "both":  # the ranks of one tensor-parallel group have the same rows
            rank, size = rank // 2, size // 2
        rows = torch.Generator().manual_seed(1)
        for step in range(last):
            x, y = torch.randn(24, 8, generator=rows).double(), torch.randint(3, (24,), generator=rows)
            own = slice(rank * 24 // size, (rank + 1) * 24 // size)
            if step >= first:
                self.optimizer.zero_grad()
                nn.functional.cross_entropy(self.called(x[own]), y[own]).backward()
                self.optimizer.step()
        return self

    def save(self, path):
        if self.kind in ("sharded", "both"):
            dcp.save(self.entries(), checkpoint_id=path)
            return
        if distributed.get_rank() == 0:
            torch.save({"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}, path)
        distributed.barrier()

    def entries(self):
        # Before the first step this makes the optimizer step once, to have it make its state.
        optimizer = get_optimizer_state_dict(self.model, self.optimizer)
        return {"model": self.model.state_dict(), "optim": optimizer, "controller": DistributedState(self.controller)}

    def load(self, path):
        if self.kind in ("sharded", "both"):
            entries = self.entries()
            named = {name: entries[name] for name in ("model", "optim")}
            dcp.load(named, checkpoint_id=path)
            self.model.load_state_dict(named["model"])
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that this part of a checkpoint holds no state of a controller
                set_optimizer_state_dict(self.model, self.optimizer, named["optim"])
            dcp.load({"controller": entries["controller"]}, checkpoint_id=path)
        else:
            state = torch.load(path, weights_only=True)
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
        assert self.controller.step == HALF
        return self

    def end(self):
        self.controller.finalize()
        return {
            "weights": [full(p).detach().clone() for p in self.model.parameters()],
            "masks": {name: full(mask.to(torch.uint8)).bool() for name, mask in self.controller.masks.items()},
            "done": [(e.step, e.kind, [(l.name, l.live) for l in e.layers]) for e in self.controller.events],
            "readings": [(r.step, r.entropy) for r in self.controller.readings if r.step > HALF],
        }


KINDS = ("parallel", "sharded")
CASES = [(kind, policy) for kind in KINDS for policy in policies]


def one():
    return {policy: Loop("plain", policy).train(0, STEPS).end() for policy in policies}


def saved(size):
    runs = {}
    for kind, policy in CASES + [("both", policy) for policy in policies] * (size == 4):
        path = f"{folder}/{size}-{kind}-{policy}"
        whole = Loop(kind, policy).train(0, HALF)
        whole.save(path)
        if size == 4:
            whole.train(HALF, STEPS)
            runs[kind, policy, "again"] = whole.end(), Loop(kind, policy).load(path).train(HALF, STEPS).end()
    return runs


def changed(saved_by):
    runs = {}
    for kind, policy in CASES:
        loop = Loop(kind, policy).load(f"{folder}/{saved_by}-{kind}-{policy}")
        runs[kind, policy] = loop.train(HALF, STEPS).end()
    return runs


WORK = (
    (1, "one", one),
    (4, "four", lambda: saved(4)),
    (2, "four, then two", lambda: saved(2) | changed(4)),
    (4, "two, then four", lambda: changed(2)),
)
warnings.simplefilter("ignore", FutureWarning)
for size, name, train in WORK:
    fork_group(lambda rank: train(), size, f"{folder}/{name}")
'''


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("four")
    (folder / "worker.py").write_text(WORKER)
    run_ranks(folder / "worker.py", folder, *POLICIES, size=1, timeout=900)
    sizes = {"one": 1, "four": 4, "four, then two": 2, "two, then four": 4}
    return {name: [torch.load(folder / f"{name}-{rank}.pt") for rank in range(size)] for name, size in sizes.items()}


PLACES = {
    "parallel": "DistributedDataParallel, 4 processes",
    "sharded": "fully_shard (FSDP2), 4 processes",
    "both": "fully_shard and tensor parallel, 2 × 2 processes",
}


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=pytest.mark.conformance("resume bitwise", place=name)) for kind, name in PLACES.items()],
)
def test_four_ranks_go_on_bitwise_from_their_checkpoint(runs, kind, policy):
    for found in runs["four"]:
        whole, again = found[kind, policy, "again"]
        assert whole["done"] == again["done"]
        assert whole["readings"] == again["readings"]
        assert whole["readings"]
        assert all(torch.equal(mask, again["masks"][name]) for name, mask in whole["masks"].items())
        assert all(torch.equal(p, other) for p, other in zip(whole["weights"], again["weights"], strict=True))


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("kind", ["parallel", "sharded"])
@pytest.mark.parametrize("sizes", ["four, then two", "two, then four"])
def test_another_number_of_ranks_goes_on_as_one_process_would(runs, sizes, kind, policy):
    whole = runs["one"][0][policy]
    first = runs[sizes][0][kind, policy]
    for found in runs[sizes]:
        part = found[kind, policy]
        assert part["done"] == whole["done"]
        assert part["readings"] == first["readings"]
        assert all(torch.equal(mask, whole["masks"][name]) for name, mask in part["masks"].items())
        for one, other, same in zip(part["weights"], whole["weights"], first["weights"], strict=True):
            assert torch.equal(one, same)
            # Half of the digits: rounding differs from the first sum on, and training carries it along.
            assert torch.allclose(one, other, rtol=0.0, atol=unit(torch.float64) ** 0.5)
