"""Dynamic-mode residuals in closed form: linear recurrences, too few modes, noise."""

from __future__ import annotations

import math

import pytest
import torch

from surgecollapse.functional import dynamic_mode_residual

# The Gram matrix squares singular values: a mode is seen down to the root of the rounding of float64, 1.5e-8.
EXACT = 1e-6


def draws(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("poles", [(0.5,), (0.9, -0.6), (0.95, 0.5, -0.8)])
def test_a_linear_recurrence_of_few_modes_is_predicted_whatever_its_fixed_point(poles):
    t = torch.arange(16, dtype=torch.float64)
    history = 3.0 + torch.stack([pole**t for pole in poles], 1) @ draws(len(poles), 7)
    assert dynamic_mode_residual(history, rank=len(poles)).item() < EXACT


def test_a_rotation_has_two_modes():
    t = torch.arange(16, dtype=torch.float64)
    history = torch.stack([torch.cos(0.7 * t), torch.sin(0.7 * t)], 1)
    assert dynamic_mode_residual(history, rank=2).item() < EXACT
    assert dynamic_mode_residual(history, rank=1).item() > 0.1


def test_delays_find_two_modes_in_one_number():
    t = torch.arange(16, dtype=torch.float64)
    history = torch.cos(0.7 * t)[:, None]
    assert dynamic_mode_residual(history, delays=2, rank=2).item() < EXACT
    assert dynamic_mode_residual(history, delays=1, rank=2).item() > 0.1


@pytest.mark.parametrize(("delays", "rank"), [(1, 1), (2, 3), (4, 4)])
def test_the_residual_is_that_of_the_map_written_out(delays, rank):
    history = draws(14, 3, seed=2).cumsum(0)
    moves = history.diff(dim=0)
    columns = torch.stack([moves[i : i + delays].flatten() for i in range(len(moves) - delays + 1)], 1)
    x, y = columns[:, :-1], columns[:, 1:]
    u, s, vh = torch.linalg.svd(x, full_matrices=False)
    step = y @ vh[:rank].T @ torch.diag(1 / s[:rank]) @ u[:, :rank].T
    near = vh[:rank].T @ torch.diag(s[:rank]) @ u[:, :rank].T  # the map is fitted to the leading part of X
    wanted = (y - step @ near.T).norm() / y.norm()
    assert dynamic_mode_residual(history, delays=delays, rank=rank).item() == pytest.approx(wanted.item(), abs=1e-7)


def test_white_motion_keeps_the_share_of_the_columns_that_are_not_modes():
    """Independent moves of many numbers: Y is independent of V_r, so that r of m columns are hit by chance."""
    columns, rank = 40, 4
    history = torch.cat([torch.zeros(1, 4000, dtype=torch.float64), draws(columns + 1, 4000, seed=3).cumsum(0)])
    found = dynamic_mode_residual(history, delays=1, rank=rank).item()
    # Column t of Y is column t + 1 of X, so that VᵀYᵀYV hits r of 40 columns, or less: the last column is new.
    assert found == pytest.approx(math.sqrt(1 - rank / columns), abs=0.02)


def test_what_does_not_move_has_no_residual_and_constants_do_not_count():
    assert dynamic_mode_residual(torch.full((9, 3), 7.0)).item() == 0.0
    history = draws(12, 3, seed=4).cumsum(0)
    shifted = dynamic_mode_residual(history + 1e3).item()
    # Differences of numbers near 1e3 keep 13 digits.
    assert shifted == pytest.approx(dynamic_mode_residual(history).item(), abs=1e-9)


def test_what_is_not_finite_has_no_number_and_short_histories_are_refused():
    history = draws(12, 3, seed=5)
    history[3, 1] = torch.inf
    assert math.isnan(dynamic_mode_residual(history).item())
    with pytest.raises(ValueError, match="at least 7 snapshots"):
        dynamic_mode_residual(draws(6, 2))
    with pytest.raises(ValueError, match="must be at least 1"):
        dynamic_mode_residual(draws(12, 2), rank=0)


def test_the_history_is_not_changed():
    history = draws(12, 3)
    kept = history.clone()
    dynamic_mode_residual(history)
    assert torch.equal(history, kept)
