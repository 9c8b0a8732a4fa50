"""What cannot be sharded over processes is refused in one sentence, with the way out."""

from __future__ import annotations

import pytest
import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.placement_types import _StridedShard

import surgecollapse as sc
import surgecollapse.export


@pytest.fixture
def group():
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def net():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))


@pytest.mark.conformance("refused", place="ZeroRedundancyOptimizer")
@pytest.mark.usefixtures("group")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_sharded_optimizer_is_refused_by_attach_and_by_transforms():
    from torch.distributed.optim import ZeroRedundancyOptimizer  # its import warns

    model = net()
    optimizer = ZeroRedundancyOptimizer(model.parameters(), torch.optim.AdamW, lr=1e-3)
    with pytest.raises(ValueError, match=r"ZeroRedundancyOptimizer.*ordinary optimizer under DistributedDataParallel"):
        sc.attach(model, optimizer, 0.5, 100)
    with pytest.raises(ValueError, match="ZeroRedundancyOptimizer"):
        sc.transform_gradients(optimizer, [sc.ClipNorm(1.0)])


def sharded():
    model = fully_shard(net(), mesh=init_device_mesh("cpu", (1,)))
    return model, torch.optim.AdamW(model.parameters())


@pytest.mark.usefixtures("group")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"monitors": "default"}, r"monitors look at whole weights.*leave out monitors="),
        ({"policy": "redo"}, r"policy 'redo'.*choose another policy"),
    ],
)
def test_what_needs_whole_weights_is_refused_for_shards(options, word):
    model, optimizer = sharded()
    with pytest.raises(ValueError, match=word):
        sc.attach(model, optimizer, **{"sparsity": 0.5, "total_steps": 100, **options})


@pytest.mark.usefixtures("group")
@pytest.mark.parametrize(
    "write",
    [
        lambda model, folder: sc.export.save_sparse(model, folder / "net.safetensors"),
        lambda model, _: sc.export.compact_model(model, torch.ones(2, 4)),
        lambda model, _: sc.export.to_csr(model, torch.ones(2, 4)),
        lambda model, folder: sc.export.export_onnx(model, torch.ones(2, 4), folder / "net.onnx"),
        lambda model, folder: sc.export.save_program(model, torch.ones(2, 4), folder / "net.pt2"),
        lambda model, _: sc.export.to_semi_structured(model, torch.ones(2, 4)),
    ],
    ids=["sparse", "compact", "csr", "onnx", "program", "2:4"],
)
def test_the_export_of_shards_is_refused(tmp_path, write):
    model, _ = sharded()
    with pytest.raises(ValueError, match=r"0\.weight is split over processes.*load it into a plain model"):
        write(model, tmp_path)


@pytest.mark.usefixtures("group")
def test_a_model_that_is_sharded_after_attach_is_refused_at_its_first_step():
    model = net()
    optimizer = torch.optim.AdamW(model.parameters())
    sc.attach(model, optimizer, 0.5, 100, policy="gmp", readings=sc.Readings(every=2))
    fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
    model(torch.ones(4, 4)).sum().backward()
    with pytest.raises(RuntimeError, match=r"sharded after attach.*attach last"):
        optimizer.step()


@pytest.mark.usefixtures("group")
def test_parts_that_are_no_slices_are_refused():
    # A strided placement that counts splits which are not there: parts of several pieces.
    mesh, model = init_device_mesh("cpu", (1,)), net()
    strided = DTensor.from_local(torch.ones(8, 4), mesh, [_StridedShard(0, split_factor=2)], run_check=False)
    model[0].weight = nn.Parameter(strided)
    with pytest.raises(ValueError, match=r"0\.weight is split as .*StridedShard.*fully_shard after parallelize_module"):
        sc.attach(model, torch.optim.AdamW(model.parameters()), 0.5, 1_000)


@pytest.mark.conformance("refused", place="FullyShardedDataParallel (FSDP1)")
@pytest.mark.usefixtures("group")
@pytest.mark.filterwarnings("ignore")
def test_flat_parameters_are_refused():
    from torch.distributed.fsdp import FullyShardedDataParallel

    model = FullyShardedDataParallel(net(), device_id=torch.device("cpu"))
    with pytest.raises(ValueError, match=r"flat parameter.*fully_shard instead"):
        sc.attach(model, torch.optim.AdamW(model.parameters()), 0.5, 100)
