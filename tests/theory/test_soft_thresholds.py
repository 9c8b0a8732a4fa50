"""Statement 11: soft thresholds with a straight-through gradient, on quadratics."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from theory_simulations import between_ranks, normal, rescaled_energy, straight_through

from surgecollapse.functional import magnitude_restoring_scale, soft_threshold


def curved(n=6, seed=0):
    factor = normal(n, 2 * n, seed=seed)
    return factor @ factor.T / (2 * n)


@pytest.mark.parametrize("threshold", [0.1, 1.0, 5.0])
def test_the_fixed_point_is_the_minimum_without_shrinkage(threshold):
    hessian = curved()
    minimum = torch.tensor([2.0, -1.0, 0.0, 0.5, 0.0, -3.0], dtype=torch.float64)
    w, _ = straight_through(lambda v: hessian @ (v - minimum), torch.zeros(6).double(), threshold, 0.3, 2500)
    found = soft_threshold(w, threshold)
    assert torch.allclose(found, minimum, rtol=0, atol=1e-9)
    assert torch.allclose(w[minimum != 0], (minimum + threshold * minimum.sign())[minimum != 0], rtol=0, atol=1e-9)
    assert bool((w[minimum == 0].abs() <= threshold + 1e-9).all())


def test_proximal_gradient_is_shrunk_where_straight_through_is_not():
    """The lasso's fixed point on ½h(v − a)² with penalty λ|v| is a − λ/h."""
    h, a, step, threshold = 2.0, 1.0, 0.1, 0.05
    v = torch.zeros(1, dtype=torch.float64)
    for _ in range(500):
        v = soft_threshold(v - step * h * (v - a), threshold)
    assert float(v) == pytest.approx(a - threshold / step / h, abs=1e-12)
    w, _ = straight_through(lambda v: h * (v - a), torch.zeros(1).double(), threshold, step, 500)
    assert float(soft_threshold(w, threshold)) == pytest.approx(a, abs=1e-12)


@pytest.mark.parametrize("threshold", [0.5, 2.0, 10.0])
def test_on_too_few_rows_it_solves_the_regularized_problem(threshold):
    """From w = 0 it is linearized Bregman iteration: min t‖v‖₁ + ½‖v‖² with Av = y, whose conditions are checked."""
    rows, columns = 12, 24
    design = normal(rows, columns, seed=1) / math.sqrt(rows)
    truth = torch.zeros(columns, dtype=torch.float64)
    truth[[3, 17]] = torch.tensor([1.0, -2.0], dtype=torch.float64)
    target = design @ truth
    step = 1.9 / float(torch.linalg.matrix_norm(design, 2)) ** 2
    w, _ = straight_through(
        lambda v: design.T @ (design @ v - target), torch.zeros(columns).double(), threshold, step, 6000
    )
    v = soft_threshold(w, threshold)
    assert float((design @ v - target).norm()) < 1e-6
    # w = Aᵀλ for some λ, and v = soft(w; t): stationarity of the Lagrangian, with the subgradient of t‖v‖₁.
    dual = torch.linalg.lstsq(design.T, w[:, None]).solution
    assert torch.allclose(design.T @ dual, w[:, None], rtol=0, atol=1e-8 * float(w.abs().max()))
    value = float(threshold * v.abs().sum() + 0.5 * v.square().sum())
    assert value <= float(threshold * truth.abs().sum() + 0.5 * truth.square().sum()) * (1 + 1e-6)
    if threshold == 10.0:  # large: the sparsest solution, where the least ℓ₂ norm has none that are zero
        assert torch.equal(v.abs() > 1e-3, truth != 0)
        least = torch.linalg.pinv(design) @ target
        assert int((least.abs() > 1e-3).sum()) > 20


def test_with_a_fixed_count_soft_weights_lose_the_next_magnitude():
    """k of n weights that all want to be open: the shadow grows for ever, and v goes to soft(a; |a| of rank k + 1)."""
    minimum = torch.tensor([3.0, -2.5, 2.0, 1.0, -0.5], dtype=torch.float64)
    w, seen = straight_through(lambda v: v - minimum, 0.01 * minimum, between_ranks(2), 0.1, 2000)
    assert torch.allclose(seen[-1], soft_threshold(minimum, 2.0), rtol=0, atol=1e-9)
    assert float(w[2]) == pytest.approx(2000 * 0.1 * 2.0 + 0.02, rel=1e-9)  # closed all along: it drifts


