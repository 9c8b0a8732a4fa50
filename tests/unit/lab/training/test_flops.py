"""Densities and operations of a run, against hand counts, torch's own counter and what the engine really does."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from surgecollapse import Readings, attach
from surgecollapse.events import Intervention, LayerChange
from surgecollapse.lab.nets.cnn import SeriesCNN, SmallCNN
from surgecollapse.lab.nets.mlp import MLP
from surgecollapse.lab.nets.transformer import OneLayerTransformer
from surgecollapse.lab.training.flops import (
    dense_gradient_steps,
    growth_window,
    inference_flops,
    mean_density,
    multiplications,
    training_flops,
)
from surgecollapse.observe.dense_gradient import DenseGradient
from surgecollapse.policies import make_policy
from surgecollapse.record import MemoryRecorder


@pytest.mark.parametrize(
    ("model", "x"),
    [
        (MLP(12, (7, 5), 3), torch.zeros(4, 12)),
        (SmallCNN((1, 8, 8), (4, 6), 10), torch.zeros(4, 1, 8, 8)),
        (SeriesCNN((1, 40), (5, 6), 10), torch.zeros(4, 1, 40)),
    ],
    ids=["mlp", "cnn", "series"],
)
def test_multiplications_are_half_of_the_operations_that_torch_counts(model, x):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x[:1])
    assert 2 * sum(multiplications(model, x).values()) == counter.get_total_flops()


def test_attention_multiplies_keys_and_values_everywhere_and_the_rest_where_it_is_asked():
    model = OneLayerTransformer(7, 4, 5, width=8, hidden=16)
    counts = multiplications(model, torch.zeros(2, 4, dtype=torch.int64))
    assert counts["attention.in_proj_weight"] == 8 * 8 * (1 + 2 * 4)
    assert counts["attention.out_proj.weight"] == 8 * 8
    assert counts["mlp.0.weight"] == 8 * 16
    assert counts["head.weight"] == 8 * 5
    assert not [name for name in counts if name.startswith(("tokens", "positions"))]


def test_counting_leaves_the_model_as_it_was():
    model = MLP(4, (3,), 2, dropout=0.5).train()
    multiplications(model, torch.zeros(1, 4))
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())


def change(step: int, live: int, kind: str = "collapse") -> Intervention:
    layer = LayerChange(name="w", size=100, live=live, energy_before=1.0, energy_after=1.0)
    return Intervention(
        step=step, kind=kind, phase="", reason="", sparsity_before=0.0, sparsity_after=1 - live / 100, layers=(layer,)
    )


def test_training_operations_by_hand():
    # Steps 1-50 dense, 51-100 at density .2: 2·.2 + .2 = .6 of 3 a step, and on steps 90 and 100 1 instead of .2.
    events, counts = [change(50, 20)], {"w": 300, "head": 100}
    pruned = (50 * 3 + 50 * 0.6 + 2 * 0.8) * 300
    expected = (pruned + 100 * 3 * 100) / (3 * 100 * 400)
    found = training_flops(events, {"w": 100}, counts, 100, dense_gradients=frozenset({90, 100}))
    assert found == pytest.approx(expected, rel=1e-12)


def test_dense_gradients_cost_nothing_more_while_all_weights_are_open():
    steps = frozenset(range(1, 101))
    assert training_flops([], {"w": 100}, {"w": 1}, 100, steps) == pytest.approx(1.0, abs=1e-12)


def test_a_static_mask_from_the_start_has_its_density_throughout():
    assert mean_density([change(0, 10)], {"w": 100}, 40) == pytest.approx(0.1, abs=1e-12)


def test_zero_weights_are_not_multiplied_at_inference():
    model = MLP(4, (4,), 4)
    with torch.no_grad():
        model.body[1].weight.zero_()
    assert inference_flops(model, multiplications(model, torch.zeros(1, 4))) == 0.5


def test_no_gradient_is_taken_for_growth_once_the_mask_is_final():
    frozen = Intervention(step=60, kind="freeze", phase="", reason="", sparsity_before=0.0, sparsity_after=0.0)
    assert dense_gradient_steps([frozen], [30, 60, 90], 2) == {29, 30, 59, 60}


@pytest.mark.parametrize(
    ("name", "options"),
    [("acdc", {}), ("entropy_cycles", {}), ("rigl", {"interval": 20}), ("set", {"interval": 20}), ("gmp", {})],
)
def test_density_and_dense_gradients_are_those_of_the_engine(name, options, monkeypatch):
    steps, taken, densities = 200, set(), []
    torch.manual_seed(0)
    model = MLP(8, (16, 16), 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    x = torch.randn(64, 8)
    recorder, policy = MemoryRecorder(), make_policy(name, **options)
    update = DenseGradient.update

    def spy(self, params):
        if params:
            taken.add(len(densities))
        update(self, params)

    monkeypatch.setattr(DenseGradient, "update", spy)
    with attach(
        model,
        optimizer,
        sparsity=0.8,
        total_steps=steps,
        readings=Readings(every=10),
        policy=policy,
        recorders=[recorder],
    ) as controller:

        def density():
            live, size = controller.open_weights()
            return live / size

        for _ in range(steps):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), (x[:, 0] > 0).long())
            loss.backward()
            densities.append(density())
            optimizer.step()
        sizes = {key: mask.numel() for key, mask in controller.masks.items()}
        readings = [reading.step for reading in controller.readings]
        events = recorder.of(Intervention)
        if name in ("rigl", "set"):  # the first mask is there before the first step, but after its forward pass
            densities[0] = density()
    assert mean_density(events, sizes, steps) == pytest.approx(sum(densities) / steps, abs=1e-9)
    window = growth_window(getattr(policy, "growth", "ema_gradient"))
    counted = dense_gradient_steps(events, readings, window)
    sparse = {step for step, density in enumerate(densities, start=1) if density < 1}
    assert counted & sparse == taken & sparse
    assert bool(counted & sparse) == (name in ("entropy_cycles", "rigl"))
