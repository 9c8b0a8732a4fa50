"""Sharded training is the run of one process on the joined batch: the same decisions and masks, equal weights.

The net has layers that do not divide evenly among ranks, and one with fewer rows than ranks, so that shards differ in
size and some are empty.
"""

from __future__ import annotations

import pytest
import torch

from processes import run_ranks
from rounding import unit

WORKER = """
import sys
import warnings
from datetime import timedelta

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from processes import fork_group
from surgecollapse import Readings, Target, Updates, attach
from surgecollapse.policies import ACDC, FixedInterval, RigL

folder = sys.argv[2]
torch.set_num_threads(1)

CASES = {
    "gmp": ("gmp", Updates(), "global"),
    "entropy_cycles": ("entropy_cycles", Updates(), "global"),
    "cyclic_pruning": ("cyclic_pruning", Updates(), "global"),
    "rigl": (lambda: RigL(interval=10), Updates(), "erk"),
    "soft_threshold": ("soft_threshold", Updates(), "global"),
    "noise": (
        "cyclic_pruning",
        Updates(regrow_init="noise", growth="momentum", optimizer_state="warmup", saliency="lamp"),
        "layer",
    ),
    "ramp": (lambda: RigL(interval=10), Updates(optimizer_state="ramp", saliency="taylor", growth="random"), "erk"),
    "last": (lambda: ACDC(), Updates(regrow_init="last"), "global"),
    "fixed_interval": (lambda: FixedInterval(collapse_every=10, surge_every=20), Updates(), "global"),
    "2:4": ("cyclic_pruning", Updates(), "global"),
    "block:2x2": (lambda: RigL(interval=10), Updates(), "layer"),
}
RUNS = (
    (1, "plain", list(CASES)),
    (2, "shards", [case for case in CASES if case != "entropy_cycles"]),  # it decides by which rows are paired
    (4, "shards", ["gmp", "cyclic_pruning", "rigl", "soft_threshold"]),
    (2, "tensors", ["gmp", "soft_threshold", "entropy_cycles"]),
    (4, "both", ["gmp", "cyclic_pruning", "rigl", "soft_threshold", "noise", "2:4"]),
)


def net():
    torch.manual_seed(0)
    parts = [nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 3), nn.ReLU(), nn.Linear(3, 10), nn.ReLU(), nn.Linear(10, 3)]
    return nn.Sequential(*parts).double()


def spread(model, kind):
    if kind == "shards":
        mesh = init_device_mesh("cpu", (distributed.get_world_size(),))
        fully_shard(model[0], mesh=mesh)
        fully_shard(model, mesh=mesh)
    if kind == "tensors":
        mesh = init_device_mesh("cpu", (distributed.get_world_size(),))
        parallelize_module(model, mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})
    if kind == "both":
        mesh = init_device_mesh("cpu", (2, distributed.get_world_size() // 2), mesh_dim_names=("dp", "tp"))
        parallelize_module(model, mesh["tp"], {"0": ColwiseParallel(), "2": RowwiseParallel()})
        fully_shard(model[0], mesh=mesh["dp"])
        fully_shard(model, mesh=mesh["dp"])
    return model


def full(tensor):
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def train(kind, case):
    policy, updates, allocation = CASES[case]
    rank, size = distributed.get_rank(), distributed.get_world_size()
    if kind == "tensors":  # every rank has the whole batch
        rank, size = 0, 1
    if kind == "both":  # the ranks of one tensor-parallel group have the same rows
        rank, size = rank // 2, size // 2
    model = spread(net(), kind)
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    tiles = case if ":" in case else None
    target = Target(0.5 if case == "2:4" else 0.7, min_density=0.05, allocation=allocation, pattern=tiles)
    policy = policy if isinstance(policy, str) else policy()
    controller = attach(model, optimizer, target, 30, policy=policy, updates=updates, readings=Readings(every=5))
    rows, revived, params = torch.Generator().manual_seed(1), [], dict(model.named_parameters())
    for step in range(30):
        x, y = torch.randn(32, 8, generator=rows).double(), torch.randint(3, (32,), generator=rows)
        own = slice(rank * 32 // size, (rank + 1) * 32 // size)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[own]), y[own]).backward()
        optimizer.step()
        if not controller.frozen and case == "fixed_interval":  # refills every zero: nothing is held
            continue
        for name, mask in controller.masks.items():
            value, mask = (t.to_local() if hasattr(t, "to_local") else t for t in (params[name].detach(), mask))
            revived += [(step, name)] * bool(value[~mask].any())
    controller.finalize()
    return {
        "weights": [full(p).detach().clone() for p in model.parameters()],
        "masks": {name: full(mask.to(torch.uint8)).bool() for name, mask in controller.masks.items()},
        "done": [(e.step, e.kind, [(l.name, l.live) for l in e.layers]) for e in controller.events],
        "grad_norms": [reading.grad_norm for reading in controller.readings],
        "entropies": [reading.entropy for reading in controller.readings],
        "sparsity": controller.sparsity,
        "revived": revived,
    }


warnings.simplefilter("ignore")
for size, kind, cases in RUNS:
    fork_group(lambda rank: {name: train(kind, name) for name in cases}, size, f"{folder}/{kind}{size}")
"""
FOUR = ("gmp", "cyclic_pruning", "rigl", "soft_threshold")
CASES = (*FOUR, "noise", "ramp", "last", "fixed_interval", "2:4", "block:2x2")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharded")
    (folder / "worker.py").write_text(WORKER)
    run_ranks(folder / "worker.py", folder, size=1, timeout=900)
    kinds = ((1, "plain"), (2, "shards"), (4, "shards"), (2, "tensors"), (4, "both"))
    return {kind: [torch.load(folder / f"{kind[1]}{kind[0]}-{rank}.pt") for rank in range(kind[0])] for kind in kinds}


