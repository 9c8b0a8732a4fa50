"""Statements 7 and 8: interlacing, and the learning coefficient of a localized quadratic."""

from __future__ import annotations

import math

import pytest
import torch
from theory_simulations import normal

from surgecollapse.functional import hessian_effective_dimension

EPS = torch.finfo(torch.float64).eps


@pytest.mark.parametrize("closed", [1, 10, 25])
@pytest.mark.parametrize("definite", [True, False])
def test_curvatures_of_what_stays_open_interlace(closed, definite):
    n = 30
    factor = normal(n, n, seed=0)
    hessian = factor @ factor.T if definite else factor + factor.T
    kept = torch.randperm(n, generator=torch.Generator().manual_seed(1))[closed:]
    whole = torch.linalg.eigvalsh(hessian).flip(0)
    part = torch.linalg.eigvalsh(hessian[kept][:, kept]).flip(0)
    slack = n * EPS * float(whole.abs().max())  # of a backward stable eigensolver
    assert bool((part <= whole[: n - closed] + slack).all())
    assert bool((part >= whole[closed:] - slack).all())
    assert part[0] < whole[0]


def test_on_other_losses_a_collapse_can_sharpen():
    """½x²·exp(−y) has curvature exp(−y) along x: closing y = 2 raises it from exp(−2) to 1."""

    def loss(w):
        return 0.5 * w[0] ** 2 * torch.exp(-w[1])

    hessians = [
        torch.autograd.functional.hessian(loss, torch.tensor([0.0, y], dtype=torch.float64)) for y in (2.0, 0.0)
    ]
    sharpness = [float(torch.linalg.eigvalsh(h)[-1]) for h in hessians]
    assert sharpness == pytest.approx([math.exp(-2), 1.0], rel=1e-12)


@pytest.mark.parametrize("localization", [1e-9, 1.0, 100.0])
def test_learning_coefficient_is_half_the_effective_dimension(localization):
    n_beta = 100.0
    curvature = torch.tensor([0.0, 1e-3, 0.1, 1.0, 10.0], dtype=torch.float64)
    # exp(−nβL − γ‖w‖²/2) is Gaussian with precision nβh + γ: E[nβL] is half a sum of ratios.
    draws = 200_000
    sample = normal(draws, 5, seed=0) / (n_beta * curvature + localization).sqrt()
    losses = n_beta * 0.5 * (curvature * sample.square()).sum(1)
    ratios = n_beta * curvature / (n_beta * curvature + localization)
    error = float((ratios.square().sum() / 2 / draws).sqrt())  # Var(½r·χ²) = r²/2
    claimed = 0.5 * float(hessian_effective_dimension(curvature, localization / n_beta))
    assert claimed == pytest.approx(float(ratios.sum()) / 2, rel=1e-9)
    assert abs(float(losses.mean()) - claimed) < 6 * error


def test_without_localization_it_is_half_the_rank():
    curvature = torch.tensor([0.0, 0.0, 2.0, 3.0], dtype=torch.float64)
    assert float(hessian_effective_dimension(curvature, 1e-12)) / 2 == pytest.approx(1.0, rel=1e-9)


def test_a_collapse_lowers_the_coefficient_of_a_quadratic():
    factor = normal(20, 20, seed=2)
    hessian = factor @ factor.T / 20
    kept = torch.arange(20) % 2 == 0
    whole, part = (torch.linalg.eigvalsh(h) for h in (hessian, hessian[kept][:, kept]))
    assert hessian_effective_dimension(part, 0.1) < hessian_effective_dimension(whole, 0.1)
