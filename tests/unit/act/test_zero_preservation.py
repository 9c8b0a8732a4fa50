"""Closed weights that stay zero by themselves: the same values, bit for bit, as with a multiply after every step."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import surgecollapse
from surgecollapse.act.masked_weights import MaskedWeights
from surgecollapse.act.zero_preservation import KEEP_ZEROS
from surgecollapse.events import Decision, Prune, Regrow

OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.05),
    "SGD with momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, dampening=0.1, weight_decay=0.1),
    "SGD, Nesterov": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "SGD, maximize": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, maximize=True),
    "SGD, fused": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, fused=True),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.1),
    "Adam, AMSGrad": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True, foreach=False),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.3),
    "AdamW, foreach": lambda p: torch.optim.AdamW(p, lr=0.01, foreach=True),
    "AdamW, fused": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    "NAdam": lambda p: torch.optim.NAdam(p, lr=0.01, decoupled_weight_decay=True, weight_decay=0.1),
    "RAdam": lambda p: torch.optim.RAdam(p, lr=0.01),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.05),
    "Adagrad from .1": lambda p: torch.optim.Adagrad(p, lr=0.05, initial_accumulator_value=0.1),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5, centered=True),
    "Adadelta": lambda p: torch.optim.Adadelta(p, lr=1.0),
}


class CyclicPruning:
    """Closes 80% at step 10, opens half of that at 20, closes again at 30, and holds."""

    growth = "ema_gradient"

    def start(self, plan):
        pass

    def due(self, step):
        return False

    def decide(self, reading):
        actions = {10: (Prune(0.8),), 20: (Regrow(0.5),), 30: (Prune(0.9),)}.get(reading.step, ())
        return Decision(phase="x", reason="by the clock", actions=actions)

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


class Training:
    """A net with a controller that reads every five steps; ``step`` trains it on a batch of its own."""

    def __init__(self, make=OPTIMIZERS["AdamW"], optimizer_state="reset", policy=None):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))
        self.optimizer = make(self.model.parameters())
        self.controller = surgecollapse.attach(
            self.model,
            self.optimizer,
            surgecollapse.Target(0.9, min_density=0.0),
            policy=policy or CyclicPruning(),
            updates=surgecollapse.Updates(optimizer_state=optimizer_state),
            readings=surgecollapse.Readings(every=5),
        )
        self.count = 0

    def step(self, times=1):
        for _ in range(times):
            generator = torch.Generator().manual_seed(self.count)
            self.count += 1
            x, y = torch.randn(32, 6, generator=generator), torch.randint(3, (32,), generator=generator)
            self.optimizer.zero_grad()
            nn.functional.cross_entropy(self.model(x), y).backward()
            self.optimizer.step()

    def closed(self):
        """All closed weights in one tensor."""
        masks = self.controller.masks
        return torch.cat([p.detach()[~masks[n]] for n, p in self.model.named_parameters() if n in masks])


@pytest.fixture
def multiplied(monkeypatch):
    """How often weights were multiplied by their masks."""
    calls = []
    real = MaskedWeights.apply
    monkeypatch.setattr(MaskedWeights, "apply", lambda self, names=None: (calls.append(1), real(self, names))[1])
    return calls


def test_every_optimizer_that_is_trusted_is_tried_here():
    assert {type(make([nn.Parameter(torch.ones(1))])) for make in OPTIMIZERS.values()} == KEEP_ZEROS


@pytest.mark.parametrize("moments", ["reset", "warmup"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weights_are_those_of_a_multiply_after_every_step(name, moments, multiplied):
    resting, always = (Training(OPTIMIZERS[name], optimizer_state=moments) for _ in range(2))
    counts = []
    for _ in range(60):
        for training in (resting, always):
            multiplied.clear()
            always.controller._components.zero_preservation.disable_fast_path(0)
            training.step()
            counts.append(len(multiplied))
        zeros = resting.closed()
        assert torch.equal(zeros.view(torch.int32), torch.zeros_like(zeros, dtype=torch.int32)), "a zero has a sign"
        for ours, theirs in zip(resting.model.parameters(), always.model.parameters(), strict=True):
            assert torch.equal(ours, theirs)
    assert resting.controller.sparsity == pytest.approx(0.9, abs=1e-3)
    ours, theirs = counts[::2], counts[1::2]
    assert theirs == [1] * 60
    assert ours == [int(step <= 11 or step in (21, 31)) for step in range(1, 61)], "after events, and not else"
    assert not [event for event in resting.controller.events if event.kind == "zeros"]


@pytest.mark.parametrize(
    ("options", "make"),
    [
        ({"optimizer_state": "keep"}, OPTIMIZERS["AdamW"]),
        ({}, lambda p: type("Mine", (torch.optim.AdamW,), {})(p, lr=0.01)),
        ({}, lambda p: torch.optim.Rprop(p, lr=0.01)),
        ({}, lambda p: torch.optim.Adamax(p, lr=0.01)),
    ],
    ids=["moments are kept", "a class of somebody's own", "Rprop", "Adamax"],
)
def test_others_are_multiplied_after_every_step(options, make, multiplied):
    training = Training(make, **options)
    multiplied.clear()
    training.step(40)
    assert len(multiplied) == 40
    assert not training.closed().any()


def test_under_a_wrapper_weights_are_multiplied_after_every_step(multiplied):
    class Lookahead(torch.optim.Optimizer):
        def __init__(self, optimizer):
            self.optimizer = optimizer
            super().__init__(optimizer.param_groups, {})
            self.slow = [p.detach().clone() for p in self.param_groups[0]["params"]]

        def step(self, closure=None):
            self.optimizer.step()
            with torch.no_grad():
                for p, slow in zip(self.param_groups[0]["params"], self.slow, strict=True):
                    p.copy_(slow.lerp_(p, 0.5))

    training = Training(lambda p: Lookahead(torch.optim.AdamW(p, lr=0.01)))
    multiplied.clear()
    for _ in range(40):
        training.step()
        assert not training.closed().any()
    assert len(multiplied) == 40


def test_a_write_between_steps_is_undone_by_the_next_step(multiplied):
    training = Training()
    training.step(41)
    with torch.no_grad():
        training.model[2].weight.add_(1.0)
    training.step()
    assert not training.closed().any()
    multiplied.clear()
    training.step(3)
    assert not multiplied
    assert not [event for event in training.controller.events if event.kind == "zeros"]


def test_a_write_that_torch_does_not_count_is_undone_at_the_next_reading_and_said(multiplied):
    training = Training()
    training.step(41)
    training.model[2].weight.data.add_(1.0)
    training.step(3)
    assert training.closed().any(), "not seen yet"
    training.step()
    assert not training.closed().any()
    (event,) = [event for event in training.controller.events if event.kind == "zeros"]
    assert event.step == 45
    assert "step 45" in event.reason
    multiplied.clear()
    training.step(5)
    assert len(multiplied) == 5, "no longer trusted"


def test_moments_of_another_run_are_found_when_they_are_loaded(multiplied):
    training, dense = Training(), Training(policy="no_op")
    training.step(41)
    dense.step(41)
    state = dense.optimizer.state_dict()
    del state["surgecollapse.controller"]
    training.optimizer.load_state_dict(state)
    training.controller.load_state_dict(training.controller.state_dict())
    multiplied.clear()
    for _ in range(9):
        training.step()
        assert not training.closed().any()
    assert len(multiplied) == 9, "momentum would move them"


def test_moments_of_the_same_run_are_trusted_again(multiplied):
    training = Training()
    training.step(41)
    training.optimizer.load_state_dict(training.optimizer.state_dict())
    multiplied.clear()
    training.step(9)
    assert len(multiplied) == 1
    assert not training.closed().any()


def test_a_gradient_that_is_not_finite_is_no_reason_for_distrust():
    training = Training()
    training.step(41)
    training.optimizer.zero_grad()
    training.model(torch.full((4, 6), float("inf"))).sum().backward()
    training.optimizer.step()
    training.count += 1
    training.step(4)
    assert not [event for event in training.controller.events if event.kind == "zeros"]


def test_two_optimizers_are_trusted_one_by_one(multiplied):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))
    pair = [
        torch.optim.AdamW(model[0].parameters(), lr=0.01),
        torch.optim.Rprop([*model[2].parameters(), *model[4].parameters()], lr=0.01),
    ]
    surgecollapse.attach(
        model,
        pair,
        sparsity=surgecollapse.Target(0.9, min_density=0.0),
        policy=CyclicPruning(),
        readings=surgecollapse.Readings(every=5),
    )
    multiplied.clear()
    for _ in range(40):
        nn.functional.cross_entropy(model(torch.randn(32, 6)), torch.randint(3, (32,))).backward()
        for optimizer in pair:
            optimizer.step()
            optimizer.zero_grad()
    assert 40 < len(multiplied) < 60, "the second after every step, the first after events"
