"""Statements 3 to 6: what a collapse takes, what a surge costs, and the temperature of repeated surges."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from theory_simulations import kicked_variance, normal

from surgecollapse.functional import (
    energy_lost_gaussian,
    energy_lost_laplace,
    energy_lost_uniform,
    excess_loss,
    lowest,
)

EPS = torch.finfo(torch.float64).eps
LAWS = {
    "gaussian": (stats.norm, energy_lost_gaussian),
    "laplace": (stats.laplace, energy_lost_laplace),
    "uniform": (stats.uniform(loc=-1, scale=2), energy_lost_uniform),
}


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("q", [0.5, 0.8, 0.9, 0.98])
def test_energy_lost_by_the_selection_of_the_library(law, q):
    """Six standard errors of a trimmed share: of (w² − cut²)·1[closed] − share·w², over E[w²]·√n."""
    n = 100_000
    distribution, closed_form = LAWS[law]
    uniform = torch.rand(n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    energy = torch.from_numpy(distribution.ppf(uniform.numpy())).square()
    closed = lowest([energy], round(q * n))[0]
    influence = (energy - energy[closed].max()) * closed - closed_form(q) * energy
    error = float(influence.std() / energy.mean()) / math.sqrt(n)
    assert abs(float(energy[closed].sum() / energy.sum()) - closed_form(q)) < 6 * error


@pytest.mark.parametrize("q", [0.5, 0.9, 0.98])
def test_the_heavier_the_tail_the_less_a_collapse_takes(q):
    assert energy_lost_laplace(q) < energy_lost_gaussian(q) < energy_lost_uniform(q)


def quadratic(n=30, seed=0):
    factor = normal(n, n, seed=seed)
    return factor @ factor.T / n, normal(n, seed=seed + 1)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_excess_loss_is_exact_on_a_quadratic(share):
    hessian, minimum = quadratic()
    weight = normal(30, seed=7)
    closed = lowest([weight.abs()], round(share * 30))[0]

    def loss(w):
        return 0.5 * (w - minimum) @ hessian @ (w - minimum)

    rise = loss(weight.masked_fill(closed, 0)) - loss(weight)
    predicted = excess_loss(hessian @ (weight - minimum), hessian, weight * closed)
    # Three quadratic forms of n² products each, relative to the largest loss among them.
    assert abs(rise - predicted) <= 3 * 30**2 * EPS * (loss(weight) + loss(torch.zeros_like(weight)) + loss(-weight))


def test_excess_loss_is_off_by_the_third_order_elsewhere():
    """The remainder is at most M‖δ‖³/6, M a bound of the third derivative: |σ''| ≤ 1/(6√3) for the logistic loss."""
    rows = normal(50, 10, seed=3)
    weight, delta = normal(10, seed=4).requires_grad_(), 0.3 * normal(10, seed=5)

    def loss(w):
        return torch.nn.functional.softplus(rows @ w).mean()

    gradient = torch.autograd.grad(loss(weight), weight)[0]
    hessian = torch.autograd.functional.hessian(loss, weight.detach())
    rise = loss(weight.detach() - delta) - loss(weight.detach())
    third = float((rows @ delta).abs().pow(3).mean()) / (6 * math.sqrt(3))
    remainder = abs(float(rise - excess_loss(gradient, hessian, delta)))
    assert 0 < remainder <= third / 6


def test_magnitude_is_the_best_choice_for_equal_curvature_only():
    weight = torch.tensor([1.0, 2.0], dtype=torch.float64)
    for curvature, best in ((torch.tensor([1.0, 1.0]), 0), (torch.tensor([9.0, 1.0]), 1)):
        hessian = torch.diag(curvature.double())
        rises = [
            float(excess_loss(torch.zeros(2).double(), hessian, weight * torch.eye(2)[i].double())) for i in (0, 1)
        ]
        assert rises.index(min(rises)) == best


def test_a_surge_costs_half_its_variance_times_the_trace():
    hessian, _ = quadratic()
    regrown, sigma, draws = torch.arange(30) % 3 == 0, 0.2, 40_000
    part = hessian[regrown][:, regrown]
    noise = sigma * normal(draws, int(regrown.sum()), seed=8)
    cost = 0.5 * ((noise @ part) * noise).sum(1)
    expected = 0.5 * sigma**2 * float(part.diagonal().sum())
    # Var(½zᵀHz) = ½σ⁴‖H_PP‖². Six standard errors.
    error = math.sqrt(0.5 * sigma**4 * float(part.square().sum()) / draws)
    assert abs(float(cost.mean()) - expected) < 6 * error
    assert float(cost.var()) == pytest.approx(draws * error**2, rel=0.2)


@pytest.mark.parametrize("h", [0.01, 1.0, 10.0])
@pytest.mark.parametrize("period", [1, 5, 50])
def test_mean_energy_over_a_cycle_is_the_temperature(h, period):
    step, sigma = 0.05, 0.3
    after, before, mean = kicked_variance(h, step, period, sigma, cycles=40_000 // period)
    shrink = (1 - step * h) ** (2 * period)
    if shrink ** (40_000 // period) > 1e-12:
        pytest.fail("the iteration is too short")
    assert after == pytest.approx(sigma**2 / (1 - shrink), rel=1e-9)
    assert before == pytest.approx(sigma**2 * shrink / (1 - shrink), rel=1e-9)
    # h·⟨w²⟩ = T/(1 − ηh/2), T = σ²/(2ητ): the same for all curvatures up to O(ηh).
    temperature = sigma**2 / (2 * step * period)
    assert h * mean == pytest.approx(temperature / (1 - step * h / 2), rel=1e-9)


def test_within_a_cycle_the_law_is_langevin_only_for_slow_directions():
    step, period, sigma = 0.05, 20, 0.3
    temperature = sigma**2 / (2 * step * period)
    spread = []
    for h in (0.01, 0.1, 1.0):
        after, before, _ = kicked_variance(h, step, period, sigma, cycles=3000)
        spread.append((after - before) * h / temperature)  # of a Langevin equation: 0
        assert spread[-1] == pytest.approx(2 * step * h * period, rel=1e-9)
    assert spread[0] < 0.03 < 1 < spread[-1]
