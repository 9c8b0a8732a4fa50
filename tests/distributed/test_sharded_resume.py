"""A sharded run with gradient transforms is that of one process, and goes on from its checkpoint on other ranks."""

from __future__ import annotations

import pytest
import torch

from processes import run_ranks
from rounding import unit

POLICIES = ("rigl", "soft_threshold")

WORKER = """
import sys
import warnings
from datetime import timedelta

import torch
import torch.distributed.checkpoint as dcp
from torch import distributed, nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from processes import fork_group
from surgecollapse import ClipNorm, Grokfast, OrthoGrad, Readings, attach
from surgecollapse.integrations.distributed_checkpoint import DistributedState
from surgecollapse.policies import RigL

folder, policies = sys.argv[2], sys.argv[3:]
torch.set_num_threads(1)
STEPS, HALF = 30, 13


def full(tensor):
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


class Loop:
    def __init__(self, policy, *, sharded=True, dtype=torch.float64, **options):
        torch.manual_seed(0)
        parts = [nn.Linear(8, 26), nn.ReLU(), nn.Linear(26, 2), nn.ReLU(), nn.Linear(2, 3)]
        self.model = nn.Sequential(*parts).to(dtype)
        if sharded == "tensors":
            mesh = init_device_mesh("cpu", (distributed.get_world_size(),))
            parallelize_module(self.model, mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})
        elif sharded:
            mesh = init_device_mesh("cpu", (distributed.get_world_size(),))
            fully_shard(self.model[0], mesh=mesh, **options)
            fully_shard(self.model, mesh=mesh, **options)
        self.sharded = sharded
        self.optimizer = torch.optim.AdamW(self.model.parameters(), 0.01)
        policy = RigL(interval=10) if policy == "rigl" else policy
        transforms = [Grokfast(0.8, 0.5), OrthoGrad(), ClipNorm(0.1)]
        readings = Readings(every=5)
        self.controller = attach(
            self.model, self.optimizer, 0.7, STEPS, policy=policy, readings=readings, transforms=transforms
        )

    def train(self, first, last):
        rank, size = distributed.get_rank(), distributed.get_world_size()
        if self.sharded == "tensors":  # every rank has the whole batch
            rank, size = 0, 1
        rows = torch.Generator().manual_seed(1)
        dtype = next(self.model.parameters()).dtype
        for step in range(last):
            x, y = torch.randn(24, 8, generator=rows).to(dtype), torch.randint(3, (24,), generator=rows)
            own = slice(rank * 24 // size, (rank + 1) * 24 // size)
            if step >= first:
                self.optimizer.zero_grad()
                nn.functional.cross_entropy(self.model(x[own]), y[own]).backward()
                self.optimizer.step()

    def end(self):
        self.controller.finalize()
        return {
            "weights": [full(p).detach().clone() for p in self.model.parameters()],
            "masks": {name: full(mask.to(torch.uint8)).bool() for name, mask in self.controller.masks.items()},
            "done": [(e.step, e.kind, [(l.name, l.live) for l in e.layers]) for e in self.controller.events],
            "sparsity": self.controller.sparsity,
            "shown": str(self.controller),
        }

    def entries(self):
        # Before the first step this makes the optimizer step once, to have it make its state.
        optimizer = get_optimizer_state_dict(self.model, self.optimizer)
        return {"model": self.model.state_dict(), "optim": optimizer, "controller": DistributedState(self.controller)}

    def load(self, path):
        entries = self.entries()
        assert self.controller.step == 0
        named = {name: entries[name] for name in ("model", "optim")}
        dcp.load(named, checkpoint_id=path)
        self.model.load_state_dict(named["model"])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that this part of a checkpoint holds no state of a controller
            set_optimizer_state_dict(self.model, self.optimizer, named["optim"])
        dcp.load({"controller": entries["controller"]}, checkpoint_id=path)


def one_process():
    runs = {}
    for policy in policies:
        loop = Loop(policy, sharded=False)
        loop.train(0, STEPS)
        runs[policy] = loop.end()
    return runs


def whole_run():
    runs = {}
    for policy in policies:
        loop = Loop(policy)
        loop.train(0, HALF)
        dcp.save(loop.entries(), checkpoint_id=f"{folder}/{policy}")
        loop.train(HALF, STEPS)
        runs[policy] = loop.end()
    for kind in (True, "tensors"):
        for policy in policies:
            loop = Loop(policy, sharded=kind)
            path = f"{folder}/{policy}-{kind}"
            loop.train(0, HALF)
            dcp.save(loop.entries(), checkpoint_id=path)
            loop.train(HALF, STEPS)
            again = Loop(policy, sharded=kind)
            again.load(path)
            again.train(HALF, STEPS)
            runs[policy, kind] = (loop.end(), again.end())
    loop = Loop("rigl", dtype=torch.float32, mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16))
    loop.train(0, STEPS)
    loop.model.eval()
    with torch.no_grad():
        loop.model(torch.zeros(2, 8))  # leaves whole weights behind
    runs["bfloat16"] = loop.end()
    return runs


def resumed():
    runs = {}
    for policy in policies:
        loop = Loop(policy)
        loop.load(f"{folder}/{policy}")
        loop.train(HALF, STEPS)
        runs[policy] = loop.end()
    return runs


warnings.simplefilter("ignore", FutureWarning)
for size, train in ((1, one_process), (2, whole_run), (3, resumed)):
    fork_group(lambda rank: train(), size, f"{folder}/{size}")
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resumed")
    (folder / "worker.py").write_text(WORKER)
    run_ranks(folder / "worker.py", folder, *POLICIES, size=1, timeout=900)
    return {size: [torch.load(folder / f"{size}-{rank}.pt") for rank in range(size)] for size in (1, 2, 3)}


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(
    "size",
    [
        pytest.param(2, id="two ranks"),
        pytest.param(3, id="two ranks, then three"),
    ],
)
def test_transforms_and_resumes_of_shards_are_those_of_one_process(runs, size, policy):
    whole = runs[1][0][policy]
    for found in runs[size]:
        part = found[policy]
        assert part["done"] == whole["done"]
        assert all(torch.equal(mask, whole["masks"][name]) for name, mask in part["masks"].items())
        for one, other in zip(part["weights"], whole["weights"], strict=True):
            # Half of the digits: rounding differs from the first sum on, and training carries it along.
            assert torch.allclose(one, other, rtol=0.0, atol=unit(torch.float64) ** 0.5)


KINDS = [
    pytest.param(kind, marks=pytest.mark.conformance("resume bitwise", place=place))
    for kind, place in ((True, "fully_shard (FSDP2), 2 processes"), ("tensors", "tensor parallel, 2 processes"))
]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_resume_on_as_many_ranks_is_bitwise(runs, kind, policy):
    for found in runs[2]:
        whole, again = found[policy, kind]
        assert whole["done"] == again["done"]
        assert all(torch.equal(mask, again["masks"][name]) for name, mask in whole["masks"].items())
        assert all(torch.equal(p, other) for p, other in zip(whole["weights"], again["weights"], strict=True))


@pytest.mark.conformance("target reached", place="fully_shard (FSDP2), 2 processes")
def test_float32_masters_hold_the_masks_of_bfloat16_passes(runs):
    first, second = (found["bfloat16"] for found in runs[2])
    assert first["done"] == second["done"]
    assert first["shown"] == second["shown"]
    closed = sum(int((~mask).sum()) for mask in first["masks"].values())
    assert (
        first["sparsity"]
        == closed / sum(mask.numel() for mask in first["masks"].values())
        == pytest.approx(0.7, abs=0.01)
    )
    assert all(p.dtype is torch.float32 for p in first["weights"])
