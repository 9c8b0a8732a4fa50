"""However short a run and however high its sparsity: the target is reached exactly, or attach refuses."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

import surgecollapse as sc
from surgecollapse.policies import POLICIES

X = torch.randn(64, 12, generator=torch.Generator().manual_seed(0))
Y = torch.randint(3, (64,), generator=torch.Generator().manual_seed(1))
STEPS, EVERY, SPARSITIES = (1, 2, 3, 5, 9, 14, 27, 30), (1, 7, 50), (0.9, 0.97, 0.999)


def train(model, optimizer, steps):
    for step in range(steps):
        rows = slice(32) if step % 2 else slice(7)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(X[rows]), Y[rows]).backward()
        optimizer.step()


def attached_or_refused(model, optimizer, target, steps, policy, every, probe):
    """The controller; ``None`` where attach says that the run is too short or the target too sparse."""
    try:
        return sc.attach(model, optimizer, target, steps, policy=policy, readings=sc.Readings(every=every, probe=probe))
    except ValueError as error:
        refused = str(error)
    assert refused.startswith(("total_steps=", f"sparsity {target.sparsity} leaves"))
    return None


class Tied(nn.Module):
    """An embedding that the head shares, and a matrix that two layers share."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(12, 16), nn.Linear(16, 12, bias=False)
        self.one, self.other = nn.Linear(16, 16), nn.Linear(16, 16)
        self.head.weight, self.other.weight = self.embed.weight, self.one.weight

    def forward(self, tokens):
        return self.head(self.other(self.one(self.embed(tokens)).relu()).relu().mean(1))


class Recurrent(nn.Module):
    """Two recurrent layers over tokens."""

    def __init__(self):
        super().__init__()
        self.embed, self.lstm, self.head = nn.Embedding(12, 8), nn.LSTM(8, 12, 2, batch_first=True), nn.Linear(12, 12)

    def forward(self, tokens):
        return self.head(self.lstm(self.embed(tokens))[0][:, -1])


def convolutional():
    grouped = nn.Conv2d(12, 12, 3, groups=3)
    first = nn.Sequential(nn.Conv2d(2, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU())
    return nn.Sequential(*first, grouped, nn.ReLU(), nn.Flatten(), nn.Linear(48, 12))


TOKENS = torch.randint(12, (24, 5), generator=torch.Generator().manual_seed(2))
IMAGES = torch.randn(24, 2, 4, 4, generator=torch.Generator().manual_seed(3))
NETS = {  # and the number of prunable weights
    "convolutions": (convolutional, IMAGES, 12 * 2 * 9 + 12 * 4 * 9),
    "recurrent": (Recurrent, TOKENS, 4 * 12 * (8 + 12 + 12 + 12)),
    "tied": (Tied, TOKENS, 16 * 16),
}


@pytest.mark.filterwarnings("ignore:.* (give|gives|leave|leaves|are|is|has learned) ")
@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("name", sorted(POLICIES))
def test_the_target_is_exact_or_refused_in_other_nets(name, net):
    build, x, size = NETS[net]
    exact = 0
    for number, (steps, sparsity) in enumerate([(2, 0.9), (5, 0.97), (17, 0.99), (30, 0.9), (30, 0.999)]):
        torch.manual_seed(number)
        model = build()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        target = sc.Target(sparsity, min_density=0.0)
        controller = attached_or_refused(model, optimizer, target, steps, name, EVERY[number % len(EVERY)], x)
        if controller is None:
            continue
        for _ in range(steps):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), torch.arange(24) % 12).backward()
            optimizer.step()
        controller.finalize()
        weights = [model.get_parameter(key) for key in controller.masks]
        assert sum(weight.numel() for weight in weights) == size
        live = sum(int(mask.sum()) for mask in controller.masks.values())
        assert live == int((1 - sparsity) * size + 0.5)
        assert all(not weight[~mask].any() for weight, mask in zip(weights, controller.masks.values(), strict=True))
        exact += 1
        controller.detach()
    assert exact >= 1


# What is short or sparse is warned of.
@pytest.mark.filterwarnings("ignore:.* (give|gives|leave|leaves|are|is|has learned) ")
@pytest.mark.parametrize("name", sorted(POLICIES))
def test_the_target_is_exact_or_refused_at_attach(name):
    exact = 0
    for number, (steps, sparsity) in enumerate(itertools.product(STEPS, SPARSITIES)):
        torch.manual_seed(number)
        model = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3))
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        target = sc.Target(sparsity, min_density=0.0005)
        controller = attached_or_refused(model, optimizer, target, steps, name, EVERY[number % len(EVERY)], X[:16])
        if controller is None:
            continue
        train(model, optimizer, steps)
        controller.finalize()
        train(model, optimizer, 2)
        weights = [model.get_parameter(key) for key in controller.masks]
        size = sum(weight.numel() for weight in weights)
        zeros = sum(int((weight == 0).sum()) for weight in weights)
        assert size == 12 * 32 + 32 * 32
        assert zeros == size - round((1 - sparsity) * size) == sum(int((~m).sum()) for m in controller.masks.values())
        exact += 1
        controller.detach()
    assert exact >= 2
