"""Utility-based perturbed gradient descent, against its equations written out for single weights."""

from __future__ import annotations

import math
from copy import deepcopy

import pytest
import torch
from torch import nn

from surgecollapse.lab.continual.upgd import UPGD


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


def test_three_steps_are_the_equations_of_the_paper():
    lr, beta, sigma, decay = 0.1, 0.9, 0.3, 0.05
    first, second = (nn.Parameter(torch.tensor(v, dtype=torch.float64)) for v in ([0.5, -1.0], [2.0]))
    optimizer = UPGD([first, second], lr=lr, beta=beta, sigma=sigma, weight_decay=decay, generator=generator(4))
    gradients = [[[-1.0, 0.5], [-0.25]], [[0.2, 0.3], [-1.0]], [[0.1, 0.9], [0.5]]]

    draws = generator(4)
    w, u = [0.5, -1.0, 2.0], [0.0, 0.0, 0.0]
    for t, (g1, g2) in enumerate(gradients, start=1):
        first.grad, second.grad = torch.tensor(g1, dtype=torch.float64), torch.tensor(g2, dtype=torch.float64)
        optimizer.step()
        noise = [
            float(n) * sigma for p in (first, second) for n in torch.empty_like(p.detach()).normal_(generator=draws)
        ]
        g = [*g1, *g2]
        u = [beta * old - (1 - beta) * gradient * weight for old, gradient, weight in zip(u, g, w, strict=True)]
        corrected = [value / (1 - beta**t) for value in u]
        scaled = [sigmoid(value / max(corrected)) for value in corrected]
        w = [
            (1 - lr * decay) * weight - lr * (gradient + n) * (1 - s)
            for weight, gradient, n, s in zip(w, g, noise, scaled, strict=True)
        ]
        # A dozen roundings a step of numbers of the order of one.
        assert [*first.tolist(), *second.tolist()] == pytest.approx(w, rel=1e-12, abs=1e-14)


def test_utility_is_the_loss_that_setting_a_weight_to_zero_adds_in_first_order():
    w = nn.Parameter(torch.tensor([0.7, -0.2, 0.4], dtype=torch.float64))
    slope = torch.tensor([-1.0, 2.0, 0.3], dtype=torch.float64)
    optimizer = UPGD([w], lr=1e-9, beta=0.0, sigma=0.0, generator=generator())
    loss = (slope * w).sum()
    loss.backward()
    before = w.detach().clone()
    optimizer.step()
    for i in range(3):  # the loss is linear, so that first order is all
        without = before.clone()
        without[i] = 0
        added = float((slope * without).sum()) - loss.item()
        assert float(optimizer.state[w]["utility"][i]) == pytest.approx(added, abs=1e-12)


def test_the_most_useful_weight_moves_least_and_is_disturbed_least():
    count = 4000
    w = nn.Parameter(torch.ones(count, dtype=torch.float64))
    optimizer = UPGD([w], lr=1.0, beta=0.0, sigma=1.0, generator=generator(1))
    w.grad = torch.zeros(count, dtype=torch.float64)
    w.grad[: count // 2] = -1e-12  # all of the utility, next to no gradient
    optimizer.step()
    moved = (w.detach() - 1).view(2, -1).std(1)
    # Six deviations of a standard deviation of 2,000 draws.
    assert float(moved[0]) == pytest.approx(1 - sigmoid(1), rel=6 / math.sqrt(count))
    assert float(moved[1]) == pytest.approx(0.5, rel=6 / math.sqrt(count))


def test_without_positive_utility_all_weights_are_alike():
    w = nn.Parameter(torch.tensor([1.0, 2.0]))
    optimizer = UPGD([w], lr=1.0, beta=0.5, sigma=0.0, generator=generator())
    w.grad = torch.tensor([1.0, 1.0])
    optimizer.step()
    assert w.tolist() == [0.5, 1.5]


def test_a_saved_state_goes_on_bitwise():
    def made():
        torch.manual_seed(0)
        model = nn.Linear(3, 2)
        draws = generator(5)
        return model, UPGD(model.parameters(), lr=0.1, beta=0.9, sigma=0.1, generator=draws), draws

    def trained(model, optimizer, steps):
        for _ in range(steps):
            optimizer.zero_grad()
            model(torch.ones(4, 3)).square().mean().backward()
            optimizer.step()

    model, optimizer, draws = made()
    trained(model, optimizer, 3)
    saved = deepcopy((model.state_dict(), optimizer.state_dict(), draws.get_state()))
    again, other, its = made()
    again.load_state_dict(saved[0])
    other.load_state_dict(saved[1])
    its.set_state(saved[2])
    trained(model, optimizer, 3)
    trained(again, other, 3)
    assert torch.equal(model.weight, again.weight)


@pytest.mark.parametrize("wrong", [{"lr": 0.0}, {"beta": 1.0}, {"sigma": -1.0}, {"weight_decay": -0.1}])
def test_options_out_of_range_are_refused(wrong):
    options = {"lr": 0.1, "beta": 0.9, "sigma": 0.1, **wrong}
    with pytest.raises(ValueError, match=next(iter(wrong))):
        UPGD([nn.Parameter(torch.ones(1))], generator=generator(), **options)
