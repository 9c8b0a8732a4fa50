"""The commutator of two gradient steps against steps that are taken."""

from __future__ import annotations

import pytest
import torch

from surgecollapse.functional import Hessian, commutator_defect


def symmetric(d, seed):
    a = torch.randn((d, d), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return a + a.T


def quadratic(h, c):
    return lambda w: (w["w"] - c) @ h @ (w["w"] - c) / 2


def steps(losses, start, rate):
    w = start.clone()
    for loss in losses:
        w = w - rate * Hessian(loss, {"w": w}).gradient
    return w


@pytest.mark.parametrize("rate", [1e-3, 0.1, 10.0])
def test_on_quadratics_it_is_the_distance_of_two_ends_for_every_step_size(rate):
    w = torch.arange(5, dtype=torch.float64)
    a, b = quadratic(symmetric(5, 1), 2.0), quadratic(symmetric(5, 2), -1.0)
    one, two = Hessian(a, {"w": w}), Hessian(b, {"w": w})
    apart = (steps([a, b], w, rate) - steps([b, a], w, rate)).norm()
    wanted = apart / (rate * one.gradient.norm() * rate * two.gradient.norm())
    # Ends lie about 1e2·rate off, and the distance is of order rate²: relative rounding 1e-14/rate.
    assert commutator_defect(one, two).item() == pytest.approx(wanted.item(), rel=1e-14 / rate + 1e-12)


def test_on_other_losses_it_is_the_limit_of_small_steps():
    w = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64)

    def a(v):
        return (v["w"].exp().sum() * v["w"][0]).sin()

    def b(v):
        return v["w"].square().sum().cos() + v["w"][1] * v["w"][2]

    one, two = Hessian(a, {"w": w}), Hessian(b, {"w": w})
    rate = 1e-4
    apart = (steps([a, b], w, rate) - steps([b, a], w, rate)).norm()
    wanted = apart / (rate**2 * one.gradient.norm() * two.gradient.norm())
    # Terms of third order: relative rate × third derivatives of order ten.
    assert commutator_defect(one, two).item() == pytest.approx(wanted.item(), rel=1e-2)


def test_equal_batches_and_batches_that_share_curvature_and_minimum_commute():
    w = torch.arange(4, dtype=torch.float64)
    h = symmetric(4, 3)
    same = Hessian(quadratic(h, 1.0), {"w": w})
    assert commutator_defect(same, same).item() == 0.0
    twice = Hessian(quadratic(2 * h, 1.0), {"w": w})  # H_A g_B = 2h·h(w − c) = H_B g_A
    assert commutator_defect(same, twice).item() < 1e-13


def test_where_a_gradient_vanishes_it_is_zero_and_other_weights_are_refused():
    w = torch.ones(3, dtype=torch.float64)
    flat, other = Hessian(quadratic(symmetric(3, 1), 1.0), {"w": w}), Hessian(quadratic(symmetric(3, 2), 0.0), {"w": w})
    assert commutator_defect(flat, other).item() == 0.0
    with pytest.raises(ValueError, match="same weights, got 3 and 2"):
        commutator_defect(flat, Hessian(quadratic(symmetric(2, 1), 1.0), {"w": w[:2]}))
