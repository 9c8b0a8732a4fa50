"""Statements 9 and 10, and the bound of depth: masks and data, entropy production, predictive entropy."""

from __future__ import annotations

import math

import pytest
import torch
from theory_simulations import (
    binary_entropy,
    bit_information,
    fisher_information,
    free_energy,
    log_binomial,
    normal,
    ornstein_uhlenbeck,
)

from surgecollapse.functional import predictive_entropy, symbol_mutual_information


@pytest.mark.parametrize("mean", [0.2, 1.0, 3.0])
@pytest.mark.parametrize("cut", [0.1, 1.0, 2.0])
@pytest.mark.parametrize("surge", [0.1, 1.0])
def test_collapse_and_random_surge_lose_information(mean, cut, surge):
    found = bit_information(mean, cut, surge)
    rounding = 1e-6  # of the quadrature: the integrand jumps at the cut, where the grid is off by half a spacing
    assert 0 <= found.surged <= found.collapsed + rounding
    assert found.collapsed <= found.trained + rounding
    assert found.trained < math.log(2)


def test_information_of_an_uncut_weight_is_the_known_value():
    """h(W) − h(W|S) of ±1 in unit noise, by Gauss–Hermite quadrature: ln 2 − E[ln(1 + exp(−2 − 2Z))]."""
    import numpy as np

    nodes, weights = np.polynomial.hermite_e.hermegauss(100)
    exact = math.log(2) - float(np.sum(weights * np.logaddexp(0, -2 - 2 * nodes)) / math.sqrt(2 * math.pi))
    assert bit_information(1.0, 0.5, 1.0).trained == pytest.approx(exact, abs=1e-9)


def test_regrowth_by_the_gradient_can_gain_information():
    """It sees the data: a closed weight that takes the bit itself as its value knows the bit."""
    generator = torch.Generator().manual_seed(0)
    bit = torch.randint(2, (4000,), generator=generator)
    weight = (2 * bit - 1) * 0.1 + torch.randn(4000, generator=generator)
    closed = weight.abs() < 1
    collapsed = torch.where(closed, 0, weight.sign().long() + 3)
    regrown = torch.where(closed, 10 + bit, collapsed)
    before, after = (float(symbol_mutual_information(x, bit, correct=False)) for x in (collapsed, regrown))
    assert after > 0.5 * math.log(2) > 0.05 > before


@pytest.mark.parametrize("n", [10, 1000, 1_000_000])
@pytest.mark.parametrize("density", [0.02, 0.1, 0.5])
def test_a_mask_says_at_most_the_binary_entropy_of_each_weight(n, density):
    k = max(1, round(density * n))
    rounding = 1e-12 * math.lgamma(n + 1)
    assert log_binomial(n, k) <= n * binary_entropy(k / n) + rounding
    # From below by ln(n + 1) less (Cover and Thomas, section 11.1): the bound is sharp per weight.
    assert log_binomial(n, k) >= n * binary_entropy(k / n) - math.log(n + 1) - rounding


@pytest.mark.parametrize("h", [0.3, 2.0])
@pytest.mark.parametrize("temperature", [0.1, 1.0])
@pytest.mark.parametrize("start", [(0.0, 0.01), (2.0, 0.5), (-1.0, 20.0)])
def test_entropy_production_is_temperature_times_fisher_information(h, temperature, start):
    """Ḟ by the chain rule, with the gradient of F = E[V] − T·H and the motion of mean and variance."""
    for time in (0.0, 0.1, 1.0):
        now = ornstein_uhlenbeck(h, temperature, *start, time)
        mean, variance = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in now)
        free = 0.5 * h * (variance + mean**2) - temperature / 2 * torch.log(2 * math.pi * math.e * variance)
        slopes = torch.autograd.grad(free, (mean, variance))
        fall = float(slopes[0]) * h * now[0] + float(slopes[1]) * (2 * h * now[1] - 2 * temperature)
        production = temperature * fisher_information(h, temperature, *now)
        assert fall / temperature == pytest.approx(production, rel=1e-9)
        assert production > 0
        equilibrium = -temperature / 2 * math.log(2 * math.pi * temperature / h)
        assert float(free.detach()) - equilibrium == pytest.approx(
            free_energy(h, temperature, *now), rel=1e-9, abs=1e-12
        )


def test_free_energy_falls_at_least_at_twice_the_curvature():
    h, temperature, start = 0.7, 0.5, (1.5, 4.0)
    first = free_energy(h, temperature, *start)
    for time in (0.1, 1.0, 5.0):
        now = free_energy(h, temperature, *ornstein_uhlenbeck(h, temperature, *start, time))
        assert 0 <= now <= first * math.exp(-2 * h * time) * (1 + 1e-9)


def test_in_equilibrium_nothing_is_produced():
    assert fisher_information(2.0, 0.5, 0.0, 0.25) == 0.0
    assert free_energy(2.0, 0.5, 0.0, 0.25) == 0.0


def predictions(rows=400, classes=7, sharpness=3.0, seed=0):
    return torch.softmax(sharpness * normal(rows, classes, seed=seed), dim=1)


@pytest.mark.parametrize("sharpness", [0.3, 1.0, 5.0])
def test_entropy_bounds_the_error_that_a_calibrated_net_expects(sharpness):
    p = predictions(sharpness=sharpness)
    # The library's entropy is a share of ln K, averaged over rows.
    entropy = float(predictive_entropy(p.log())) * math.log(7)
    expected_error = 1 - float(p.amax(1).mean())
    assert expected_error <= 1 - math.exp(-entropy) + 1e-12
    assert expected_error <= entropy / (2 * math.log(2)) + 1e-12


@pytest.mark.parametrize("sharpness", [0.3, 1.0, 5.0])
def test_confidence_is_the_information_of_predictions_about_inputs(sharpness):
    p = predictions(sharpness=sharpness)
    middle = p.mean(0)
    information = float((p * (p.log() - middle.log())).sum(1).mean())  # mean KL divergence from the average prediction
    confidence = 1 - float(predictive_entropy(p.log()))
    missing = math.log(7) + float((middle * middle.log()).sum())  # of the average prediction, to the uniform one
    assert information == pytest.approx(confidence * math.log(7) - missing, abs=1e-9)


def test_a_confident_net_can_be_wrong_everywhere():
    right, wrong = torch.eye(5) * 50, torch.eye(5).roll(1, 1) * 50
    assert float(predictive_entropy(right)) == pytest.approx(float(predictive_entropy(wrong)))
    assert bool((right.argmax(1) != wrong.argmax(1)).all())


@pytest.mark.parametrize("distance", [0.01, 0.3, 1.0])
def test_near_predictions_have_near_entropies(distance):
    """|H(p) − H(q)| ≤ d·ln(K − 1) + h_b(d), d the total variation distance, where d ≤ 1 − 1/K."""
    first = predictions(seed=1)
    second = (1 - distance) * first + distance * predictions(seed=2)
    gaps = 0.5 * (first - second).abs().sum(1)
    entropies = [torch.special.entr(p).sum(1) for p in (first, second)]
    for gap, change in zip(gaps.tolist(), (entropies[0] - entropies[1]).abs().tolist(), strict=True):
        if gap <= 1 - 1 / 7:
            assert change <= gap * math.log(6) + binary_entropy(gap) + 1e-12
