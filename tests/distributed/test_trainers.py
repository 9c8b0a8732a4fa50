"""The trainers of others in two processes: every rank ends with the same weights, masks and decisions."""

from __future__ import annotations

import pytest
import torch

from processes import results_of_ranks

WORKER = """
import os
import socket
import sys
import warnings
from pathlib import Path

rank, folder = int(sys.argv[1]), Path(sys.argv[2])
meeting = folder / "port"
if rank == 0:  # as torchrun sets it up
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "port.new").write_text(str(port))
    (folder / "port.new").rename(meeting)
while not meeting.exists():
    pass
os.environ |= {
    "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0",
    "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": meeting.read_text(), "TORCHELASTIC_RUN_ID": "none",
    "TORCHELASTIC_MAX_RESTARTS": "0", "TORCHELASTIC_RESTART_COUNT": "0", "ACCELERATE_USE_CPU": "true",
}

import torch
from torch import distributed, nn

from surgecollapse import Readings, attach

torch.set_num_threads(1)
warnings.simplefilter("ignore")
STEPS, EVERY = 40, Readings(every=4)
generator = torch.Generator().manual_seed(0)
DATA = torch.utils.data.TensorDataset(
    torch.randn(160, 8, generator=generator), torch.randint(3, (160,), generator=generator)
)


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3))


def found(model, controller):
    return {
        "ranks": distributed.get_world_size(),
        "weights": [p.detach().clone() for p in model.parameters()],
        "masks": dict(controller.masks),
        "done": [(event.step, event.kind, event.reason) for event in controller.events],
        "readings": [(reading.step, reading.entropy) for reading in controller.readings],
        "sparsity": controller.sparsity,
    }


def accelerate_(before=False):
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    model = net()
    optimizer, loader = torch.optim.AdamW(model.parameters(), 5e-3), torch.utils.data.DataLoader(DATA, 8)
    if before:
        controller = attach(model, optimizer, 0.8, STEPS, readings=EVERY, policy="entropy_cycles")
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    if not before:
        controller = attach(model, optimizer, 0.8, STEPS, readings=EVERY, policy="entropy_cycles")
    for _ in range(4):
        for x, y in loader:
            optimizer.zero_grad()
            accelerator.backward(nn.functional.cross_entropy(model(x), y))
            optimizer.step()
    controller.finalize()
    return found(accelerator.unwrap_model(model), controller)


class Rows(torch.utils.data.Dataset):
    def __len__(self):
        return len(DATA)

    def __getitem__(self, i):
        return {"x": DATA[i][0], "labels": DATA[i][1]}


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = net()

    def forward(self, x, labels=None):
        logits = self.net(x)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def trainer_():
    import transformers

    from surgecollapse.integrations.transformers import SurgeCollapseCallback

    pruning, model = SurgeCollapseCallback(0.8, readings=EVERY, policy="entropy_cycles"), Classifier()
    arguments = transformers.TrainingArguments(
        str(folder / "out"), max_steps=STEPS, per_device_train_batch_size=8, learning_rate=5e-3, report_to=[],
        disable_tqdm=True, use_cpu=True, save_strategy="no", ddp_backend="gloo",
    )
    transformers.Trainer(model, arguments, train_dataset=Rows(), callbacks=[pruning]).train()
    return found(model, pruning.controller)


def fabric_(before=False):
    import lightning

    fabric = lightning.Fabric(accelerator="cpu", devices=2, strategy="ddp")
    fabric.launch()
    inner = net()
    optimizer = torch.optim.AdamW(inner.parameters(), 5e-3)
    if before:
        controller = attach(inner, optimizer, 0.8, STEPS, readings=EVERY, policy="entropy_cycles")
    model, optimizer = fabric.setup(inner, optimizer)
    loader = fabric.setup_dataloaders(torch.utils.data.DataLoader(DATA, 8))
    if not before:
        controller = attach(model, optimizer, 0.8, STEPS, readings=EVERY, policy="entropy_cycles")
    for _ in range(4):
        for x, y in loader:
            optimizer.zero_grad()
            fabric.backward(nn.functional.cross_entropy(model(x), y))
            optimizer.step()
    controller.finalize()
    return found(inner, controller)


def lightning_():
    import lightning.pytorch as pl

    from surgecollapse.integrations.lightning import SurgeCollapse

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = net()

        def forward(self, x):
            return self.net(x)

        def training_step(self, batch, _):
            return nn.functional.cross_entropy(self(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), 5e-3)

    pruning, module = SurgeCollapse(0.8, readings=EVERY, policy="entropy_cycles"), Module()
    trainer = pl.Trainer(
        default_root_dir=folder, max_epochs=4, accelerator="cpu", devices=2, strategy="ddp", logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, callbacks=[pruning],
    )
    trainer.fit(module, torch.utils.data.DataLoader(DATA, 8))
    return found(module, pruning.controller)


runs = {
    ("Accelerate", "after"): accelerate_,
    ("Accelerate", "before"): lambda: accelerate_(before=True),
    ("transformers Trainer", "before"): trainer_,
    ("Lightning Fabric", "after"): fabric_,
    ("Lightning Fabric", "before"): lambda: fabric_(before=True),
    ("Lightning", "before"): lightning_,
}
torch.save({name: run() for name, run in runs.items()}, folder / f"{rank}.pt")
os._exit(0)  # without the interpreter's teardown, in which a thread of gloo may abort
"""
CASES = [  # in which order attach and the wrapping by DistributedDataParallel come
    ("Accelerate", "after"),
    ("Accelerate", "before"),
    ("transformers Trainer", "before"),
    ("Lightning Fabric", "after"),
    ("Lightning Fabric", "before"),
    ("Lightning", "before"),
]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    for package in ("accelerate", "transformers", "lightning"):
        pytest.importorskip(package)
    return results_of_ranks(WORKER, tmp_path_factory.mktemp("trainers"), timeout=900)


@pytest.mark.conformance("ranks equal")
@pytest.mark.parametrize(("place", "order"), CASES)
def test_both_ranks_have_the_same_weights_masks_and_decisions(ranks, place, order):
    first, second = (found[place, order] for found in ranks)
    assert first["ranks"] == 2
    assert first["done"] == second["done"]
    assert first["done"]
    assert first["readings"] == second["readings"]
    assert all(entropy is not None for _, entropy in first["readings"])
    assert all(torch.equal(a, b) for a, b in zip(first["weights"], second["weights"], strict=True))
    assert first["masks"].keys() == second["masks"].keys()
    assert all(torch.equal(mask, second["masks"][name]) for name, mask in first["masks"].items())
    size = sum(mask.numel() for mask in first["masks"].values())
    assert sum(int(mask.sum()) for mask in first["masks"].values()) == int((1 - 0.8) * size + 0.5)
