"""Whatever a policy decides, in whatever order: zeros hold, counts are exact, the ledger is finite."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import surgecollapse
from surgecollapse.events import Decision, Exchange, Prune, Regrow, SetNoise
from surgecollapse.functional import kept


class Script:
    """Carries out a list of decisions, one a step."""

    growth = "ema_gradient"

    def __init__(self, decisions):
        self.decisions, self.made = decisions, 0

    def start(self, plan):
        pass

    def due(self, step):
        return step <= len(self.decisions)

    def decide(self, reading):
        self.made += 1
        return self.decisions[reading.step - 1]

    def state_dict(self):
        return {"made": self.made}

    def load_state_dict(self, state):
        self.made = state["made"]


def mlp():
    return nn.Sequential(nn.Linear(3, 7), nn.Tanh(), nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 2)), (6, 3)


def cnn():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(16, 2),
    )  # fmt: skip
    return model.to(memory_format=torch.channels_last), (6, 3, 4, 4)


OPTIMIZERS = [
    lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.1, nesterov=True),
    lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.1),
    lambda p: torch.optim.RMSprop(p, lr=1e-3, centered=True, momentum=0.9),
]
depths = st.floats(0.0, 0.95).map(lambda depth: round(depth, 3))
saliencies = st.sampled_from([None, "magnitude", "random"])
regrowth = {
    "growth": st.sampled_from([None, "random", "gradient", "ema_gradient", "momentum"]),
    "regrow_init": st.sampled_from([None, "zero", "noise", "last"]),
    "noise_energy_budget": st.none() | st.sampled_from([0.0, 0.1, 0.5]),
}
actions = st.one_of(
    st.builds(
        Prune,
        depths | st.tuples(depths, depths).map(lambda pair: tuple(sorted(pair))),
        floor=st.none() | st.floats(0.0, 1.0),
        allocation=st.sampled_from([None, "global", "layer", "erk"]),
        saliency=saliencies,
        keep_values=st.booleans(),
    ),
    st.builds(Exchange, st.sampled_from([0.0, 0.1, 1.0]), saliency=saliencies, **regrowth),
    st.builds(
        Regrow, st.sampled_from([0.0, 0.01, 0.5, 1.0]), source=st.sampled_from(["pruned", "collapsed"]), **regrowth
    ),
    st.builds(SetNoise, st.sampled_from([0.0, 0.1])),
)
decisions = st.builds(
    Decision,
    phase=st.sampled_from(["sparse", "open", "pump"]),
    reason=st.just("drawn"),
    actions=st.lists(actions, max_size=4).map(tuple),  # in any order, and more than once
)


@pytest.mark.parametrize("build", [mlp, cnn])
@settings(max_examples=25)
@given(
    script=st.lists(decisions, min_size=2, max_size=6),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    optimizer=st.sampled_from(OPTIMIZERS),
    set_to_none=st.booleans(),
    moments=st.sampled_from(["reset", "keep", "warmup"]),
)
def test_masks_survive_any_sequence_of_events(build, script, dtype, optimizer, set_to_none, moments):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, shape = build()
        x = torch.randn(*shape).to(dtype)
    model = model.to(dtype)
    named, optimizer = dict(model.named_parameters()), optimizer(model.parameters())
    controller = surgecollapse.attach(
        model,
        optimizer,
        sparsity=surgecollapse.Target(0.5, min_density=0.0),
        policy=Script(script),
        updates=surgecollapse.Updates(optimizer_state=moments),
    )
    live = None
    for step in range(len(script) + 3):
        optimizer.zero_grad(set_to_none=set_to_none)
        model(x).float().square().mean().backward()
        optimizer.step()
        masks = controller.masks
        size, live = sum(m.numel() for m in masks.values()), live or sum(m.numel() for m in masks.values())
        events = [event for event in controller.events if event.step == step + 1]
        for event in events:
            live += event.grown - event.pruned
            prunes = [action for action in script[step].actions if isinstance(action, Prune)]
            check_ledger(event, ranked=all(action.allocation in (None, "global") for action in prunes))
        assert sum(int(m.sum()) for m in masks.values()) == live
        assert controller.open_weights() == (live, size)
        zeros = sum(int((named[name] == 0).sum()) for name in masks)
        assert controller.sparsity == zeros / size
        assert zeros >= size - live
        last = script[step].actions[-1] if step < len(script) and script[step].actions else None
        if isinstance(last, Prune) and isinstance(last.sparsity, float):
            assert live == kept(size, last.sparsity)
        for name, mask in masks.items():
            weight = named[name].detach()
            assert torch.isfinite(weight).all()
            assert torch.equal(weight, weight * mask), name
            assert weight.stride() == named[name].stride()
    assert controller.policy.made == len(script)


def check_ledger(event, *, ranked):
    numbers = [event.energy_before, event.energy_after, event.energy_injected]
    numbers += [layer.energy_after for layer in event.layers]
    assert all(math.isfinite(number) and number >= 0 for number in numbers)
    if event.kind == "surge":
        tolerance = 1e-5 * event.energy_after
        assert event.energy_after == pytest.approx(event.energy_before + event.energy_injected, abs=tolerance)
        assert event.pruned == 0
    if event.kind == "exchange":
        assert event.grown == event.pruned
        assert event.sparsity_after == event.sparsity_before
    if event.kind == "collapse":
        assert event.energy_after <= event.energy_before * (1 + 1e-6)
        assert event.grown == 0 or not ranked, "a closed weight was revived"
