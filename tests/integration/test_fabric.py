"""Lightning Fabric works with plain attach, before or after ``setup``: bitwise the plain loop, resumable."""

from __future__ import annotations

import pytest
import torch
from torch import nn

lightning = pytest.importorskip("lightning")

from surgecollapse import ClipNorm, Readings, attach  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")
STEPS, HALF = 80, 37
ORDERS = ("attached after setup", "attached before setup")


def batches():
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.randn(16, 8, generator=generator), torch.randint(3, (16,), generator=generator)) for _ in range(STEPS)
    ]


class Loop:
    """A loop by hand, in Fabric or without it."""

    def __init__(self, order=None, precision="32-true"):
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3))
        inner = torch.optim.AdamW(self.net.parameters(), 5e-3)
        self.fabric = lightning.Fabric(accelerator="cpu", devices=1, precision=precision) if order else None
        self.model, self.optimizer = self.net, inner
        if order == "attached before setup":
            self.attach()
        if self.fabric is not None:
            self.model, self.optimizer = self.fabric.setup(self.net, inner)
        if order != "attached before setup":
            self.attach()
        self.revived = []

    def attach(self):
        self.controller = attach(
            self.model, self.optimizer, 0.8, STEPS, readings=Readings(every=5), transforms=[ClipNorm(1.0)]
        )

    def train(self, first=0, last=STEPS):
        for step, (x, y) in list(enumerate(batches()))[first:last]:
            self.optimizer.zero_grad()
            loss = nn.functional.cross_entropy(self.model(x), y)
            loss.backward() if self.fabric is None else self.fabric.backward(loss)
            self.optimizer.step()
            weights = dict(self.net.named_parameters())
            self.revived += [step for name, mask in self.controller.masks.items() if weights[name][~mask].any()]
        return self


@pytest.fixture(scope="module")
def plain():
    return Loop().train()


@pytest.mark.conformance("target reached", place="Lightning Fabric")
@pytest.mark.conformance("masks held", place="Lightning Fabric")
@pytest.mark.conformance("heads right", place="Lightning Fabric")
@pytest.mark.parametrize("order", ORDERS)
def test_it_is_bitwise_the_plain_loop(plain, order):
    loop = Loop(order).train()
    assert loop.controller.step == STEPS
    assert loop.revived == []
    assert set(loop.controller.masks) == {"0.weight", "2.weight"}
    for one, other in zip(loop.net.parameters(), plain.net.parameters(), strict=True):
        assert torch.equal(one, other)
    assert loop.controller.sparsity == plain.controller.sparsity == 0.8
    assert [reading.entropy for reading in loop.controller.readings] == [r.entropy for r in plain.controller.readings]


@pytest.mark.conformance("resume bitwise", place="Lightning Fabric")
@pytest.mark.parametrize("order", ORDERS)
def test_what_fabric_saves_resumes_bitwise(plain, order, tmp_path):
    half = Loop(order).train(last=HALF)
    half.fabric.save(tmp_path / "half.ckpt", {"model": half.model, "optimizer": half.optimizer})
    again = Loop(order)
    again.fabric.load(tmp_path / "half.ckpt", {"model": again.model, "optimizer": again.optimizer})
    again.train(first=HALF)
    for one, other in zip(again.net.parameters(), plain.net.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.conformance("entropy read", place="Lightning Fabric")
@pytest.mark.parametrize("order", ORDERS)
def test_mixed_precision_is_read_and_reaches_the_target(order):
    loop = Loop(order, "bf16-mixed").train()
    assert loop.controller.sparsity == 0.8
    assert all(reading.entropy is not None for reading in loop.controller.readings)
