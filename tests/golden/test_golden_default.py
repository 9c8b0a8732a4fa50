"""The default policy, and that of version 0.1, on a small problem in float64: losses, and every intervention exactly.

Whoever moves these numbers says so in the changelog (**Numerics:**). Double precision keeps kernels and thread counts
out of the digits that are compared.
"""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

import surgecollapse

LOSSES = {50: 0.532565, 100: 0.118023, 150: 0.0920337, 200: 0.00832663}
SIZE = 12 * 32 + 32 * 32  # the output layer is not pruned
TARGET, DEEPEST = SIZE // 4, SIZE // 8  # open at sparsity .75, and at half of that density
HALF = (SIZE - DEEPEST) // 2  # a surge reopens half of what is closed
PHASES = [
    ("collapse", SIZE - DEEPEST, 0),
    *[("surge", 0, HALF), ("collapse", HALF, 0)] * 6,
    ("surge", 0, HALF),
]


DEFAULT_LOSSES = {50: 0.217989, 100: 0.185194, 150: 0.0344355, 200: 0.0148052}
DEFAULT_ACTS = [
    *zip(range(15, 40, 5), ["collapse"] * 5, [515, 313, 160, 60, 8], [0] * 5, strict=True),
    (40, "surge", 0, 370),
    *zip(range(45, 70, 5), ["collapse"] * 5, [181, 109, 56, 21, 43], [0] * 5, strict=True),
    (70, "surge", 0, 384),
    *zip(range(75, 100, 5), ["collapse"] * 5, [323, 195, 50, 22, 0], [0] * 5, strict=True),
    (100, "surge", 0, 456),
    *zip(range(105, 155, 5), ["collapse"] * 10, [57, 46, 35, 27, 19, 13, 7, 4, 2, 0], [0] * 10, strict=True),
    (150, "freeze", 0, 0),
]


def train(policy):
    x = torch.randn(256, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = (x[:, 0] * x[:, 1] > 0).long()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2)).double()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    controller = surgecollapse.attach(
        model, optimizer, 0.75, 200, policy=policy, readings=surgecollapse.Readings(every=5)
    )
    losses = []
    for _ in range(200):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, controller


def test_the_default_policy_reaches_these_losses_by_these_interventions():
    losses, controller = train("cyclic_pruning")
    assert {step: losses[step - 1] for step in DEFAULT_LOSSES} == pytest.approx(DEFAULT_LOSSES, rel=1e-4)
    assert [(e.step, e.kind, e.pruned, e.grown) for e in controller.events] == DEFAULT_ACTS
    assert sum(int(mask.sum()) for mask in controller.masks.values()) == TARGET


def test_entropy_cycles_reach_these_losses_by_these_interventions():
    losses, controller = train(surgecollapse.EntropyCycles())
    assert {step: losses[step - 1] for step in LOSSES} == pytest.approx(LOSSES, rel=1e-4)
    assert [(e.step, e.kind, e.pruned, e.grown) for e in controller.events] == [
        *((step, *phase) for step, phase in zip(range(20, 160, 10), PHASES, strict=True)),
        (170, "collapse", DEEPEST + HALF - TARGET, 0),
        (170, "freeze", 0, 0),
    ]
    assert sum(int(mask.sum()) for mask in controller.masks.values()) == TARGET


def test_the_ledger_of_a_run_leaves_no_event_out():
    """Between two events the weights train; within an event energies before and after fit what was written."""
    _, controller = train(surgecollapse.EntropyCycles())
    acts = [event for event in controller.events if event.layers]
    for event in acts:
        assert event.energy_after == pytest.approx(sum(layer.energy_after for layer in event.layers))
        if event.kind == "surge":
            assert event.energy_after == event.energy_before  # reopened at zero
            assert event.energy_injected == 0.0
    for earlier, later in pairwise(acts):
        assert later.sparsity_before == earlier.sparsity_after
