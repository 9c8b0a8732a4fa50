"""The classic rule against a table worked out by hand.

The rule: every 100 steps half of each tensor, lowest |w| first, biases and norms included, becomes zero; every 200
steps, after that collapse, every exact zero is drawn from N(0, 0.1²); no mask is held.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

import surgecollapse

# The table's output is a single unit, which has no entropy; the rule needs none.
pytestmark = pytest.mark.filterwarnings("ignore:no activation entropy:UserWarning")

START = {
    "0.weight": [[0.1, -0.2, 0.3, -0.4], [0.5, -0.6, 0.7, -0.8]],
    "0.bias": [0.9, -0.05],
    "1.weight": [1.0, 1.0],  # a norm's scale; a tie, of which the first goes
    "1.bias": [0.0, 0.0],
    "2.weight": [[-3.0, 2.0]],
    "2.bias": [0.7],  # half of one weight, rounded, is none
}
AFTER_100 = {
    "0.weight": [[0.0, 0.0, 0.0, 0.0], [0.5, -0.6, 0.7, -0.8]],
    "0.bias": [0.9, 0.0],
    "1.weight": [0.0, 1.0],
    "1.bias": [0.0, 0.0],
    "2.weight": [[-3.0, 0.0]],
    "2.bias": [0.7],
}
ENERGY_START = [2.04, 0.8125, 2.0, 0.0, 13.0, 0.49]  # in the order of the table
ENERGY_AFTER_100 = [1.74, 0.81, 1.0, 0.0, 9.0, 0.49]
PRUNED_AT_100 = 4 + 1 + 1 + 0 + 1 + 0  # the norm's biases were zero already
REFILLED_AT_200 = 4 + 1 + 1 + 2 + 1 + 0
X = torch.tensor([[1.0, -1.0, 2.0, 0.5], [0.3, 1.0, -1.0, 1.0], [2.0, 0.1, 0.4, -1.0]])


class Classic:
    """The table's net under the rule, trained by plain SGD."""

    def __init__(self):
        self.model = nn.Sequential(nn.Linear(4, 2), nn.LayerNorm(2), nn.Linear(2, 1))
        self.model.load_state_dict({name: torch.tensor(value) for name, value in START.items()})
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.0)
        self.controller = surgecollapse.attach(self.model, self.optimizer, sparsity=0.9, policy="fixed_interval")

    def train(self, steps):
        for _ in range(steps):
            self.optimizer.zero_grad()
            (self.model(X) - 1).square().mean().backward()
            self.optimizer.step()
        return self

    def values(self):
        return {name: p.detach().clone() for name, p in self.model.named_parameters()}

    def equals(self, table):
        return all(torch.equal(value, torch.tensor(table[name])) for name, value in self.values().items())


def test_nothing_happens_before_step_100():
    run = Classic().train(99)
    assert run.equals(START)
    assert run.controller.events == []


def test_at_100_half_of_every_tensor_is_zeroed_by_the_table():
    run = Classic().train(100)
    assert run.equals(AFTER_100)
    (event,) = run.controller.events
    assert (event.step, event.kind, event.pruned, event.grown) == (100, "collapse", PRUNED_AT_100, 0)
    assert [layer.name for layer in event.layers] == list(START)
    assert [layer.energy_before for layer in event.layers] == pytest.approx(ENERGY_START)
    assert [layer.energy_after for layer in event.layers] == pytest.approx(ENERGY_AFTER_100)
    assert run.train(99).equals(AFTER_100)


def test_at_200_the_collapse_comes_first_and_then_every_zero_is_refilled():
    run = Classic().train(200)
    collapse, surge = run.controller.events[1:]
    assert [(e.step, e.kind, e.pruned, e.grown) for e in (collapse, surge)] == [
        (200, "collapse", 0, 0),  # half of each is zero already
        (200, "surge", 0, REFILLED_AT_200),
    ]
    injected = 0.0
    for name, value in run.values().items():
        table = torch.tensor(AFTER_100[name])
        assert torch.equal(value[table != 0], table[table != 0]), name
        assert (value[table == 0] != 0).all(), name
        assert (value[table == 0].abs() < 0.6).all(), name  # six standard deviations
        injected += float(value[table == 0].square().sum())
    assert surge.energy_injected == pytest.approx(injected)
    assert surge.details["noise_std"] == 0.1
    assert surge.energy_before == pytest.approx(sum(ENERGY_AFTER_100))
    assert surge.energy_after == pytest.approx(sum(ENERGY_AFTER_100) + injected)


def test_at_300_the_refilled_half_goes_again_and_at_400_it_comes_back():
    run = Classic().train(200)
    refilled = run.values()
    run.train(100)
    for name, value in run.values().items():
        table = torch.tensor(AFTER_100[name])
        if name != "1.bias":  # both of its entries were refilled: there only one goes
            assert torch.equal(value, table), name
    kept_bias = int(refilled["1.bias"].abs().argmax())
    assert run.values()["1.bias"][kept_bias] == refilled["1.bias"][kept_bias]
    assert run.values()["1.bias"][1 - kept_bias] == 0
    run.train(100)
    assert [(e.step, e.kind, e.grown) for e in run.controller.events[3:]] == [
        (300, "collapse", 0),
        (400, "collapse", 0),
        (400, "surge", 4 + 1 + 1 + 1 + 1),
    ]


def test_no_mask_is_held_so_one_step_moves_the_zeros():
    run = Classic().train(100)
    assert all(mask.all() for mask in run.controller.masks.values())
    assert run.controller.sparsity == 0.5  # counted: 4 of the 8 weights of the hidden layer, held by no mask
    before = run.values()
    run.optimizer.param_groups[0]["lr"] = 0.1
    run.train(1)
    moved = 0
    for name, p in run.model.named_parameters():
        assert torch.equal(p, before[name] - 0.1 * p.grad), name  # plain SGD, dense gradients
        moved += int(((before[name] == 0) & (p != 0)).sum())
    assert moved > 0


def test_the_recovery_is_normal_with_standard_deviation_a_tenth_whatever_the_weights():
    model = nn.Sequential(nn.Linear(300, 200), nn.Linear(200, 1))
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(100)
    kept = model[0].weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    surgecollapse.attach(model, optimizer, sparsity=0.9, policy="fixed_interval")
    for _ in range(200):
        optimizer.zero_grad()
        model(torch.ones(1, 300)).sum().backward()
        optimizer.step()
    noise = model[0].weight.detach()[model[0].weight != kept]
    assert len(noise) == 30_000
    assert noise.mean().item() == pytest.approx(0, abs=5 * 0.1 / 30_000**0.5)
    assert noise.std().item() == pytest.approx(0.1, rel=5 / 60_000**0.5)
    assert noise.abs().gt(0.1).float().mean().item() == pytest.approx(0.3173, abs=0.015)  # of a normal
