"""Of tensors that are split in any way, the same entries are selected and counted as of whole ones, ties included."""

from __future__ import annotations

from processes import run_ranks

WORKER = """
import sys
from datetime import timedelta
from itertools import product

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

from processes import fork_ranks
from surgecollapse.act.ledger import energies
from surgecollapse.act.sharded_ranking import ShardedRanking
from surgecollapse.functional import highest, lowest
from surgecollapse.torch_utils.distributed import Ranks
from surgecollapse.torch_utils.shards import Shards, box, local, part_of, whole

folder = sys.argv[2]
torch.set_num_threads(1)
SHAPES = {"wide": (7, 5), "few rows": (3, 9), "vector": (10,), "kernel": (6, 2, 3)}


def check(mesh, placements, dtype):
    draw = torch.Generator().manual_seed(0)
    # Few values, so that thresholds fall inside of ties that lie on several ranks.
    full = {name: torch.randint(-3, 4, shape, generator=draw).to(dtype) for name, shape in SHAPES.items()}
    full["wide"][2, 3], full["kernel"][5, 1, 1] = torch.nan, torch.inf
    allowed = {name: torch.rand(shape, generator=draw) < 0.7 for name, shape in SHAPES.items()}
    params = {
        name: distribute_tensor(value.clone(), mesh, placements if value.ndim > 1 else [Replicate()] * mesh.ndim)
        for name, value in full.items()
    }
    verify(full, allowed, params)


def check_both():
    # What fully_shard makes of weights that parallelize_module has split before, evenly or not.
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    net, draw = nn.Sequential(nn.Linear(4, 26), nn.Linear(26, 3), nn.Linear(3, 5)), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randint(-3, 4, p.shape, generator=draw))
    full = {name: p.detach().clone() for name, p in net.named_parameters()}
    parallelize_module(net, mesh["tp"], {"0": ColwiseParallel(), "1": RowwiseParallel()})
    fully_shard(net, mesh=mesh["dp"])
    allowed = {name: torch.rand(p.shape, generator=draw) < 0.7 for name, p in full.items()}
    params = {name: p.detach() for name, p in net.named_parameters()}
    assert any(type(kind).__name__ == "_StridedShard" for kind in params["0.weight"].placements)
    verify(full, allowed, params)


def verify(full, allowed, params):
    dtype = next(iter(full.values())).dtype
    params["plain"], full["plain"], allowed["plain"] = (t := torch.arange(4).to(dtype)), t, torch.ones(4).bool()
    shards = Shards(Ranks(distributed.group.WORLD), sharded=True)
    ranking = ShardedRanking(lambda: params, shards)
    parts = {name: local(p).detach() for name, p in params.items()}
    for name, p in params.items():
        assert box(p)[1] == tuple(parts[name].shape)
        assert torch.equal(part_of(p, full[name]).nan_to_num(), parts[name].nan_to_num())
        assert torch.equal(whole(p, parts[name]).nan_to_num(), full[name].nan_to_num())
    assert ranking.counts({n: part_of(p, allowed[n]) for n, p in params.items()}) == {
        n: int(mask.sum()) for n, mask in allowed.items()
    }
    finite = {n: p for n, p in params.items() if n not in ("wide", "kernel")}
    assert energies(finite, shards) == {n: float(full[n].float().square().sum()) for n in finite}
    total = sum(value.numel() for value in full.values())
    for (mine, theirs), k in product(((ranking.lowest, lowest), (ranking.highest, highest)), (0, 1, 40, 77, total)):
        expected = theirs(list(full.values()), k)
        found = mine(parts, k)
        assert all(torch.equal(part_of(p, e), f) for p, e, f in zip(params.values(), expected, found, strict=True)), k
    eligible = {n: part_of(p, allowed[n]) for n, p in params.items()}
    for k in (1, 30, sum(int(mask.sum()) for mask in allowed.values())):
        expected = lowest(list(full.values()), k, eligible=list(allowed.values()))
        found = ranking.lowest(parts, k, eligible)
        assert all(torch.equal(part_of(p, e), f) for p, e, f in zip(params.values(), expected, found, strict=True)), k


def messages():
    mesh, sizes, real = init_device_mesh("cpu", (4,)), [], distributed.all_reduce
    params = {"w": distribute_tensor(torch.randn(64, 32), mesh, [Shard(0)])}
    ranking = ShardedRanking(lambda: params, Shards(Ranks(distributed.group.WORLD), sharded=True))
    distributed.all_reduce = lambda x, *a, **k: (sizes.append(x.numel() * x.element_size()), real(x, *a, **k))[1]
    ranking.lowest({"w": local(params["w"])}, 1000)
    distributed.all_reduce = real
    return sizes


def work(rank):
    distributed.init_process_group("gloo", f"file://{folder}/meet", timedelta(minutes=10), 4, rank)
    line, square = init_device_mesh("cpu", (4,)), init_device_mesh("cpu", (2, 2))
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        check(line, [Shard(0)], dtype)
    check(line, [Shard(1)], torch.float32)
    check(line, [Replicate()], torch.float32)
    check(square, [Replicate(), Shard(0)], torch.float32)
    check(square, [Shard(1), Shard(0)], torch.float32)
    check_both()
    # Two histograms of 16 bits of the keys, as benchmarks/scaling.py counts them.
    assert messages() == [2**16 * 8] * 2, messages()
    distributed.barrier()
    distributed.destroy_process_group()


fork_ranks(work, 4)
"""


def test_parts_are_ranked_and_counted_as_the_whole(tmp_path):
    (tmp_path / "worker.py").write_text(WORKER)
    run_ranks(tmp_path / "worker.py", tmp_path, size=1, timeout=900)
