"""Rules: how a condition is read."""

from __future__ import annotations

import pytest

from surgecollapse.controller.rules import Rule


@pytest.mark.parametrize(
    ("when", "series", "readings", "true", "false"),
    [
        ("loss is nan for 3 readings", "loss/train", 3, float("nan"), float("inf")),
        ("loss is not  finite", "loss/train", 1, float("-inf"), 0.0),
        ("accuracy >= 0.5 for 1 reading", "accuracy/validation", 1, 0.5, 0.4999),
        ("entropy < 1e-3 for 20", "entropy", 20, 0.0, 0.001),
        ("layer-norm/first.weight > -2", "layer-norm/first.weight", 1, -1.0, float("nan")),
        ("prediction_confidence<=0.5", "prediction_confidence", 1, 0.5, 0.6),
    ],
)
def test_a_condition_is_read(when, series, readings, true, false):
    rule = Rule(when, "stop")
    assert (rule.series, rule.readings, rule.holds(true), rule.holds(false)) == (series, readings, True, False)
