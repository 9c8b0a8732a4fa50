"""Remedies against the loss of plasticity, against their definitions."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from surgecollapse.lab.continual.remedies import ContinualBackprop, L2Init, ShrinkAndPerturb, fresh, linear_layers
from surgecollapse.lab.continual.tasks import (
    class_groups,
    class_increments,
    forgetting,
    permuted_inputs,
    permuted_labels,
)


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_shrink_and_perturb_is_its_formula():
    model = net()
    before = [layer.weight.detach().clone() for layer in linear_layers(model)]
    draws = generator(5)
    expected = [0.9 * w + 0.2 * fresh(layer, draws)[0] for w, layer in zip(before, linear_layers(model), strict=True)]
    ShrinkAndPerturb(model, shrink=0.1, noise=0.2, generator=generator(5))()
    for layer, wanted in zip(linear_layers(model), expected, strict=True):
        assert torch.allclose(layer.weight, wanted, rtol=1e-6, atol=0)


def test_without_shrinking_and_noise_nothing_changes():
    model, same = net(), net()
    ShrinkAndPerturb(model, shrink=0.0, noise=0.0, generator=generator())()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), same.parameters(), strict=True))


def test_l2_init_is_the_gradient_step_of_its_penalty():
    model, rate = net(), 0.3
    first = [p.detach().clone() for p in model.parameters()]
    remedy = L2Init(model, rate=rate)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=generator(1)))
    moved = [p.detach().clone().requires_grad_() for p in model.parameters()]
    penalty = sum(rate / 2 * (p - q).square().sum() for p, q in zip(moved, first, strict=True))
    gradients = torch.autograd.grad(penalty, moved)
    remedy()
    for p, q, g in zip(model.parameters(), moved, gradients, strict=True):
        assert torch.allclose(p, q - g, rtol=1e-5, atol=1e-6)


def trained(model, optimizer, remedy, steps, inputs=None):
    x = torch.randn(16, 4, generator=generator(2)) if inputs is None else inputs
    for _ in range(steps):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
        remedy()


def test_utility_is_the_average_of_output_times_outgoing_weights():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    remedy = ContinualBackprop(model, optimizer, rate=0.0, decay=0.5, generator=generator())
    x = torch.randn(16, 4, generator=generator(2))
    trained(model, optimizer, remedy, 2, x)
    with torch.no_grad():
        now = model[:2](x).abs().mean(0) * model[2].weight.abs().sum(0)
    assert torch.allclose(remedy.units[0].utility, 0.75 * now)  # 0.5·(0.5·now) + 0.5·now
    assert remedy.replaced == 0


def test_the_least_useful_mature_unit_is_replaced():
    model = net()
    with torch.no_grad():
        model[0].bias.fill_(3.0)  # all units are on
        model[2].weight[:, 3] = 0  # of no use
    optimizer = torch.optim.Adam(model.parameters(), lr=0.0)
    # Six units, a sixth of one owed a step once they are older than 4 steps: the first falls due 6 steps later.
    remedy = ContinualBackprop(model, optimizer, rate=1 / 36 + 1e-9, maturity=4, generator=generator(9))
    trained(model, optimizer, remedy, 9)
    assert remedy.replaced == 0
    before = model[0].weight.detach().clone()
    trained(model, optimizer, remedy, 1)
    assert remedy.replaced == 1
    changed = (model[0].weight != before).any(1)
    assert changed.tolist() == [False, False, False, True, False, False]
    assert remedy.units[0].age.tolist() == [10, 10, 10, 0, 10, 10]
    state = optimizer.state[model[0].weight]
    assert bool((state["exp_avg"][3] == 0).all())
    assert bool((optimizer.state[model[2].weight]["exp_avg_sq"][:, 3] == 0).all())
    assert bool(state["exp_avg_sq"][[0, 1, 2, 4, 5]].any())
    # A unit that is too young is left alone, however little use it is.
    trained(model, optimizer, remedy, 4)
    assert remedy.units[0].age[3] == 4


def test_replacing_a_silent_unit_changes_no_output():
    model = net()
    with torch.no_grad():
        model[2].weight[:, 3] = 0
    x = torch.randn(5, 4, generator=generator(3))
    before = model(x)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    remedy = ContinualBackprop(model, optimizer, rate=1 / 6 + 1e-9, maturity=0, generator=generator())
    trained(model, optimizer, remedy, 1)
    assert remedy.replaced == 1
    assert torch.equal(model(x), before)


@pytest.mark.parametrize("batches", [3, 9])
def test_tasks_permute_inputs_and_nothing_else(batches):
    x, y = torch.arange(40.0).view(8, 5), torch.arange(8)
    stream = list(permuted_inputs(x, y, tasks=4, batches=batches, batch_size=2, seed=0))
    assert [task for task, _, _ in stream] == [t for t in range(4) for _ in range(batches)]
    places = []
    for task, inputs, labels in stream:
        assert torch.equal(inputs.sort(1).values, x[labels])
        place = (inputs[0] - x[labels[0]][0]).tolist()
        places.append((task, tuple(place)))
    assert len(set(places)) == 4  # one permutation each, another for each task
    if batches == 3:  # enough samples: none twice
        assert all(len({int(v) for t, _, labels in stream if t == task for v in labels}) == 6 for task in range(4))


@pytest.mark.parametrize("batches", [3, 9])
def test_label_permuted_tasks_rename_classes_and_nothing_else(batches):
    x, y = torch.arange(40.0).view(8, 5), torch.arange(8) % 4
    stream = list(permuted_labels(x, y, tasks=6, batches=batches, batch_size=2, seed=0))
    assert [task for task, _, _ in stream] == [t for t in range(6) for _ in range(batches)]
    names = {}
    for task, inputs, labels in stream:
        for sample, label in zip(inputs, labels, strict=True):
            row = int(sample[0]) // 5
            assert torch.equal(sample, x[row])
            assert names.setdefault((task, int(y[row])), int(label)) == int(label)
    by_task = [tuple(names.get((task, c)) for c in range(4)) for task in range(6)]
    assert all(len(set(found) - {None}) == len([name for name in found if name is not None]) for found in by_task)
    assert len(set(by_task)) > 1


def test_class_increments_show_their_own_classes_round_after_round():
    x, y = torch.arange(60.0).view(30, 2), torch.arange(30) % 6
    groups = class_groups(6, 2, seed=3)
    shown = {}
    for task, inputs, labels in class_increments(x, y, groups, tasks=7, batches=4, batch_size=5, seed=0):
        assert torch.equal(inputs, x[(inputs[:, 0] / 2).long()])
        assert torch.equal(labels, y[(inputs[:, 0] / 2).long()])
        shown.setdefault(task, set()).update(labels.tolist())
    assert [shown[task] for task in range(7)] == [set(groups[task % 3].tolist()) for task in range(7)]


def test_forgetting_is_the_best_before_less_the_last_but_for_the_latest_group():
    after = [[0.9, 0.0, 0.0], [0.4, 0.8, 0.0], [0.1, 0.6, 0.7], [0.8, 0.2, 0.3]]
    # Task 3 was group 0 again: groups 1 and 2 lost 0.8 − 0.2 and 0.7 − 0.3.
    assert forgetting(after) == pytest.approx(0.5)
    assert forgetting(after[:1]) == 0.0
    assert forgetting([[0.5], [0.6]]) == 0.0
