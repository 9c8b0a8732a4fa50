"""A state is a snapshot: training on does not change it, and loading it again gives the same steps, bitwise."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn

import surgecollapse as sc
from surgecollapse.events import Decision, SetNoise
from surgecollapse.policies import POLICIES

X = torch.randn(128, 10, generator=torch.Generator().manual_seed(0))
Y = torch.randint(3, (128,), generator=torch.Generator().manual_seed(1))
TRANSFORMS = {
    "Grokfast": lambda: sc.Grokfast(),
    "GrokfastMA": lambda: sc.GrokfastMA(window=5),
    "OrthoGrad": lambda: sc.OrthoGrad(),
    "ClipNorm": lambda: sc.ClipNorm(1.0),
}


class Loop:
    """A small loop, whose batches follow from the step."""

    def __init__(self, attach):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.model = nn.Sequential(nn.Linear(10, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 3))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-2)
        self.part = attach(self.model, self.optimizer)

    def train(self, steps, seed):
        generator = torch.Generator().manual_seed(seed)
        for _ in range(steps):
            rows = torch.randint(128, (32,), generator=generator)
            self.optimizer.zero_grad()
            nn.functional.cross_entropy(self.model(X[rows]), Y[rows]).backward()
            self.optimizer.step()
        return [p.detach().clone() for p in self.model.parameters()]


def replayed(attach, *, before=41, after=30):
    """Train, keep the states as they are returned, train on, load them, and train the same steps again."""
    loop = Loop(attach)
    loop.train(before, 0)
    kept = copy.deepcopy([loop.model.state_dict(), loop.optimizer.state_dict()])
    state = loop.part.state_dict()
    written = io.BytesIO()
    torch.save(state, written)
    want = loop.train(after, 1)
    again = io.BytesIO()
    torch.save(state, again)
    assert again.getvalue() == written.getvalue(), "training changed the state that was returned"
    loop.model.load_state_dict(kept[0])
    loop.optimizer.load_state_dict(kept[1])
    loop.part.load_state_dict(state)
    got = loop.train(after, 1)
    torch.save(state, third := io.BytesIO())
    assert third.getvalue() == written.getvalue(), "training after a load changed the state that was loaded"
    return want, got


@pytest.mark.parametrize("growth", [None, "momentum", "gradient"])
@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_the_state_of_a_controller_is_a_snapshot_under_every_policy(policy, growth):
    updates = sc.Updates(growth=growth, regrow_init="last")
    options = {"policy": policy, "updates": updates, "readings": sc.Readings(every=5)}
    want, got = replayed(lambda model, optimizer: sc.attach(model, optimizer, 0.8, 200, **options))
    assert all(map(torch.equal, want, got))


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("how", ["controller", "alone"])
def test_the_state_of_a_transform_is_a_snapshot(name, how):
    def attach(model, optimizer):
        transforms = [TRANSFORMS[name]()]
        if how == "alone":
            return sc.transform_gradients(optimizer, transforms)
        return sc.attach(model, optimizer, 0.8, 200, transforms=transforms, readings=sc.Readings(every=5))

    want, got = replayed(attach)
    assert all(map(torch.equal, want, got))


def test_the_state_of_an_average_is_a_snapshot():
    want, got = replayed(lambda model, optimizer: sc.average_weights(model, optimizer, decay=0.9))
    assert all(map(torch.equal, want, got))


@pytest.mark.parametrize("name", ["default", "curvature"])
def test_the_state_of_monitors_is_a_snapshot(name):
    loop = Loop(lambda model, optimizer: sc.watch_training(model, optimizer, monitors=name, every=5, budget=None))
    loop.train(12, 0)
    state = loop.part.state_dict()
    kept = copy.deepcopy(state["probe"])
    loop.train(12, 1)
    assert torch.equal(state["probe"]["batch"][0][0], kept["batch"][0][0]) if "batch" in kept else state["step"] == 12
    assert state["step"] == 12


@pytest.mark.parametrize("at", [1, 17])
@pytest.mark.parametrize("monitors", [(), "default"], ids=["no monitors", "monitors"])
def test_a_run_that_is_taken_up_while_there_is_input_noise_goes_on_bitwise(at, monitors):
    # Some passes of the probe batch run in training mode, the first of them at another step in a resumed process.
    def attach(model, optimizer):
        readings, watched = sc.Readings(every=5), sc.Monitoring(monitors, budget=None)
        return sc.attach(model, optimizer, 0.8, 60, policy="gmp", readings=readings, monitors=watched)

    whole = Loop(attach)
    for step in range(at):
        whole.train(1, step)
    whole.part.carry_out(Decision(phase="pump", reason="asked for", actions=(SetNoise(0.3),)))
    states = copy.deepcopy([whole.model.state_dict(), whole.optimizer.state_dict()])
    again = Loop(attach)
    again.model.load_state_dict(states[0])
    again.optimizer.load_state_dict(states[1])
    for step in range(at, 40):
        assert all(map(torch.equal, whole.train(1, step), again.train(1, step))), step
    assert whole.part.noise_std == again.part.noise_std == 0.3
