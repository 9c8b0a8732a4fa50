"""What transforms do to gradients: closed forms, and that looking changes nothing and is seldom."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import surgecollapse
from surgecollapse.events import Measurement
from surgecollapse.gradients.effects import Effects
from surgecollapse.record import MemoryRecorder

SERIES = {"grokfast/slow_norm", "grokfast/ratio", "grokfast/cosine", "orthograd/removed"}


def seen(transform, params, grads):
    effects, before = Effects(), [g.clone() for g in grads]
    transform(params, grads)
    effects.see(transform, before, grads)
    return effects.read()


def test_a_filter_is_told_by_the_norm_size_and_direction_of_what_it_adds():
    grokfast, param = surgecollapse.Grokfast(alpha=0.5, lamb=3.0), torch.zeros(2)
    grokfast([param], [torch.tensor([2.0, 0.0])])
    found = seen(grokfast, [param], [torch.tensor([0.0, 2.0])])  # the mean of both is (1, 1)
    assert found["grokfast/slow_norm"] == pytest.approx(math.sqrt(2))
    assert found["grokfast/ratio"] == pytest.approx(3 * math.sqrt(2) / 2)
    assert found["grokfast/cosine"] == pytest.approx(1 / math.sqrt(2))


def test_a_filter_that_takes_the_place_of_the_gradient_is_told_by_what_it_puts_there():
    transform, param = surgecollapse.GradientFilter([0.5, 0.5], lamb=2.0, replace=True), torch.zeros(2)
    transform([param], [torch.tensor([2.0, 0.0])])
    found = seen(transform, [param], [torch.tensor([0.0, 2.0])])
    assert found["grokfast/slow_norm"] == pytest.approx(math.sqrt(2))
    assert found["grokfast/cosine"] == pytest.approx(1 / math.sqrt(2))


@pytest.mark.parametrize("rescale", [True, False])
def test_a_projection_is_told_by_the_energy_along_the_weights_rescaled_or_not(rescale):
    weights = [torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]])]
    grads = [torch.tensor([[3.0, 4.0]]), torch.tensor([[5.0, 0.0]])]  # 9 of 25 along the weight, and 0 of 25
    found = seen(surgecollapse.OrthoGrad(rescale=rescale), weights, grads)
    assert found == {"orthograd/removed": pytest.approx(9 / 50)}


def test_a_clip_is_told_by_its_factor():
    found = seen(surgecollapse.ClipNorm(1.0), [torch.zeros(2)], [torch.tensor([3.0, 4.0])])
    assert found == {"clip/factor": pytest.approx(0.2)}


def test_optimizers_are_taken_together():
    effects, grokfast = Effects(), surgecollapse.Grokfast(lamb=1.0)
    for g in (torch.tensor([3.0]), torch.tensor([4.0])):
        effects.see(grokfast, [g], [2 * g])
    assert effects.read()["grokfast/slow_norm"] == pytest.approx(5.0)


@pytest.mark.parametrize("gradient", [torch.zeros(2), torch.tensor([float("nan"), 1.0])])
def test_what_is_not_a_number_is_left_out(gradient):
    found = seen(surgecollapse.Grokfast(lamb=1.0), [torch.zeros(2)], [gradient])
    assert all(math.isfinite(value) for value in found.values())
    assert "grokfast/cosine" not in found


def train(recorders, attached, steps=12):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    transforms = [surgecollapse.Grokfast(), surgecollapse.OrthoGrad()]
    if attached:
        handle = surgecollapse.attach(
            model,
            optimizer,
            sparsity=0.5,
            total_steps=200,
            policy="entropy_cycles",
            readings=surgecollapse.Readings(every=4),
            transforms=transforms,
            recorders=recorders,
        )
    else:
        handle = surgecollapse.transform_gradients(optimizer, transforms, recorders=recorders, every=4)
    x = torch.randn(32, 8)
    with handle:
        for _ in range(steps):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), (x[:, 0] > 0).long()).backward()
            optimizer.step()
        return model.state_dict(), handle.state_dict()


@pytest.mark.filterwarnings("ignore:the block of attach")
@pytest.mark.parametrize("attached", [True, False])
def test_training_that_is_looked_at_is_bitwise_the_training_that_is_not_and_it_is_seldom(attached, monkeypatch):
    looks, see = [], Effects.see
    monkeypatch.setattr(Effects, "see", lambda self, *given: looks.append(None) or see(self, *given))
    memory = MemoryRecorder()
    weights, state = train([memory], attached)
    plain, _ = train([], attached)
    assert all(torch.equal(value, plain[name]) for name, value in weights.items())
    found = {(event.name, event.step) for event in memory.events if isinstance(event, Measurement)}
    assert found == {(name, step) for name in SERIES for step in (4, 8, 12)}
    assert len(looks) == 6 * (2 if attached else 1)  # two transforms, three readings; an unwatched handle never looks
    assert attached or state["step"] == 12


def test_the_cadence_outlives_a_resume():
    optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=1.0)
    with surgecollapse.transform_gradients(optimizer, [], every=4) as handle:
        handle.load_state_dict({"transforms": [], "step": 7})
        assert handle.state_dict()["step"] == 7
    with pytest.raises(ValueError, match="every must be at least 1"):
        surgecollapse.transform_gradients(optimizer, [], every=0)
