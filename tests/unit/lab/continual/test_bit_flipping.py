"""Slowly changing regression, against its definition."""

from __future__ import annotations

import pytest
import torch

from surgecollapse.lab.continual.bit_flipping import bit_flipping, target_network, targets


def test_a_unit_is_open_where_enough_of_its_weights_agree():
    weights, thresholds, outputs = target_network(0)
    assert set(weights.unique().tolist()) == set(outputs.unique().tolist()) == {-1.0, 1.0}
    x = torch.randint(2, (200, 20), generator=torch.Generator().manual_seed(1)).float()
    whole = torch.cat([x, torch.ones(200, 1)], 1)
    # A sum plus the number of negative weights counts the inputs that agree with their weight: 1 with 1, 0 with −1.
    agree = (whole[:, None] == (weights > 0)).sum(2)
    expected = (agree >= 0.7 * 21 - 1e-9).float() @ outputs
    assert torch.equal(targets(x, weights, thresholds, outputs), expected)


def test_one_slow_bit_flips_between_tasks_and_none_within():
    held = {}
    for task, x, _ in bit_flipping(tasks=12, batches=3, batch_size=8, seed=0):
        slow = x[:, :15]
        assert torch.equal(slow, slow[:1].expand_as(slow))
        held.setdefault(task, []).append(slow[0])
    for now in held.values():
        assert all(torch.equal(now[0], other) for other in now)
    flips = [int((held[task][0] != held[task + 1][0]).sum()) for task in range(11)]
    assert flips == [1] * 11


def test_fast_bits_are_drawn_for_every_sample_and_answers_are_those_of_the_target():
    target = target_network(3)
    xs, ys = [], []
    for _, x, y in bit_flipping(tasks=200, batches=5, batch_size=16, seed=3):
        xs.append(x)
        ys.append(y)
    x, y = torch.cat(xs), torch.cat(ys)[:, 0]
    share = x[:, 15:].mean(0)  # 16,000 fair draws: five deviations are 0.02
    assert (share - 0.5).abs().max() < 0.02
    answers = targets(x, *target)
    # Affine with a positive slope: equal answers stay equal, and the slope is one number.
    slope = (y[1:] - y[0])[answers[1:] != answers[0]] / (answers[1:] - answers[0])[answers[1:] != answers[0]]
    assert slope.min() > 0
    assert torch.allclose(slope, slope[:1].expand_as(slope), rtol=1e-3)


def test_random_bits_have_answers_of_mean_zero_and_deviation_one():
    y = torch.cat([y for *_, y in bit_flipping(tasks=1, batches=400, batch_size=16, seed=1, slow=0)])
    # 6,400 samples here and 4,096 for the scale: five deviations of the mean are 0.1.
    assert y.mean().item() == pytest.approx(0.0, abs=0.1)
    assert y.std().item() == pytest.approx(1.0, abs=0.1)
