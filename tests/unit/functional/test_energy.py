"""Energies against closed forms, integrals and Monte Carlo."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from surgecollapse.functional import (
    activation_energy,
    bounded_noise_scale,
    energy_lost_gaussian,
    energy_lost_laplace,
    energy_lost_uniform,
    excess_loss,
    lowest,
    weight_energy,
)

LAWS = {
    "gaussian": (energy_lost_gaussian, stats.norm(scale=0.3)),
    "laplace": (energy_lost_laplace, stats.laplace(scale=2.0)),
    "uniform": (energy_lost_uniform, stats.uniform(-0.5, 1.0)),
}


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("q", [0.0, 0.01, 0.1, 0.5, 0.9, 0.98])
def test_energy_lost_is_the_integral_over_the_pruned_interval(law, q):
    closed, distribution = LAWS[law]
    edge = distribution.ppf((1 + q) / 2)
    lost, _ = integrate.quad(lambda w: w * w * distribution.pdf(w), -edge, edge, points=[0.0])
    assert closed(q) == pytest.approx(lost / distribution.var(), abs=1e-7)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("q", [0.1, 0.5, 0.9])
def test_energy_lost_by_pruning_a_million_weights(law, q):
    closed, distribution = LAWS[law]
    size = 1_000_000
    weights = torch.from_numpy(distribution.rvs(size, random_state=np.random.default_rng(1)))
    pruned = lowest([weights], int(q * size))[0]
    squares = weights.square()
    share = (squares[pruned].sum() / squares.sum()).item()
    # The delta method's standard error of a ratio of means.
    error = (squares * pruned - share * squares).std().item() / squares.mean().item() / size**0.5
    assert share == pytest.approx(closed(q), abs=max(0.0006, 4 * error))
    assert 4 * error < 0.006


@pytest.mark.parametrize("law", LAWS)
def test_energy_lost_rises_from_nothing_to_all(law):
    closed, _ = LAWS[law]
    values = [closed(q) for q in np.linspace(0, 1, 101)]
    assert values[0] == 0.0
    assert values[-1] == 1.0
    assert all(0 <= a <= b <= 1 for a, b in pairwise(values))
    assert closed(1e-9) >= 0.0
    for q in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=r"\[0, 1\]"):
            closed(q)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_energies_match_float64_sums(dtype):
    x = (torch.randn(400, 500, generator=torch.Generator().manual_seed(0)) * 30).to(dtype)
    before = x.clone()
    total = x.double().square().sum().item()
    assert weight_energy(x).item() == pytest.approx(total, rel=1e-5)
    assert activation_energy(x.T).item() == pytest.approx(total / 200_000, rel=1e-5)
    assert weight_energy(x).dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.equal(x, before)


def test_energy_of_many_weights_does_not_drift():
    x = torch.randn(20_000_000, generator=torch.Generator().manual_seed(0)).bfloat16()
    total = sum(part.double().square().sum().item() for part in torch.split(x, 1_000_000))
    assert weight_energy(x).item() == pytest.approx(total, rel=1e-6)


def test_energy_of_nothing():
    assert weight_energy(torch.empty(0, 3)).item() == 0.0
    assert activation_energy(torch.empty(0, 3)).isnan()


def test_bounded_noise_adds_the_share_rho_of_the_live_energy():
    count, live = 200_000, 50.0
    noise = torch.randn(count, generator=torch.Generator().manual_seed(0)) * bounded_noise_scale(live, count, 0.1)
    # Relative standard error of a mean of squares of Gaussians: √(2/n).
    assert weight_energy(noise).item() == pytest.approx(0.1 * live, rel=4 * (2 / count) ** 0.5)
    assert bounded_noise_scale(torch.tensor(live), count, 0.1).item() == pytest.approx((0.1 * live / count) ** 0.5)


def test_no_weights_or_no_budget_give_no_noise():
    assert bounded_noise_scale(5.0, 0, 0.1) == 0.0
    assert bounded_noise_scale(torch.tensor(5.0), 0, 0.1).item() == 0.0
    assert bounded_noise_scale(5.0, 10, 0.0) == 0.0


def test_a_noise_budget_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"noise_energy_budget.*-0\.1"):
        bounded_noise_scale(1.0, 10, -0.1)
    with pytest.raises(ValueError, match=r"count.*-1"):
        bounded_noise_scale(1.0, -1, 0.1)
    with pytest.raises(ValueError, match=r"live_energy.*nan"):
        bounded_noise_scale(float("nan"), 10, 0.1)


def quadratic(seed=0, size=12):
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(size, size, generator=generator, dtype=torch.float64)
    return root @ root.T, torch.randn(size, generator=generator, dtype=torch.float64)


def test_excess_loss_is_exact_on_a_quadratic():
    hessian, weight = quadratic()
    linear = torch.arange(12, dtype=torch.float64)

    def loss(w):
        return linear @ w + w @ hessian @ w / 2

    pruned = lowest([weight], 5)[0]
    delta = torch.where(pruned, weight, 0.0)
    gradient = linear + hessian @ weight
    rise = loss(weight * ~pruned) - loss(weight)
    assert excess_loss(gradient, hessian, delta).item() == pytest.approx(rise.item(), rel=1e-12)


def test_excess_loss_takes_a_hessian_vector_product():
    hessian, weight = quadratic()
    gradient, delta = (hessian @ weight).view(3, 4), weight.view(3, 4)

    def product(vector):
        return (hessian @ vector.reshape(-1)).view(3, 4)

    assert excess_loss(gradient, product, delta) == excess_loss(gradient, hessian, delta)


def test_excess_loss_refuses_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match="differ in shape"):
        excess_loss(torch.ones(2), torch.eye(2), torch.ones(3))
    with pytest.raises(ValueError, match=r"\(2, 2\), got \(3, 3\)"):
        excess_loss(torch.ones(2), torch.eye(3), torch.ones(2))
