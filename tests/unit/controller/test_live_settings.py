"""Settings of a loop that people change while it trains: what each does, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch

import surgecollapse
from surgecollapse.commands import (
    Collapse,
    DropSamples,
    Evaluate,
    FreezeLayers,
    HoldSchedule,
    RelabelSamples,
    ReleaseSchedule,
    ReplaceSchedule,
    ResetLayers,
    SetBatchSize,
    SetDropout,
    SetOptimizer,
    UnfreezeLayers,
)
from surgecollapse.record import MemoryRecorder


class Loop:
    """A plain loop with a controller, a schedule and dropout."""

    def __init__(self, **options):
        torch.manual_seed(0)
        self.model = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Dropout(0.1),
                                         torch.nn.Linear(32, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2))  # fmt: skip
        groups = [{"params": list(self.model[:3].parameters())},
                  {"params": list(self.model[3:].parameters()), "lr": 0.02}]  # fmt: skip
        self.optimizer = torch.optim.AdamW(groups, lr=0.01, weight_decay=0.1)
        self.schedule = torch.optim.lr_scheduler.LinearLR(self.optimizer, 1.0, 0.0, total_iters=100)
        self.memory = MemoryRecorder()
        self.controller = surgecollapse.attach(
            self.model,
            self.optimizer,
            sparsity=0.5,
            total_steps=100,
            readings=surgecollapse.Readings(every=5),
            recorders=[self.memory],
            **{"policy": "no_op", **options},
        )
        self.used = []
        self.optimizer.register_step_pre_hook(
            lambda optimizer, *_: self.used.append([group["lr"] for group in optimizer.param_groups])
        )
        self.x = torch.randn(32, 8, generator=torch.Generator().manual_seed(0))

    def steps(self, count, *commands):
        for command in commands:
            self.controller.request(command)
        for _ in range(count):
            self.optimizer.zero_grad()
            torch.nn.functional.cross_entropy(self.model(self.x), (self.x[:, 0] > 0).long()).backward()
            self.optimizer.step()
            self.schedule.step()

    def said(self):
        return [(one.status, one.reason) for one in self.memory.events if type(one).__name__ == "Request"]


def rates(step, scale=(1.0, 1.0)):
    """Of the linear schedule, for the step after ``step`` others."""
    return [0.01 * (1 - step / 100) * scale[0], 0.02 * (1 - step / 100) * scale[1]]


def test_an_option_of_the_optimizer_is_set_in_one_group_or_in_all():
    loop = Loop()
    loop.steps(1, SetOptimizer(option="weight_decay", value=0.3, group=1))
    loop.steps(1, SetOptimizer(option="betas", value=(0.8, 0.9)))
    groups = loop.optimizer.param_groups
    assert [group["weight_decay"] for group in groups] == [0.1, 0.3]
    assert [group["betas"] for group in groups] == [(0.8, 0.9)] * 2
    assert loop.said() == [("applied", "weight_decay 0.1 → 0.3"), ("applied", "betas 0.9, 0.999 → 0.8, 0.9")]


def test_a_learning_rate_is_set_where_the_schedule_stands_and_falls_on_from_there():
    loop = Loop()
    loop.steps(11, SetOptimizer(option="lr", value=0.004, group=0))
    loop.steps(10)
    scale = (0.004 / rates(0)[0], 1.0)  # at the boundary after the first step
    for step in (1, 10, 20):
        assert loop.used[step] == pytest.approx(rates(step, scale))
    assert [group["lr"] for group in loop.optimizer.param_groups] == pytest.approx(rates(21))


def test_a_held_schedule_keeps_its_rate_and_a_released_one_is_where_it_would_be():
    loop = Loop()
    loop.steps(9)
    loop.steps(5, HoldSchedule())  # taken after the tenth step, before the schedule's own
    loop.steps(5, ReleaseSchedule())
    assert loop.used[10:15] == [pytest.approx(rates(9))] * 5
    assert loop.used[18] == pytest.approx(rates(18))


@pytest.mark.parametrize("shape", ["constant", "linear", "cosine"])
def test_a_replaced_schedule_goes_on_from_the_present_rate_and_falls_to_zero(shape):
    loop = Loop()
    loop.steps(9)
    loop.steps(1, ReplaceSchedule(shape=shape, steps=20))
    loop.steps(30)  # commands of the tenth step; the eleventh is the first under the new schedule

    def left(passed):
        share = min(passed / 20, 1)
        return {"constant": 1, "linear": 1 - share, "cosine": (1 + math.cos(math.pi * share)) / 2}[shape]

    for step in (10, 15, 20, 29, 30, 35):
        assert loop.used[step] == pytest.approx([rate * left(step - 10) for rate in rates(9)], abs=1e-12)
    loop.steps(1, ReleaseSchedule())
    loop.steps(1)
    assert loop.used[-1] == pytest.approx(rates(41))


def test_a_replaced_schedule_ends_by_default_with_the_run_and_is_held_or_replaced_from_where_it_is():
    loop = Loop()
    loop.steps(20, ReplaceSchedule(shape="linear"))  # at the boundary after the first of 100 steps
    first = rates(0)[0]
    assert loop.used[10][0] == pytest.approx(first * (1 - 9 / 99))
    loop.steps(2, HoldSchedule())
    assert loop.used[-1][0] == pytest.approx(first * (1 - 20 / 99))  # taken when 21 steps were done
    state = loop.controller.state_dict()
    loop.steps(6, ReplaceSchedule(shape="cosine", steps=4))
    assert loop.used[-1] == [0.0, 0.0]
    loop.controller.load_state_dict(state)
    loop.steps(1)
    assert loop.used[-1][0] == pytest.approx(first * (1 - 20 / 99))


def test_a_reset_of_units_draws_their_rows_and_leaves_every_other_bit():
    loop = Loop()
    loop.steps(4, Collapse(fraction=0.5))
    layer, other = loop.model[3], loop.model[0]
    before, moments = layer.weight.clone(), loop.optimizer.state[layer.weight]["exp_avg"].clone()
    bias, untouched = layer.bias.clone(), other.weight.clone()
    loop.controller.request(ResetLayers(layers=("3",), units=(2, 7)))
    loop.controller.command_loop.boundary(4)
    assert loop.said()[-1] == ("applied", "reset 2 units of 3")
    kept = [row for row in range(16) if row not in (2, 7)]
    mask = loop.controller.masks["3.weight"]
    assert torch.equal(layer.weight[kept], before[kept])
    assert torch.equal(layer.bias[kept], bias[kept])
    assert torch.equal(other.weight, untouched)
    for row in (2, 7):
        open_ = mask[row]
        assert (layer.weight[row][open_] != before[row][open_]).all()
        assert not layer.weight[row][~open_].any()
        assert layer.bias[row] != bias[row]
    now = loop.optimizer.state[layer.weight]["exp_avg"]
    assert not now[[2, 7]].any()
    assert torch.equal(now[kept], moments[kept])


def test_frozen_parameters_keep_every_bit_and_train_again_when_they_are_released():
    loop = Loop()
    loop.steps(2, FreezeLayers(layers=("3", "0.bias")))
    before = {name: value.clone() for name, value in loop.model.named_parameters()}
    loop.steps(3)
    same = {name for name, value in loop.model.named_parameters() if torch.equal(value, before[name])}
    assert same == {"3.weight", "3.bias", "0.bias"}
    loop.steps(2, UnfreezeLayers(layers=("*",)))
    assert not any(torch.equal(value, before[name]) for name, value in loop.model.named_parameters())


@pytest.mark.parametrize("policy", ["no_op", "cyclic_pruning", "soft_threshold"])
def test_frozen_units_keep_every_bit_of_their_rows_and_all_others_train(policy):
    loop = Loop(policy=policy)
    loop.steps(12)
    loop.controller.request(FreezeLayers(layers=("3",), units=(2, 7)))
    loop.controller.command_loop.boundary(12)
    assert loop.said()[-1] == ("applied", "froze 2 units of 3")
    layer = loop.model[3]
    shadow = loop.controller.state_dict()
    before = {name: value.clone() for name, value in loop.model.named_parameters()}
    moments = loop.optimizer.state[layer.weight]["exp_avg"].clone()
    loop.steps(2)  # no reading is due meanwhile, so that no policy acts
    other = [row for row in range(16) if row not in (2, 7)]
    for now, then in ((layer.weight, before["3.weight"]), (layer.bias, before["3.bias"])):
        assert torch.equal(now[[2, 7]], then[[2, 7]])
        assert not torch.equal(now[other], then[other])
    now = loop.optimizer.state[layer.weight]["exp_avg"]
    assert torch.equal(now[[2, 7]], moments[[2, 7]])
    assert not torch.equal(now[other], moments[other])
    assert not torch.equal(loop.model[0].weight, before["0.weight"])
    assert not torch.equal(loop.model[5].weight, before["5.weight"])
    state = loop.controller.state_dict()
    loop.controller.load_state_dict(shadow)
    loop.controller.load_state_dict(state)
    loop.controller.request(UnfreezeLayers(layers=("3",), units=(2,)))
    loop.steps(1)  # taken at its boundary
    then = layer.weight.clone()
    loop.steps(2)
    assert not torch.equal(layer.weight[2], then[2])
    assert torch.equal(layer.weight[7], then[7])
    loop.steps(1, UnfreezeLayers(layers=("*",)))
    assert loop.said()[-1] == ("applied", "unfroze 3.weight, 3.bias")
    loop.steps(1)
    assert not torch.equal(layer.weight[7], then[7])


def test_a_layer_is_frozen_also_where_its_optimizer_steps_after_another_backward_pass():
    torch.manual_seed(0)
    first, second = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)
    both = torch.nn.Sequential(first, torch.nn.ReLU(), second)
    optimizers = [torch.optim.SGD(part.parameters(), lr=0.1) for part in (first, second)]
    controller = surgecollapse.attach(both, optimizers, sparsity=0.5, total_steps=100, policy="no_op")
    x = torch.randn(16, 4)
    for step in range(3):
        if step == 1:
            controller.request(FreezeLayers(layers=("2",)))
            controller.command_loop.boundary(step)
            frozen = second.weight.clone()
        for optimizer in optimizers:
            optimizer.zero_grad()
            both(x).square().mean().backward()
            optimizer.step()
    assert torch.equal(second.weight, frozen)


def test_dropout_is_set_in_all_layers_and_goes_back_with_the_state():
    loop = Loop()
    loop.steps(1)
    state = loop.controller.state_dict()
    loop.steps(1, SetDropout(rate=0.4))
    assert loop.model[2].p == 0.4
    changed = loop.controller.state_dict()
    loop.controller.load_state_dict(state)
    assert loop.model[2].p == 0.1
    loop.controller.load_state_dict(changed)
    assert loop.model[2].p == 0.4


def test_a_reset_draws_the_same_weights_whatever_else_draws_and_keeps_the_mask():
    weights = []
    for extra in (0, 3):
        loop = Loop()
        loop.steps(4, Collapse(fraction=0.5))
        torch.rand(extra)
        state = torch.get_rng_state()
        loop.controller.request(ResetLayers(layers=("3",)))
        loop.controller.command_loop.boundary(4)
        assert torch.equal(torch.get_rng_state(), state)
        mask = loop.controller.masks["3.weight"]
        assert not mask.all()
        assert (loop.model[3].weight[~mask] == 0).all()
        assert loop.model[3].weight not in loop.optimizer.state
        assert loop.model[0].weight in loop.optimizer.state
        weights.append(loop.model[3].weight.clone())
        loop.steps(2)
    assert torch.equal(*weights)
    assert weights[0].abs().max() <= 32**-0.5  # torch's own bound for a linear layer


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (SetOptimizer(option="weight_decay", value=0.3, group=2), "no group 2: the optimizer has 2, from 0 to 1"),
        (SetOptimizer(option="weight_decay", value=-1.0), "Invalid weight_decay value: -1.0"),
        (SetOptimizer(option="betas", value=0.9), "expected as many numbers"),
        (SetOptimizer(option="betas", value=(0.9, 1.5)), "Invalid beta parameter"),
        (
            SetOptimizer(option="amsgrad", value=1.0),
            "has no number 'amsgrad': expected lr or one of betas, eps, weight",
        ),
        (SetOptimizer(option="momentum", value=0.9), "has no number 'momentum'"),
        (SetOptimizer(option="lr", value=-0.1), "lr must be a number of at least 0"),
        (ReleaseSchedule(), "the schedule is not held"),
        (SetDropout(rate=0.2, layers=("9",)), "nothing is called '9': expected one of 2"),
        (FreezeLayers(layers=("head",)), "nothing is called 'head': expected one of 0.weight, 0.bias"),
        (UnfreezeLayers(layers=("0",)), "none of these parameters is frozen"),
        (FreezeLayers(layers=("3",), units=(16,)), "no unit 16 in 3: it has 16, from 0 to 15"),
        (FreezeLayers(layers=("3.weight",), units=(1,)), "nothing is called '3.weight': expected one of 0, 3, 5"),
        (UnfreezeLayers(layers=("3",), units=(1,)), "none of these units is frozen"),
        (ResetLayers(layers=("1",)), "nothing is called '1': expected one of 0, 3, 5"),
        (ResetLayers(layers=("3",), units=(16,)), "no unit 16 in 3: it has 16, from 0 to 15"),
        (RelabelSamples(rows=(1,), label=0), "this loop cannot relabel samples"),
        (Evaluate(), "this loop cannot evaluate"),
        (SetBatchSize(size=3), "this loop cannot set batch size"),
        (DropSamples(rows=(1,)), "this loop cannot drop samples"),
    ],
)
def test_what_cannot_be_set_is_rejected_with_its_reason_and_changes_nothing(command, reason):
    loop = Loop()
    loop.steps(1)
    before = str(loop.optimizer.state_dict()), str(loop.controller.state_dict())
    loop.controller.request(command)
    loop.controller.command_loop.boundary(1)
    status, why = loop.said()[0]
    assert status == "rejected"
    assert reason in why
    assert (str(loop.optimizer.state_dict()), str(loop.controller.state_dict())) == before
