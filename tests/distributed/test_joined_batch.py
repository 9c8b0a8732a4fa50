"""Two and four ranks make the run of one process on the joined batch: the same decisions and masks, equal weights."""

from __future__ import annotations

import pytest
import torch

from processes import run_ranks
from rounding import unit

POLICIES = ("cyclic_pruning", "acdc", "gmp", "granet", "rigl", "set", "soft_threshold")

SIZES = (1, 2, 4)

WORKER = (
    f"SIZES = {SIZES}"
    + """
import sys

import torch
import torch._dynamo  # an optimizer's first step imports it: here once for all ranks
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from processes import fork_group
from surgecollapse import Readings, attach

folder = sys.argv[2]
torch.set_num_threads(1)


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 3)).double()


def train(policy, rank, size):
    model = net()
    called = DistributedDataParallel(model) if size > 1 else model
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    controller = attach(called, optimizer, 0.8, 100, policy=policy, readings=Readings(every=5))
    rows, revived, params = torch.Generator().manual_seed(1), [], dict(model.named_parameters())
    for step in range(100):
        x, y = torch.randn(32, 8, generator=rows).double(), torch.randint(3, (32,), generator=rows)
        own = slice(rank * 32 // size, (rank + 1) * 32 // size)
        optimizer.zero_grad()
        nn.functional.cross_entropy(called(x[own]), y[own]).backward()
        optimizer.step()
        revived += [(step, name) for name, mask in controller.masks.items() if params[name].detach()[~mask].any()]
    controller.finalize()
    return {
        "weights": [p.detach().clone() for p in model.parameters()],
        "masks": dict(controller.masks),
        "done": [(e.step, e.kind, [(l.name, l.live) for l in e.layers]) for e in controller.events],
        "revived": revived,
        "entropies": [reading.entropy for reading in controller.readings],
    }


for size in SIZES:
    fork_group(lambda rank: {name: train(name, rank, size) for name in sys.argv[3:]}, size, f"{folder}/{size}")
"""
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("joined")
    (folder / "worker.py").write_text(WORKER)
    run_ranks(folder / "worker.py", folder, *POLICIES, size=1)
    return {(size, rank): torch.load(folder / f"{size}-{rank}.pt") for size in SIZES for rank in range(size)}


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


@pytest.fixture(params=["DistributedDataParallel, 2 processes", "DistributedDataParallel, 4 processes"])
def place(request, runs):
    """What every rank found, by policy."""
    size = 2 if "2" in request.param else 4
    return [runs[size, rank] for rank in range(size)]


@pytest.mark.conformance("heads right")
def test_the_layer_of_the_output_is_left_alone(place):
    assert all(set(part["masks"]) == {"0.weight", "2.weight"} for rank in place for part in rank.values())


@pytest.mark.conformance("masks held")
def test_closed_weights_are_zero_after_every_step(place):
    assert all(part["revived"] == [] for rank in place for part in rank.values())


@pytest.mark.conformance("target reached")
def test_the_target_is_reached(place):
    for rank in place:
        for policy in ("gmp", "cyclic_pruning", "soft_threshold"):
            masks = rank[policy]["masks"].values()
            size = sum(mask.numel() for mask in masks)
            assert sum(int(mask.sum()) for mask in masks) == int((1 - 0.8) * size + 0.5)


@pytest.mark.conformance("entropy read")
def test_every_reading_has_an_entropy(place):
    entropies = [entropy for rank in place for part in rank.values() for entropy in part["entropies"]]
    assert entropies
    assert all(entropy is not None and 0.0 <= entropy <= 1.0 for entropy in entropies)