@pytest.mark.parametrize("rescale", [True, False])
def test_with_its_magnitude_restored_it_exchanges_for_ever(rescale):
    """Hard values, or one open weight rescaled to its own magnitude: the closed one drifts until it opens."""
    minimum = torch.tensor([1.0, 0.9], dtype=torch.float64)
    w, choices = torch.tensor([0.2, 0.1], dtype=torch.float64), []
    for _ in range(1000):
        t = between_ranks(1)(w)
        v = soft_threshold(w, t, p=1 if rescale else 0)
        v = v * magnitude_restoring_scale(w, v) if rescale else v
        choices.append(int(v.abs().argmax()))
        w = w - 0.05 * (v - minimum)
    late = choices[500:]
    assert sum(a != b for a, b in itertools.pairwise(late)) > 10
    # With the gradient held back where a weight is closed (θ = 0), the first choice stays.
    w = torch.tensor([0.2, 0.1], dtype=torch.float64)
    for _ in range(1000):
        v = soft_threshold(w, between_ranks(1)(w), p=0)
        assert int(v.abs().argmax()) == 0
        w = w - 0.05 * (v - minimum) * (v != 0)
    assert float(w[0]) == pytest.approx(1.0, rel=1e-9)


def test_a_fixed_count_settles_where_the_minimum_is_sparse_enough():
    minimum = torch.tensor([1.0, 0.0], dtype=torch.float64)
    start = torch.tensor([0.1, 0.3], dtype=torch.float64)
    _, seen = straight_through(lambda v: v - minimum, start, between_ranks(1), 0.05, 2000)
    assert torch.allclose(seen[-1], minimum, rtol=0, atol=1e-9)


@pytest.mark.parametrize("density", [0.02, 0.1, 0.5])
def test_the_rescale_adds_energy(density):
    n = 200_000
    uniform = torch.rand(n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weight = -torch.log1p(-uniform)  # |w| of a Laplace law
    threshold = -math.log(density)
    v = soft_threshold(weight, threshold)
    opened = v != 0
    scale = float(magnitude_restoring_scale(weight, v))
    energy = float((scale * v).square().sum() / weight[opened].square().sum())
    c, ratio = rescaled_energy(density)
    # Means of k exponential magnitudes: relative standard error 1/√k for c, and below 4/√k for ratios of squares.
    k = int(opened.sum())
    assert scale == pytest.approx(c, rel=6 / math.sqrt(k))
    assert energy == pytest.approx(ratio, rel=24 / math.sqrt(k))
    assert energy >= 1
    # The same magnitude in all, more of it in large weights: those above the mean open weight grow.
    assert float((scale * v).sum()) == pytest.approx(float(weight[opened].sum()), rel=1e-12)
    grown = scale * v > weight
    mean = float(weight[opened].mean())
    assert torch.equal(grown[opened], weight[opened] > mean)


@pytest.mark.parametrize("threshold", [0.2, 1.4])
def test_with_the_rescale_a_fixed_point_needs_a_threshold_below_the_mean(threshold):
    """At the fixed point 1/c = 1 − K·t/Σ|a|: here K = 2 and Σ|a| = 3."""
    minimum = torch.tensor([2.0, -1.0, 0.0], dtype=torch.float64)

    def gradient(v):
        return magnitude_restoring_scale(v + threshold * v.sign(), v) * v - minimum

    start = torch.tensor([threshold + 1.0, -threshold - 1.0, 0.0], dtype=torch.float64)
    w, _ = straight_through(gradient, start, threshold, 0.02, 3000)
    v = soft_threshold(w, threshold)
    scale = float(magnitude_restoring_scale(w, v))
    assert scale == pytest.approx(1 / (1 - 2 * threshold / 3), rel=1e-6)
    assert torch.allclose(scale * v, minimum, rtol=0, atol=1e-6)
