"""Detectors: when they alarm, that they never look ahead, and that they resume."""

from __future__ import annotations

import json

import pytest

from surgecollapse.events import Measurement
from surgecollapse.forecast.detectors import Change


def run(values, fit):
    for step, value in enumerate(values):
        yield Measurement(step=step, name="norm/weight", value=value)
        yield Measurement(step=step, name="accuracy/train", value=1.0 if step >= fit else 0.5)


def alarms(detector, measurements):
    return [alarm.step for alarm in map(detector.update, measurements) if alarm]


def test_fall_counts_from_the_value_at_fitting_and_alarms_once():
    assert alarms(Change("norm/weight", -0.2), run([20, 10, 10, 8.1, 8.0, 5, 2], fit=2)) == [4]


def test_rise_and_values_before_fitting():
    assert alarms(Change("norm/weight", 0.5), run([1, 9, 4, 5.9, 6.0], fit=2)) == [4]
    assert alarms(Change("norm/weight", 0.5), run([1, 9, 99], fit=9)) == []


@pytest.mark.parametrize("cut", range(1, 13))
def test_no_alarm_depends_on_what_comes_after_it(cut):
    whole = list(run([20, 10, 10, 8.1, 8.0, 5, 2], fit=2))
    future = [Measurement(step=99, name="norm/weight", value=1e9)]
    seen = [step for step in alarms(Change("norm/weight", -0.2), whole[:cut] + future) if step < 99]
    assert seen == [step for step in [4] if step <= whole[cut - 1].step]


@pytest.mark.parametrize("cut", range(13))
def test_resumed_at_any_measurement_it_alarms_at_the_same_step(cut):
    whole = list(run([20, 10, 10, 8.1, 8.0, 5, 2], fit=2))
    first, second = Change("norm/weight", -0.2), Change("norm/weight", -0.2)
    before = alarms(first, whole[:cut])
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert before + alarms(second, whole[cut:]) == [4]


def test_a_share_of_zero_is_refused():
    with pytest.raises(ValueError, match="not zero"):
        Change("norm/weight", 0.0)
