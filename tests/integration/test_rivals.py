"""The rival methods, as their papers define them, on a net that trains."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

import surgecollapse
from surgecollapse.functional import allocate

STEPS = 400


def train(policy, *, sparsity=0.8, watch=lambda controller, model: None, growth=None):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(10, 40), nn.ReLU(), nn.Linear(40, 20), nn.ReLU(), nn.Linear(20, 3))
        x = torch.randn(64, 10)
    y = (x[:, 0] > 0).long()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    controller = surgecollapse.attach(
        model,
        optimizer,
        sparsity=sparsity,
        total_steps=STEPS,
        policy=policy,
        readings=surgecollapse.Readings(every=50),
        updates=surgecollapse.Updates(growth=growth),
    )
    for _ in range(STEPS):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        watch(controller, model)
        optimizer.step()
    controller.finalize()
    return controller, model


@pytest.mark.parametrize("policy", ["static", "set", "rigl"])
def test_sparse_from_the_first_step_with_the_densities_of_erk(policy):
    closed, zero = [], []

    def watch(controller, model):
        masks = controller.masks.values()
        closed.append(1 - sum(int(mask.sum()) for mask in masks) / max(1, sum(mask.numel() for mask in masks)))
        zero.append(controller.sparsity)

    controller, _model = train(policy, watch=watch)
    assert zero[0] == 0.0  # the forward pass that shows what is prunable comes before the mask
    assert closed[1:] == [pytest.approx(0.8)] * (STEPS - 1)
    assert all(z >= c - 1e-9 for z, c in zip(zero[1:], closed[1:], strict=True))
    first = next((event.step for event in controller.events if event.grown), STEPS)
    # What an exchange opens starts at zero, and counts as such until it has a value.
    assert zero[1:first] == [pytest.approx(0.8)] * (first - 1)
    assert next(event.step for event in controller.events) == 0
    shapes = {name: tuple(mask.shape) for name, mask in controller.masks.items()}
    live = {name: int(mask.sum()) for name, mask in controller.masks.items()}
    assert live == allocate(shapes, 0.8, "erk")
    assert controller.frozen


def test_no_weight_of_a_static_mask_ever_moves_from_zero():
    first = {}

    def watch(controller, model):
        if controller.step == 1:
            first.update(controller.masks)

    controller, _ = train("static", watch=watch)
    assert all(torch.equal(first[name], mask) for name, mask in controller.masks.items())


def test_rigl_grows_by_the_gradient_at_masked_weights():
    gradients, before = {}, {}

    def watch(controller, model):
        if controller.step == 99:  # the step after which the first exchange falls due
            gradients.update({n: p.grad.clone() for n, p in model.named_parameters()})
            before.update(controller.masks)
        if controller.step == 100:
            after.update(controller.masks)

    after = {}
    controller, _ = train("rigl", watch=watch)
    exchange = next(event for event in controller.events if event.kind == "exchange")
    assert exchange.step == 100
    grown = 0
    for name, mask in after.items():
        opened, closed = mask & ~before[name], ~mask & ~before[name]
        grown += int(opened.sum())
        assert int(mask.sum()) == int(before[name].sum())
        if opened.any():
            assert gradients[name].abs()[opened].min() >= gradients[name].abs()[closed].max()
    assert grown == exchange.grown > 0
    share = 0.15 * (1 + torch.cos(torch.tensor(torch.pi * 100 / 300)))
    assert exchange.details["fraction"] == pytest.approx(share.item(), rel=1e-6)


def test_gmp_follows_the_cubic_and_never_revives():
    masks = []
    controller, _ = train("gmp", watch=lambda controller, model: masks.append(controller.masks))
    for event in controller.events:
        if event.kind == "collapse":
            u = min(1.0, max(0.0, (event.step - 40) / 260))
            assert event.sparsity_after == pytest.approx(0.8 * (1 - (1 - u) ** 3), abs=1e-3)
            assert event.grown == 0
    for earlier, later in itertools.pairwise(masks):
        assert all(not bool((later[name] & ~earlier[name]).any()) for name in later)


def test_granet_exchanges_what_gmp_prunes():
    controller, _ = train("granet")
    kinds = [event.kind for event in controller.events if event.step < 300]
    assert kinds[:4] == ["collapse", "exchange", "collapse", "exchange"]
    assert all(e.pruned == e.grown for e in controller.events if e.kind == "exchange")


def test_one_shot_prunes_once():
    controller, _ = train("one_shot")
    assert [(event.kind, event.step) for event in controller.events[:2]] == [("collapse", 200), ("freeze", 200)]
    assert sum(event.kind == "collapse" and event.pruned > 0 for event in controller.events) == 1


def test_dsd_is_one_long_cycle():
    policy = surgecollapse.ACDC(dense_until=1 / 3, cycles_until=2 / 3, phase=1 / 3)
    controller, _ = train(policy)
    acts = [(event.kind, event.step) for event in controller.events if event.kind in ("collapse", "surge")]
    assert acts[:3] == [("collapse", 133), ("surge", 267), ("collapse", 340)]


def test_a_decision_before_the_first_step_is_made_once():
    controller, _ = train("static")
    assert [event.kind for event in controller.events if event.step == 0] == ["collapse", "freeze"]
