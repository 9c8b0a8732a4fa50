"""Statements 1 and 2: a dense gradient phase and a collapse, again and again."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from theory_simulations import alternating_cycles, contraction_bound, hard_thresholding, sparse_regression

EPS = torch.finfo(torch.float64).eps


@pytest.mark.parametrize("k", [8, 12, 16])
@pytest.mark.parametrize("noise", [0.0, 0.01, 0.1])
def test_every_step_of_hard_thresholding_obeys_the_contraction(k, noise):
    problem, step = sparse_regression(noise=noise), 0.5
    iterates = hard_thresholding(problem, k, step=step)
    for x, following in itertools.pairwise(iterates):
        error = float((following - problem.truth).norm())
        # Rounding: a product with 400 columns and a norm, each relative to values of at most ‖x‖ + ‖x*‖.
        slack = 1000 * EPS * float(x.norm() + problem.truth.norm() + 1)
        assert error <= contraction_bound(problem, x, following, step) + slack


def test_sparse_regression_converges_linearly_to_the_oracle():
    problem = sparse_regression()
    errors = [float((x - problem.truth).norm()) for x in hard_thresholding(problem, 8)]
    support = problem.truth != 0
    oracle = torch.linalg.lstsq(problem.design[:, support], problem.target[:, None]).solution[:, 0]
    floor = float((oracle - problem.truth[support]).norm())
    # From the fifth iterate the support is right, and the error shrinks by the restricted contraction in each step.
    gram = problem.design[:, support].T @ problem.design[:, support]
    rate = float(torch.linalg.matrix_norm(torch.eye(8, dtype=torch.float64) - 0.5 * gram, 2))
    last = hard_thresholding(problem, 8)[-1]
    assert torch.equal(last != 0, support)
    assert float((last[support] - oracle).norm()) <= rate ** (60 - 20) * errors[20] + floor * 1e-9
    assert errors[-1] == pytest.approx(floor, rel=1e-6)


def test_without_noise_the_truth_is_recovered():
    problem = sparse_regression(noise=0.0)
    errors = [float((x - problem.truth).norm()) for x in hard_thresholding(problem, 8)]
    assert errors[60] < 1e-6 * errors[0]


@pytest.mark.parametrize("tau", [1, 3, 10, 30, 100])
def test_loss_before_a_collapse_stays_under_the_recursion(tau):
    found = alternating_cycles(tau)
    bound = found.before[0]
    for loss in found.before[1:]:
        bound = found.rho * (bound + found.largest_jump)
        assert loss <= bound * (1 + 1e-9)
    floor = found.rho * found.largest_jump / (1 - found.rho)
    assert found.before[-1] <= floor + found.rho ** (len(found.before) - 1) * found.before[0]
    assert found.before[-1] > 0


@pytest.mark.parametrize("rate", [1e-3, 0.05, 0.5])
@pytest.mark.parametrize("accuracy", [1e-4, 0.1, 10.0])
def test_the_stated_cycle_length_suffices(rate, accuracy):
    jump = 1.0
    tau = math.ceil(math.log(1 + jump / accuracy) / rate)
    rho = (1 - rate) ** tau
    assert rho * jump / (1 - rho) <= accuracy


def test_the_floor_is_the_fixed_point_of_the_worst_case():
    rho, jump, loss = 0.7, 2.0, 0.0
    for _ in range(200):
        loss = rho * (loss + jump)
    assert loss == pytest.approx(rho * jump / (1 - rho), rel=1e-12)
