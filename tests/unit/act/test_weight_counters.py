"""Counters of each weight against their equations, and the exchange of idle weights."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import surgecollapse as sc
from surgecollapse.act.masked_weights import MaskedWeights
from surgecollapse.act.weight_counters import WeightCounters
from surgecollapse.commands import SetThresholds
from surgecollapse.events import Exchange
from surgecollapse.policies import EndlessExchange, IdleExchange, Recycle

EVERY = 5


def counters(values, *, decay=0.5, tau=0.5, dtype=torch.float32):
    w = nn.Parameter(torch.tensor(values, dtype=dtype))
    weights = MaskedWeights({"w": w})
    return w, weights, WeightCounters(weights, decay=decay, tau=tau)


def step(w, found, gradient):
    w.grad = torch.tensor(gradient, dtype=w.dtype)
    found.before_step(["w"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_utility_is_the_average_of_gradient_times_weight_and_idle_steps_are_counted(dtype):
    w, _, found = counters([2.0, -1.0, 1.0, 4.0], dtype=dtype)
    # |g·w| = 2, 1, 0.5, 0 in each step, so that u = (1 − 2⁻ᵗ) of it and the bound is half the mean, 0.4375 of 1 − 2⁻ᵗ.
    for t in (1, 2, 3):
        step(w, found, [1.0, 1.0, -0.5, 0.0])
        share = 1 - 0.5**t
        assert found.utility("w").tolist() == [2 * share, share, 0.5 * share, 0.0]
        assert found.idle_for("w", t).tolist() == [False, False, False, True]
        assert not found.idle_for("w", t + 1).any()
    # Now u = (0.875, 0.4375, 0.21875, 2): half the mean is 0.44140625, and the first is above it.
    step(w, found, [0.0, 0.0, 0.0, 1.0])
    assert found.utility("w").tolist() == [0.875, 0.4375, 0.21875, 2.0]
    assert found.idle_for("w", 1).tolist() == [False, True, True, False]


def test_the_mean_is_over_open_weights_and_closed_ones_are_not_idle():
    w, weights, found = counters([1.0, 1.0, 1.0, 1.0], tau=0.9)
    mask = torch.tensor([True, True, False, False])
    weights.set({"w": mask}, {"w": 2})
    step(w, found, [1.0, 0.75, 5.0, 5.0])
    # Of the open ones the mean is 0.4375; over all four it would be 0.21875, and no open weight below 0.9 of it.
    assert found.idle_for("w", 1).tolist() == [False, True, False, False]


def test_gradients_that_are_not_finite_count_as_zero_and_missing_ones_not_at_all():
    w, _, found = counters([1.0, 1.0, 1.0])
    step(w, found, [math.nan, math.inf, 1.0])
    assert found.utility("w").tolist() == [0.0, 0.0, 0.5]
    w.grad = None
    found.before_step(["w"])
    assert found.utility("w").tolist() == [0.0, 0.0, 0.5]
    assert found.idle_for("w", 1).tolist() == [True, True, False]
    found.restart("w", torch.tensor([True, False, True]))
    assert found.utility("w").tolist() == [0.0, 0.0, 0.0]
    assert found.idle_for("w", 1).tolist() == [False, True, False]


# ---- in training -----------------------------------------------------------------------------------------------


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def data(seed=1):
    draws = torch.Generator().manual_seed(seed)
    x = torch.randn(24, 6, generator=draws)
    x[:, 2] = 0  # of no use to any unit
    return x, torch.randint(3, (24,), generator=draws)


def train(model, optimizer, steps):
    x, y = data()
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()


def attached(sparsity=0.0, **options):
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    policy = IdleExchange(**{"interval": EVERY, "patience": 8, "tau": 0.0, "drop_fraction": 1.0, **options})
    target = sc.Target(sparsity, include=["0.weight"])
    readings = sc.Readings(every=EVERY)
    return model, optimizer, sc.attach(model, optimizer, target, policy=policy, readings=readings)


def test_in_a_dense_network_weights_of_an_input_without_use_are_renewed_in_place():
    model, optimizer, controller = attached()
    before = model[0].weight.detach().clone()
    train(model, optimizer, 9)
    assert torch.equal(model[0].weight[:, 2], before[:, 2])  # too young at step 5
    counted = controller._components.actor.writer.counters
    # With τ = 0 the weights whose gradient has always been zero: those of input 2, and all of a unit that never fires.
    useless = counted.idle_for("0.weight", 9)
    assert useless[:, 2].all()
    assert torch.equal(useless, counted.utility("0.weight") == 0)
    train(model, optimizer, 1)
    (event,) = [event for event in controller.events if event.kind == "exchange" and event.grown]
    assert (event.step, event.grown, event.pruned) == (10, int(useless.sum()), int(useless.sum()))
    assert event.sparsity_after == 0.0
    assert (model[0].weight != before)[:, 2].all()
    moments = optimizer.state[model[0].weight]
    assert not moments["exp_avg_sq"][useless].any()
    assert bool(moments["exp_avg_sq"][~useless].any())
    assert not counted.utility("0.weight")[useless].any()
    assert not counted.idle_for("0.weight", 1)[useless].any()
    # Each new weight has at most a tenth of the mean energy of the open ones, on average.
    assert 0 < event.energy_injected <= 0.1 * event.energy_before * event.grown / 48


def test_zero_as_first_value_leaves_the_rest_of_the_network_bitwise():
    model, optimizer, controller = attached(regrow_init="zero")
    plain = net()
    train(model, optimizer, 10)
    train(plain, torch.optim.Adam(plain.parameters(), lr=1e-2), 10)
    assert controller.events
    changed = model[0].weight != plain[0].weight
    assert changed[:, 2].all()
    assert not model[0].weight[changed].any()
    assert torch.equal(model[2].weight, plain[2].weight)


def test_in_a_sparse_network_the_density_stays_and_idle_weights_go():
    model, optimizer, controller = attached(0.5)
    train(model, optimizer, 9)
    mask = controller.masks["0.weight"].clone()
    counted = controller._components.actor.writer.counters
    useless = counted.idle_for("0.weight", 9)
    assert bool(useless[:, 2].any())
    assert not (useless & ~mask).any()
    before = model[0].weight.detach().clone()
    train(model, optimizer, 1)
    after = controller.masks["0.weight"]
    assert int(after.sum()) == int(mask.sum()) == 24
    assert not ((mask & ~after) & ~useless).any()  # none of use is closed
    kept = mask & ~useless
    assert bool((model[0].weight[kept] != 0).all())
    assert bool((before[kept] != 0).all())
    opened = after & ~mask
    assert bool((model[0].weight[opened] != 0).all())  # noise


def test_the_least_useful_go_first_up_to_the_share():
    model, optimizer, controller = attached(drop_fraction=0.25, tau=1.0, patience=1)
    train(model, optimizer, 9)
    counted = controller._components.actor.writer.counters
    train(model, optimizer, 0)
    utility = counted.utility("0.weight").clone()
    chosen = counted.idle_for("0.weight", 1)
    assert int(chosen.sum()) > 12
    first = [event.grown for event in controller.events if event.kind == "exchange"]
    assert first == [12]  # a quarter of 48, at step 5
    writer = controller._components.actor.writer
    kept = model[0].weight.detach().clone()
    writer.exchange(0.25, signals={}, idle=1, growth="random", regrow_init="zero")
    gone = (model[0].weight == 0) & (kept != 0)
    assert int(gone.sum()) == 12
    assert bool((utility[chosen & ~gone] >= utility[gone].max()).all())


@pytest.mark.parametrize("at", [4, 7, 10, 13])
@pytest.mark.parametrize("sparsity", [0.0, 0.5])
def test_a_resumed_run_is_bitwise_the_uninterrupted_one(sparsity, at):
    whole, optimizer, _ = attached(sparsity, tau=0.01)
    train(whole, optimizer, 30)
    first, optimizer, controller = attached(sparsity, tau=0.01)
    train(first, optimizer, at)
    saved = [first.state_dict(), optimizer.state_dict(), controller.state_dict()]
    second, optimizer, controller = attached(sparsity, tau=0.01)
    second.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    controller.load_state_dict(saved[2])
    train(second, optimizer, 30 - at)
    assert any(event.grown for event in controller.events if event.step > at)
    for a, b in zip(whole.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_recycled_units_are_counted_anew():
    model = net()
    with torch.no_grad():
        model[0].bias[3] = -100.0  # dead
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    policy = Recycle(tau=0.0, interval=10, over=IdleExchange(interval=1000, patience=1))
    controller = sc.attach(model, optimizer, 0.0, policy=policy, readings=sc.Readings(every=EVERY))
    train(model, optimizer, 9)
    counted = controller._components.actor.writer.counters
    assert counted.idle_for("0.weight", 9)[3].all()
    train(model, optimizer, 1)
    assert controller.events[-1].kind == "recycle"
    assert not counted.idle_for("0.weight", 1)[3].any()
    assert counted.idle_for("0.weight", 10)[:, 2].sum() == 7  # of the other units the useless input still is


def test_numbers_that_are_changed_while_it_runs_hold_for_the_counters():
    model, optimizer, controller = attached()
    controller.request(SetThresholds(values={"tau": 0.25, "decay": 0.5}))
    train(model, optimizer, 1)
    counted = controller._components.actor.writer.counters
    assert (counted.tau, counted.decay) == (0.25, 0.5)


def test_tiles_are_refused_and_so_is_an_exchange_without_counters():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="do not go with a pattern of tiles"):
        sc.attach(model, optimizer, sc.Target(0.5, pattern="unit", include=["0.weight"]), policy="idle_exchange")
    controller = sc.attach(
        model, optimizer, sc.Target(0.5, include=["0.weight"]), policy=EndlessExchange(), readings=sc.Readings(every=5)
    )
    with pytest.raises(ValueError, match="needs a policy with counting"):
        controller._components.actor.writer.exchange(0.1, signals={}, idle=5)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"patience": 0}, "patience"), ({"tau": -0.1}, "tau"), ({"decay": 1.0}, "decay"), ({"decay": -0.5}, "decay")],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        IdleExchange(**options)
    with pytest.raises(ValueError, match="idle"):
        Exchange(0.5, idle=0)
