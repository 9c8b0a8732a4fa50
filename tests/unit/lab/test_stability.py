"""Spikes of a loss and diverged runs, against values worked out by hand."""

from __future__ import annotations

import math
import statistics

import pytest

from surgecollapse.lab.stability import diverged, spike_score

BEFORE = [1.0, 2.0] * 10
"""Mean 1.5, unbiased standard deviation √(20·0.25/19) = 0.5130."""


def test_a_loss_is_a_spike_from_seven_deviations_above_the_mean_on():
    limit = 1.5 + 7 * math.sqrt(20 * 0.25 / 19)
    assert statistics.stdev(BEFORE) == pytest.approx(0.5130, abs=1e-4)
    assert spike_score([*BEFORE, limit - 1e-6], window=20) == 0.0
    assert spike_score([*BEFORE, limit + 1e-6], window=20) == 1.0


def test_the_score_is_a_share_of_the_judged_losses_and_falls_are_none():
    assert spike_score([*BEFORE, 9.0, 1.5, 1.5, -9.0], window=20) == 0.25
    assert spike_score(BEFORE, window=20) == 0.0  # nothing to judge


def test_losses_that_are_not_finite_are_spikes_and_spoil_no_mean():
    assert spike_score([*BEFORE, math.inf, 1.5, math.nan, 1.5], window=20) == 0.5


def test_a_window_of_one_is_refused():
    with pytest.raises(ValueError, match="window of at least 2, got 1"):
        spike_score([1.0], window=1)


@pytest.mark.parametrize(
    ("loss", "expected"), [(math.log(4) - 1e-9, False), (math.log(4) + 1e-9, True), (math.inf, True)]
)
def test_a_run_diverged_where_it_ends_above_guessing(loss, expected):
    assert diverged([0.0] * 10 + [loss] * 5, classes=4, last=5) is expected


def test_the_early_losses_do_not_count():
    assert not diverged([math.nan, 100.0] + [0.1] * 50, classes=2)
