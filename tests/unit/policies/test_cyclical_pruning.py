"""Cyclical Pruning: a periodic schedule, and weights that recover in the next cycle."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

import surgecollapse as sc
from surgecollapse.events import Freeze, Plan, Prune, Reading, Regrow
from surgecollapse.policies import CyclicalPruning

STEPS, EVERY, TARGET = 400, 10, 0.8


def decisions(policy, steps=STEPS, every=EVERY, target=TARGET):
    """What it decides, where every action is carried out."""
    policy.start(Plan(sparsity=target, total_steps=steps, every=every))
    sparsity, made = 0.0, {}
    for step in filter(policy.due, range(steps + 1)):
        made[step] = decision = policy.decide(Reading(step=step, sparsity=sparsity))
        prune, regrow = decision.find(Prune), decision.find(Regrow)
        sparsity = prune.range[1] if prune else sparsity * (1 - regrow.fraction) if regrow else sparsity
    return made


@pytest.mark.parametrize("cycles", [1, 2, 4, 5])
@pytest.mark.parametrize("fraction", [0.5, 0.75, 1.0])
def test_the_sparsity_is_periodic_and_cubic_within_a_cycle(cycles, fraction):
    length = STEPS / cycles
    for step, decision in decisions(CyclicalPruning(cycles=cycles, prune_fraction=fraction)).items():
        since = step % length
        prune = decision.find(Prune)
        if step and not since and step < STEPS:
            assert decision.actions == (Regrow(1.0, growth="random", regrow_init="zero"),)
        elif since or step == STEPS:
            u = min(1.0, (since or length) / (fraction * length))
            if prune is not None:
                assert prune.sparsity == pytest.approx(TARGET * (1 - (1 - u) ** 3))
            else:
                assert u == 1.0


@pytest.mark.parametrize("cycles", [1, 3])
def test_the_mask_is_final_where_the_last_cycle_reaches_the_target(cycles):
    made = decisions(CyclicalPruning(cycles=cycles, prune_fraction=0.75), steps=300)
    frozen = [step for step, decision in made.items() if decision.find(Freeze)]
    assert frozen == [round(300 * (cycles - 0.25) / cycles)]
    assert made[frozen[0]].actions == (Prune(TARGET), Freeze())


def test_mean_density_of_the_card():
    made, density, total = decisions(CyclicalPruning(), steps=4000, every=10, target=0.9), 1.0, 0.0
    for step in range(4000):
        decision = made.get(step)
        if decision is not None and decision.find(Regrow):
            density = 1.0
        elif decision is not None and (prune := decision.find(Prune)) is not None:
            density = 1 - prune.range[1]
        total += density
    # ∫ of the cubic over three quarters of a cycle: 0.75·(0.1 + 0.9/4) + 0.25·0.1 = 0.26875; masks lag by ten steps.
    assert total / 4000 == pytest.approx(0.26875, abs=0.9 * 4 * 10 / 4000)


def test_pruned_weights_stay_zero_within_a_cycle_and_recover_in_the_next():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3))
        x = torch.randn(64, 10)
    y = (x[:, 0] > 0).long()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    policy = CyclicalPruning(cycles=2)
    controller = sc.attach(model, optimizer, TARGET, STEPS, policy=policy, readings=sc.Readings(every=EVERY))
    masks = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        masks.append(controller.masks)
        for name, mask in masks[-1].items():
            assert not model.get_parameter(name)[~mask].any()
    for step, (earlier, later) in enumerate(itertools.pairwise(masks), start=2):
        opened = sum(int((later[name] & ~earlier[name]).sum()) for name in earlier)
        size = sum(mask.numel() for mask in earlier.values())
        assert opened == (round(TARGET * size) if step == STEPS // 2 else 0)
    kinds = [event.kind for event in controller.events if event.grown]
    assert kinds == ["surge"]
    recovered = sum(int((masks[-1][name] & ~masks[STEPS // 2 - 2][name]).sum()) for name in masks[0])
    assert recovered > 0


@pytest.mark.parametrize(
    ("options", "words"), [({"cycles": 0}, "cycles"), ({"prune_fraction": 0.0}, "prune_fraction must be in")]
)
def test_options_out_of_range_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        CyclicalPruning(**options)
