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


# What is short or sparse is warned of.
@pytest.mark.filterwarnings("ignore:.* (give|gives|leave|leaves|are|is|has learned) ")
@pytest.mark.parametrize("name", sorted(POLICIES))
def test_the_target_is_exact_or_refused_at_attach(name):
    exact = 0
    for number, (steps, sparsity) in enumerate(itertools.product(STEPS, SPARSITIES)):
        torch.manual_seed(number)
        model = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3))
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        readings = sc.Readings(every=EVERY[number % len(EVERY)], probe=X[:16])
        target = sc.Target(sparsity, min_density=0.0005)
        try:
            controller = sc.attach(model, optimizer, target, steps, policy=name, readings=readings)
        except ValueError as error:
            refused = str(error)
        else:
            refused = ""
        if refused:
            assert refused.startswith(("total_steps=", f"sparsity {sparsity} leaves"))
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
