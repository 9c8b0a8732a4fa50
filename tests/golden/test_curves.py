"""The outcome of 200 steps under each policy: whoever moves these numbers says so in the changelog (**Numerics:**).

Losses are taken every 20 steps and compared to within 1%, since kernels of another torch or processor round
differently; counts of weights are exact.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

import surgecollapse

CURVES = {
    "hold": [0.6418, 0.5435, 0.3832, 0.1805, 0.1332, 0.0481, 0.0413, 0.0182, 0.0200, 0.0088],
    "classic": [0.6418, 0.5435, 0.3832, 0.1805, 0.1332, 0.1135, 0.1087, 0.0332, 0.0363, 0.0150],
    "cycles": [0.6418, 0.6107, 0.5077, 0.4042, 0.3920, 0.2306, 0.3052, 0.1510, 0.1977, 0.1089],
    "entropy": [0.6418, 0.6411, 0.5645, 0.5317, 0.4480, 0.3329, 0.3223, 0.1763, 0.2261, 0.1105],
    "rules": [0.6418, 0.5435, 0.3832, 0.1805, 0.1332, 0.0512, 0.1120, 0.0762, 0.2333, 0.1519],
}
# (step, kind, weights closed, weights reopened); 5,120 weights are prunable, 80% of them are 4,096.
CYCLES = [
    *((step, kind, *counts) for start in range(20, 160, 20) for step, kind, counts in (
        (start, "collapse", (4096, 0)),
        (start + 10, "surge", (0, 4096)),
    )),
    (170, "collapse", 4096, 0),
    (170, "freeze", 0, 0),
]  # fmt: skip


def train(policy):
    """Train for 200 steps on which half of the inputs is longer; return every loss and the controller."""
    x = torch.randn(512, 16, generator=torch.Generator().manual_seed(0))
    y = (x[:, :8].square().sum(1) > x[:, 8:].square().sum(1)).long()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    controller = surgecollapse.attach(
        model, optimizer, sparsity=0.8, total_steps=200, readings=surgecollapse.Readings(every=10), policy=policy
    )
    losses = []
    for step in range(200):
        rows = torch.arange(step * 64, step * 64 + 64) % len(x)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, controller


@pytest.mark.parametrize("policy", CURVES)
def test_loss_curve_is_the_one_on_record(policy):
    losses, _ = train(policy)
    assert losses[19::20] == pytest.approx(CURVES[policy], rel=0.01, abs=1e-4)


def test_cycles_close_and_reopen_exactly_these_weights():
    _, controller = train("cycles")
    assert [(event.step, event.kind, event.pruned, event.grown) for event in controller.events] == CYCLES


def test_before_the_first_event_every_policy_is_plain_training():
    plain = train("hold")[0]
    for policy in set(CURVES) - {"hold"}:
        losses, controller = train(policy)
        first = controller.events[0].step
        assert losses[:first] == plain[:first]
        assert losses[first:] != plain[first:]
