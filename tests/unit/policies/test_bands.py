"""Bands, hysteresis and trend against values known by hand."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from surgecollapse.policies.bands import FixedBand, Hysteresis, QuantileBand, TargetBand, quantile
from surgecollapse.policies.trend import Trend


@pytest.mark.parametrize("q", [0.0, 0.2, 0.5, 0.8, 1.0])
def test_quantile_agrees_with_numpy(q: float) -> None:
    values = np.random.default_rng(0).random(37)
    assert quantile(list(values), q) == pytest.approx(np.quantile(values, q), abs=1e-12)


def test_quantile_band_has_no_limits_before_it_has_enough_readings() -> None:
    band = QuantileBand(window=10, least=3)
    for value in (0.1, 0.2):
        band.update(value)
        assert band.bounds() is None
    band.update(0.3)
    assert band.bounds() is not None


def test_quantile_band_forgets_what_left_its_window() -> None:
    band = QuantileBand(0.0, 1.0, window=3, least=1)
    for value in (0.9, 0.1, 0.2, 0.3):
        band.update(value)
    assert band.bounds() == (0.1, 0.3)


def test_target_band_sinks_while_entropy_is_above_the_target_and_stops_at_its_reach() -> None:
    band = TargetBand(0.5, width=0.1, gain=0.1, reach=0.2)
    highs = []
    for _ in range(50):
        band.update(0.9)
        highs.append(band.bounds()[1])
    assert highs[0] == pytest.approx(0.5 - 0.04 + 0.1)
    assert highs[-1] == pytest.approx(0.5 - 0.2 + 0.1)
    assert all(later <= earlier for earlier, later in pairwise(highs))


def test_target_band_steers_a_system_that_answers_it_to_the_target() -> None:
    # Entropy drifts up by .01 a reading and falls by .05 when it is answered as high: without the controller
    # it would hover under the fixed upper limit, above the target; with it, the mean comes to the target.
    def mean_entropy(gain: float) -> float:
        band, entropy, seen = TargetBand(0.5, width=0.05, gain=gain), 0.5, []
        for _ in range(400):
            high = entropy > band.bounds()[1]
            band.update(entropy)
            seen.append(entropy)
            entropy += 0.01 - 0.05 * high
        return sum(seen[200:]) / 200

    assert abs(mean_entropy(0.05) - 0.5) < 0.005
    assert mean_entropy(0.0) > 0.52


def test_hysteresis_keeps_a_level_until_the_margin_is_crossed_back() -> None:
    level = Hysteresis(0.05)
    seen = [level.update(value, 0.3, 0.7) for value in (0.71, 0.69, 0.66, 0.64, 0.29, 0.34, 0.36)]
    assert seen == ["high", "high", "high", "band", "low", "low", "band"]


def test_hysteresis_goes_straight_from_high_to_low() -> None:
    level = Hysteresis(0.5)
    assert [level.update(value, 0.4, 0.6) for value in (0.7, 0.3)] == ["high", "low"]


def test_trend_of_a_line_is_its_slope_however_few_readings_there_are() -> None:
    trend = Trend(span=10, decay=0.0, least=2)
    for index in range(4):
        trend.update(0.2 + 0.003 * index)
    assert trend.change == pytest.approx(0.03)
    assert trend.rising
    assert not trend.plateau


def test_trend_needs_its_least_number_of_intervals() -> None:
    trend = Trend(span=3)
    for _ in range(3):
        trend.update(0.5)
        assert trend.change is None
        assert not trend.plateau
    trend.update(0.5)
    assert trend.plateau
    assert not trend.rising


def test_trend_averages_exponentially() -> None:
    trend = Trend(span=2, decay=0.9)
    for value in (0.0, 1.0, 1.0):
        trend.update(value)
    # m: 0, .1, .19
    assert trend.change == pytest.approx(0.19)


def test_a_falling_trend_is_neither_flat_nor_rising() -> None:
    trend = Trend(span=2, decay=0.0)
    for value in (0.5, 0.4, 0.3):
        trend.update(value)
    assert (trend.plateau, trend.rising) == (False, False)


@pytest.mark.parametrize(
    "make",
    [
        lambda: FixedBand(0.7, 0.3),
        lambda: FixedBand(-0.1, 0.3),
        lambda: QuantileBand(0.8, 0.2),
        lambda: QuantileBand(window=5, least=6),
        lambda: TargetBand(1.5),
        lambda: TargetBand(0.5, gain=-1.0),
        lambda: Hysteresis(-0.1),
        lambda: Trend(span=0),
        lambda: Trend(decay=1.0),
        lambda: Trend(limit=float("nan")),
    ],
)
def test_thresholds_out_of_range_are_refused(make: object) -> None:
    with pytest.raises(ValueError, match="must"):
        make()
