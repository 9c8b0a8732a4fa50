"""Regrown weights with a step count of their own: what Adam would do that began with them, under a linear warm-up."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import surgecollapse as sc
from surgecollapse.act.regrowth_ramp import RAMP
from surgecollapse.events import Decision, Prune, Regrow

X = torch.randn(32, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.randint(3, (32,), generator=torch.Generator().manual_seed(1))
EVERY = 5
LAST = 38
"""ln 0.02 / ln 0.9, rounded up."""


class Swap:
    """Prunes half at step 10, regrows everything at step 20."""

    growth = "random"

    def start(self, plan):
        pass

    def due(self, step):
        return step in (10, 20)

    def decide(self, reading):
        actions = {10: (Prune(0.5),), 20: (Regrow(1.0, growth="random", regrow_init="zero"),)}
        phase = "dense" if reading.step < 10 else "sparse" if reading.step < 20 else "open"
        return Decision(phase=phase, reason="a test", actions=actions.get(reading.step, ()))

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def net():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 3)).double()


def attach(model, optimizer, mode="ramp"):
    updates = sc.Updates(optimizer_state=mode)
    return sc.attach(model, optimizer, 0.5, 80, policy=Swap(), updates=updates, readings=sc.Readings(every=EVERY))


def backward(model):
    model.zero_grad()
    nn.functional.cross_entropy(model(X), Y).backward()


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
def test_the_steps_are_those_of_an_adam_that_begins_at_the_regrowth_times_a_linear_ramp(kind):
    model = net()
    optimizer = kind(model.parameters(), lr=1e-3, weight_decay=0.0, betas=(0.9, 0.9))
    controller = attach(model, optimizer)
    w = model[0].weight
    for _ in range(20):
        backward(model)
        optimizer.step()
    young = (w == 0).clone()
    assert int(young.sum()) == controller.masks["0.weight"].numel() // 2
    first = second = torch.zeros_like(w)
    for age in range(1, LAST + 3):
        backward(model)
        before = w.detach().clone()
        first = 0.9 * first + 0.1 * w.grad
        second = 0.9 * second + 0.1 * w.grad**2
        optimizer.step()
        local = 1e-3 * first / (1 - 0.9**age) / ((second / (1 - 0.9**age)).sqrt() + 1e-8)
        if age <= LAST:
            expected = before - local * min(1, age / RAMP)
            # Adam's eps of 1e-8 stands beside another √v; beside gradients of 1e-5 and more it is a share of 1e-3.
            assert torch.allclose(w[young], expected[young], rtol=0, atol=1e-3 * 1e-3)
        left = controller._components.actor.writer.ramp.state_dict()["left"]
        assert left == ({"0.weight": LAST - age} if age < LAST else {})


def test_the_first_step_is_short_where_reset_makes_a_long_one():
    lengths = {}
    for mode in ("reset", "ramp"):
        model = net()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.999), weight_decay=0.0)
        attach(model, optimizer, mode)
        for _ in range(20):
            backward(model)
            optimizer.step()
        young = (model[0].weight == 0).clone()
        backward(model)
        optimizer.step()
        lengths[mode] = float(model[0].weight.detach()[young].abs().median()) / 1e-3
    # 20 steps in: (1 − β₁)/(1 − β₁²¹) · √((1 − β₂²¹)/(1 − β₂)), and one step of a ramp of ten.
    assert lengths["reset"] == pytest.approx(0.1 / (1 - 0.9**21) * ((1 - 0.999**21) / 0.001) ** 0.5, rel=0.01)
    assert lengths["ramp"] == pytest.approx(1 / RAMP, rel=0.01)


def test_momentum_alone_has_the_linear_ramp():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    attach(model, optimizer)
    w = model[0].weight
    for _ in range(20):
        backward(model)
        optimizer.step()
    young, momentum = (w == 0).clone(), torch.zeros_like(w)
    for age in range(1, RAMP + 1):
        backward(model)
        before, momentum = w.detach().clone(), 0.9 * momentum + w.grad
        optimizer.step()
        expected = before - 0.1 * momentum * age / RAMP
        assert torch.allclose(w[young], expected[young], rtol=1e-12, atol=1e-15)


def test_other_weights_are_stepped_as_without_it():
    ends = {}
    for mode in ("reset", "ramp"):
        model = net()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        attach(model, optimizer, mode)
        for _ in range(20):
            backward(model)
            optimizer.step()
        young = (model[0].weight == 0).clone()
        backward(model)
        optimizer.step()
        ends[mode] = model[0].weight[~young], model[2].weight, model[0].bias
    assert all(torch.equal(a, b) for a, b in zip(ends["reset"], ends["ramp"], strict=True))


@pytest.mark.parametrize("cut", [19, 20, 24, 35])
def test_a_resumed_run_is_bitwise_the_uninterrupted_one(cut):
    def run(stop):
        model = net()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        attach(model, optimizer)
        for step in range(40):
            if step == stop:
                weights = {key: value.clone() for key, value in model.state_dict().items()}
                state = optimizer.state_dict()
                model = net()
                model.load_state_dict(weights)
                optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
                attach(model, optimizer)
                optimizer.load_state_dict(state)
            backward(model)
            optimizer.step()
        return model.state_dict()

    whole, resumed = run(None), run(cut)
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


@pytest.mark.parametrize("policy", ["rigl", "set", "acdc", "cyclic_pruning"])
def test_closed_weights_stay_zero_under_it(policy):
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    controller = sc.attach(
        model,
        optimizer,
        0.8,
        200,
        policy=policy,
        updates=sc.Updates(optimizer_state="ramp"),
        readings=sc.Readings(every=5, probe=X),
    )
    for _ in range(200):
        backward(model)
        optimizer.step()
        for name, mask in controller.masks.items():
            assert not model.get_parameter(name)[~mask].any()
