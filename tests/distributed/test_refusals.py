"""What is sharded over processes is refused at attach, in one sentence with the way out."""

from __future__ import annotations

import pytest
import torch
from torch import distributed, nn
from torch.distributed.fsdp import fully_shard

import surgecollapse as sc


@pytest.fixture
def group():
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def net():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))


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


@pytest.mark.usefixtures("group")
@pytest.mark.filterwarnings("ignore")
def test_sharded_parameters_are_refused():
    model = fully_shard(net(), mesh=torch.distributed.device_mesh.init_device_mesh("cpu", (1,)))
    optimizer = torch.optim.AdamW(model.parameters())
    with pytest.raises(ValueError, match=r"0\.weight.*is sharded over processes.*DistributedDataParallel"):
        sc.attach(model, optimizer, 0.5, 100)
