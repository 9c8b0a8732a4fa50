"""Schedules by hand."""

from __future__ import annotations

from itertools import pairwise

import pytest

from surgecollapse.functional import SCHEDULES
from surgecollapse.schedules import constant, cosine, cubic


def test_cubic_by_hand():
    # u = 0, ¼, ½, ¾, 1 leaves 1, 27/64, 1/8, 1/64, 0 of the way from .9 down to .5.
    expected = [0.5, 0.9 - 0.4 * 27 / 64, 0.85, 0.9 - 0.4 / 64, 0.9]
    assert [cubic(step, 100, 500, 0.5, 0.9) for step in (100, 200, 300, 400, 500)] == pytest.approx(expected)


def test_cosine_by_hand():
    expected = [0.5, 0.9 - 0.4 * (1 + 0.5**0.5) / 2, 0.7, 0.9 - 0.4 * (1 - 0.5**0.5) / 2, 0.9]
    assert [cosine(step, 100, 500, 0.5, 0.9) for step in (100, 200, 300, 400, 500)] == pytest.approx(expected)


def test_constant_jumps_at_the_start():
    assert [constant(step, 100, 500, 0.5, 0.9) for step in (0, 99, 100, 500)] == [0.5, 0.5, 0.9, 0.9]


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_schedules_rise_and_hold_their_ends_exactly(schedule):
    values = [schedule(step, 10, 77, 0.1, 0.93) for step in range(100)]
    assert values[:10] == [0.1] * 10
    assert values[77:] == [0.93] * 23
    assert all(a <= b for a, b in pairwise(values))


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_schedules_of_no_length_and_out_of_range(schedule):
    assert schedule(5, 5, 5, 0.0, 0.9) == 0.9
    assert schedule(4, 5, 5, 0.0, 0.9) == 0.0
    with pytest.raises(ValueError, match="start 6 and end 5"):
        schedule(0, 6, 5, 0.0, 0.9)
    with pytest.raises(ValueError, match=r"final.*1\.1"):
        schedule(0, 0, 5, 0.0, 1.1)
