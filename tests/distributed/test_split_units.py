"""Readings of tensor-parallel layers are those of all their units, whichever process computes them."""

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
from torch.distributed.tensor import Replicate
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from processes import fork_group
from surgecollapse import Readings, attach

folder = sys.argv[2]
torch.set_num_threads(1)


class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.into, self.out, self.relu = nn.Linear(8, width), nn.Linear(width, 6), nn.ReLU()
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.relu(self.out(self.relu(self.into(x)))))


SPREAD = {
    "columns": {"into": ColwiseParallel(), "out": RowwiseParallel()},
    "gathered": {"into": ColwiseParallel(output_layouts=Replicate())},
    "distributed": {"into": ColwiseParallel(use_local_output=False), "out": RowwiseParallel()},
}


def readings(kind, width, size):
    torch.manual_seed(0)
    net = Net(width).double()
    if kind == "both":
        mesh = init_device_mesh("cpu", (2, size // 2), mesh_dim_names=("dp", "tp"))
        parallelize_module(net, mesh["tp"], SPREAD["columns"])
        fully_shard(net.into, mesh=mesh["dp"])
        fully_shard(net, mesh=mesh["dp"])
    elif kind != "plain":
        parallelize_module(net, init_device_mesh("cpu", (size,)), SPREAD[kind])
    optimizer = torch.optim.SGD(net.parameters(), 0.01)
    controller = attach(net, optimizer, 0.5, 100, readings=Readings(every=2), policy="no_op")
    draws = torch.Generator().manual_seed(1)
    for _ in range(6):
        optimizer.zero_grad()
        net(torch.randn(32, 8, generator=draws).double()).square().mean().backward()
        optimizer.step()
    return [[(layer.layer, layer.units, layer.entropy, layer.on_off, layer.dead, layer.energy) for layer in r.layers]
            for r in controller.readings]


EVEN = ("columns", "both")  # as torch has it where each process keeps its own part of the output
warnings.simplefilter("ignore")
for size, kinds in ((1, ["plain"]), (4, [*SPREAD, "both"])):
    cases = [(kind, width) for kind in kinds for width in (16, 10) if width == 16 or kind not in EVEN]
    fork_group(lambda rank: {case: readings(*case, size) for case in cases}, size, f"{folder}/{size}")
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("units")
    (folder / "worker.py").write_text(WORKER)
    run_ranks(folder / "worker.py", folder, size=1, timeout=900)
    return {size: [torch.load(folder / f"{size}-{rank}.pt") for rank in range(size)] for size in (1, 4)}


@pytest.mark.parametrize(
    ("kind", "width"),
    [("columns", 16), ("both", 16), *((kind, width) for kind in ("gathered", "distributed") for width in (16, 10))],
)
def test_readings_are_those_of_all_units(runs, kind, width):
    expected = runs[1][0]["plain", width]
    assert len(expected) == 3
    for rank in runs[4]:
        found = rank[kind, width]
        assert len(found) == len(expected)
        for reading, other in zip(found, expected, strict=True):
            for layer, same in zip(reading, other, strict=True):
                assert layer[:2] == same[:2]
                assert layer[2] is not None
                first = 3 if kind == "both" else 2  # where data may differ, the rows are paired in another order
                # Readings are kept in float32.
                close = pytest.approx(same[first:], rel=8 * unit(torch.float32), abs=8 * unit(torch.float32))
                assert layer[first:] == close
