"""Plain attach on what Accelerate prepares, before or after it does."""

from __future__ import annotations

import pytest
import torch
from torch import nn

accelerate = pytest.importorskip("accelerate")

from surgecollapse import Readings, attach  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")


def parts():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3))
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(64, 8, generator=generator), torch.randint(3, (64,), generator=generator)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), 8)
    return net, torch.optim.AdamW(net.parameters(), 5e-3), loader


def loop(accelerator, net, optimizer, loader, epochs, controller=None):
    for _ in range(epochs):
        for x, y in loader:
            with accelerator.accumulate(net):
                optimizer.zero_grad()
                accelerator.backward(nn.functional.cross_entropy(net(x), y))
                accelerator.clip_grad_norm_(net.parameters(), 1.0)
                optimizer.step()
                if controller is not None:
                    weights = dict(accelerator.unwrap_model(net).named_parameters())
                    assert not any(weights[name][~mask].any() for name, mask in controller.masks.items())


def train(order, epochs=10, folder=None, load=False, accumulate=1):
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=accumulate)
    net, optimizer, loader = parts()
    options = {"readings": Readings(every=5)}
    total = 80 // accumulate
    if order == "before":
        controller = attach(net, optimizer, 0.8, total, **options)
        net, optimizer, loader = accelerator.prepare(net, optimizer, loader)
    else:
        net, optimizer, loader = accelerator.prepare(net, optimizer, loader)
        controller = attach(net, optimizer, 0.8, total, **options)
    if load:
        accelerator.load_state(folder)
    loop(accelerator, net, optimizer, loader, epochs, controller)
    if folder is not None and not load:
        accelerator.save_state(folder, safe_serialization=False)
    return accelerator.unwrap_model(net), controller


@pytest.mark.conformance("target reached", place="Accelerate")
@pytest.mark.conformance("masks held", place="Accelerate")
@pytest.mark.conformance("heads right", place="Accelerate")
@pytest.mark.conformance("entropy read", place="Accelerate")
@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_one_line_before_or_after_prepare(order, accumulate):
    net, controller = train(order, accumulate=accumulate)
    controller.finalize()
    weights = [net[0].weight, net[2].weight]
    assert sum(int((p == 0).sum()) for p in weights) == pytest.approx(0.8 * sum(p.numel() for p in weights), abs=1)
    assert controller.step == 80 // accumulate
    assert set(controller.masks) == {"0.weight", "2.weight"}
    assert controller.readings
    assert all(reading.entropy is not None for reading in controller.readings)
    controller.detach()


@pytest.mark.conformance("resume bitwise", place="Accelerate")
@pytest.mark.parametrize("order", ["before", "after"])
def test_a_resumed_run_is_bitwise_the_uninterrupted_one(tmp_path, order):
    whole, first = train(order)
    first.detach()
    _, half = train(order, epochs=5, folder=tmp_path / "state")
    half.detach()
    again, controller = train(order, epochs=5, folder=tmp_path / "state", load=True)
    assert controller.step == 80
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))
    controller.detach()