def runs_of(size, kind, place, cases):
    marks = pytest.mark.conformance("ranks equal", place=place)
    return [pytest.param(size, kind, case, id=f"{kind}-{size}-{case}", marks=marks) for case in cases]


@pytest.mark.parametrize(
    ("size", "kind", "case"),
    [
        *runs_of(2, "shards", "fully_shard (FSDP2), 2 processes", CASES),
        *runs_of(4, "shards", "fully_shard (FSDP2), 4 processes", FOUR),
        *runs_of(2, "tensors", "tensor parallel, 2 processes", ("gmp", "soft_threshold", "entropy_cycles")),
        *runs_of(4, "both", "fully_shard and tensor parallel, 2 × 2 processes", (*FOUR, "noise", "2:4")),
    ],
)
def test_parts_together_are_one_process_on_the_joined_batch(runs, size, kind, case):
    whole = runs[1, "plain"][0][case]
    assert whole["done"]
    for part in (found[case] for found in runs[size, kind]):
        assert part["done"] == whole["done"]
        assert part["masks"].keys() == whole["masks"].keys()
        assert all(torch.equal(mask, whole["masks"][name]) for name, mask in part["masks"].items())
        assert part["sparsity"] == whole["sparsity"]
        # Readings are kept in float32.
        assert part["grad_norms"] == pytest.approx(whole["grad_norms"], rel=8 * unit(torch.float32))
        assert all(entropy is not None for entropy in part["entropies"])
        if kind == "tensors":  # the same rows, of all units
            assert part["entropies"] == pytest.approx(whole["entropies"], rel=8 * unit(torch.float32))
        for one, other in zip(part["weights"], whole["weights"], strict=True):
            # Half of the digits: rounding differs from the first sum on, and training carries it along.
            assert torch.allclose(one, other, rtol=0.0, atol=unit(torch.float64) ** 0.5)


PLACES = {
    "fully_shard (FSDP2), 2 processes": (2, "shards"),
    "fully_shard (FSDP2), 4 processes": (4, "shards"),
    "tensor parallel, 2 processes": (2, "tensors"),
    "fully_shard and tensor parallel, 2 × 2 processes": (4, "both"),
}


@pytest.fixture(params=PLACES)
def place(request, runs):
    """What every rank found in one place, by case."""
    return runs[PLACES[request.param]]


@pytest.mark.conformance("heads right")
def test_the_layer_of_the_output_is_left_alone(place):
    assert all(set(part["masks"]) == {"0.weight", "2.weight", "4.weight"} for rank in place for part in rank.values())


@pytest.mark.conformance("masks held")
def test_closed_weights_of_each_part_are_zero_after_every_step(place):
    assert all(part["revived"] == [] for rank in place for part in rank.values())


@pytest.mark.conformance("target reached")
def test_the_target_is_reached_by_all_parts_together(place):
    for rank in place:
        for case in ("gmp", "soft_threshold"):
            masks = rank[case]["masks"].values()
            size = sum(mask.numel() for mask in masks)
            assert sum(int(mask.sum()) for mask in masks) == int((1 - 0.7) * size + 0.5)


@pytest.mark.conformance("entropy read")
def test_every_reading_of_parts_has_an_entropy(place):
    entropies = [entropy for rank in place for part in rank.values() for entropy in part["entropies"]]
    assert entropies
    assert all(entropy is not None and 0.0 <= entropy <= 1.0 for entropy in entropies)
