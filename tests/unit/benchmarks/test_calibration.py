"""Detectors with learned weights: they never look ahead, they resume, and their thresholds keep their promise."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from grokking_bank.calibration import (
    Course,
    alarm_threshold,
    course_of,
    first_alarm,
    held_out_scores,
    scores_of,
)
from grokking_bank.learning import learn
from grokking_bank.tracks import TRACKS, features_of
from hypothesis import given, settings
from hypothesis import strategies as st

from surgecollapse.events import Alarm, Measurement, from_dict, to_dict
from surgecollapse.forecast.combination import Combination, Score, from_plain, to_plain
from surgecollapse.forecast.features import TIME, Feature, Features

FEATURES = (
    TIME,
    Feature("norm/weight"),
    Feature("entropy/spectral", "slope"),
    Feature("alignment/naive_loss", "value"),
)
SCORE = Score(
    features=FEATURES, center=(0.0,) * 4, scale=(1.0, 0.1, 0.5, 1.0), weight=(0.2, -1.0, 1.0, 0.5), intercept=-1.0
)


def detector(threshold=0.5):
    return Combination("test", SCORE, threshold)


values = st.floats(allow_nan=True, allow_infinity=True, width=32)
series = st.sampled_from(["norm/weight", "entropy/spectral", "alignment/naive_loss", "accuracy/train", "other"])


@st.composite
def runs(draw):
    """Measurements of ascending steps, some by layer, some not finite."""
    steps = sorted(draw(st.lists(st.integers(1, 500), min_size=1, max_size=40)))
    return [
        Measurement(
            step=step, name=draw(series), value=draw(values), layer=draw(st.sampled_from([None, None, "a", "b"]))
        )
        for step in steps
    ]


@settings(max_examples=60)
@given(runs(), st.integers(0, 40), runs())
def test_what_comes_later_changes_no_alarm(run, cut, future):
    """The alarms up to a step are the same whatever follows."""
    one, other = detector(), detector()
    first = [one.update(measurement) for measurement in run[:cut]]
    second = [other.update(measurement) for measurement in run[:cut]]
    for measurement in future:
        other.update(measurement)
    assert first == second


@settings(max_examples=60)
@given(runs(), st.integers(0, 40))
def test_resumed_in_the_middle_of_a_run_it_says_the_same(run, cut):
    whole, first, second = detector(), detector(), detector()
    wanted = [whole.update(measurement) for measurement in run]
    found = [first.update(measurement) for measurement in run[:cut]]
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert found + [second.update(measurement) for measurement in run[cut:]] == wanted


@settings(max_examples=60)
@given(runs())
def test_alarms_once_and_never_before_the_net_fitted(run):
    watch = detector()
    alarms = [alarm for alarm in map(watch.update, run) if alarm]
    fits = [m.step for m in run if m.name == "accuracy/train" and m.layer is None and m.value >= 0.99]
    assert len(alarms) <= 1
    assert all(fits and alarm.step >= fits[0] for alarm in alarms)


def play(features, rows):
    tracker = Features(features)
    found = []
    for step, numbers in rows:
        for name, value in numbers.items():
            found.append(tracker.update(Measurement(step=step, name=name, value=value)))
    return [f for f in found if f is not None]


def test_features_by_hand():
    rows = [
        (10, {"norm/weight": 1.0, "entropy/spectral": 0.9, "accuracy/train": 0.5}),
        (20, {"norm/weight": 8.0, "entropy/spectral": 0.5, "accuracy/train": 1.0}),
        (40, {"norm/weight": 4.0, "entropy/spectral": 0.7, "accuracy/train": 0.9}),
    ]
    wanted = (Feature("norm/weight"), Feature("norm/weight", "slope"), Feature("entropy/spectral", "slope"), TIME)
    first, second = play(wanted, rows)
    assert first == pytest.approx([0.0, 3.0, -0.4 / math.log(2), 0.0])
    assert second == pytest.approx([-math.log(2), -1.0, 0.2 / math.log(2), math.log(2)])


def test_layers_are_averaged_and_the_whole_net_comes_first():
    tracker = Features((Feature("entropy/spectral", "value"),))
    for layer, value in (("a", 0.2), ("b", 0.6)):
        tracker.update(Measurement(step=1, name="entropy/spectral", value=value, layer=layer))
    assert tracker.update(Measurement(step=1, name="accuracy/train", value=1.0)) == pytest.approx([0.4])
    tracker.update(Measurement(step=2, name="entropy/spectral", value=0.9))
    assert tracker.update(Measurement(step=2, name="accuracy/train", value=1.0)) == [0.9]


def test_a_track_sees_only_what_it_may():
    seen = {track: {feature.series for feature in features_of(track)} for track in TRACKS}
    assert not any("validation" in name for name in seen["train"])
    assert not {"loss/validation", "accuracy/validation", "gap/loss"} & seen["unlabeled"]
    assert seen["train"] < seen["unlabeled"] < seen["labeled"]


def test_a_written_detector_is_the_same_one():
    assert to_plain(from_plain(json.loads(json.dumps(to_plain(detector()))))) == to_plain(detector())
    with pytest.raises(ValueError, match="threshold"):
        from_plain({"name": "x"})


def test_there_is_no_alarm_while_a_feature_is_above_its_bound_or_not_known():
    level, path = Feature("norm/weight", "value"), Feature("alignment/naive_loss", "value")
    score = Score(features=(path,), center=(0.0,), scale=(1.0,), weight=(1.0,))
    bounded = Combination("bounded", score, 0.5, at_most=(level, math.log(2)))
    assert to_plain(from_plain(json.loads(json.dumps(to_plain(bounded))))) == to_plain(bounded)
    for detector in (bounded, from_plain(to_plain(bounded))):
        found = []
        for step, norm in enumerate((math.nan, 2.1, 1.9, 1.0), start=1):
            for name, value in (("norm/weight", norm), ("alignment/naive_loss", 0.7), ("accuracy/train", 1.0)):
                found.append(detector.update(Measurement(step=step, name=name, value=value)))
        assert [alarm.step for alarm in found if alarm] == [3]
    assert "at_most" not in to_plain(detector_without := Combination("free", score, 0.5))
    assert detector_without.at_most is None


def test_scores_at_once_are_those_one_by_one():
    x = np.random.default_rng(0).normal(size=(50, 4)) * 10
    x[::7, 1] = np.nan
    assert scores_of(SCORE, x) == pytest.approx([SCORE.of(row) for row in x])


def course(values, grokked, group="a", t_gen=None):
    steps = np.arange(10, 10 + 10 * len(values), 10)
    return Course(
        steps=steps, values=np.array(values)[:, None], grokked=grokked, group=group, t_fit=10, t_gen=t_gen, total=999
    )


def synthetic(seed, count=120):
    """Runs whose one feature drifts upwards if they are to grok; in three groups."""
    draw = np.random.default_rng(seed)
    return [
        course(np.cumsum(draw.normal(0.1 * (i % 2), 0.3, 40)), bool(i % 2), group="abc"[i % 3]) for i in range(count)
    ]


def test_threshold_keeps_the_rate_of_false_alarms_on_new_runs():
    """Over many calibrations, the mean rate on fresh runs is at most 5% and not far below (conformal bound)."""
    draw = np.random.default_rng(1)
    rates = [(draw.normal(size=2000) >= alarm_threshold(draw.normal(size=59))).mean() for _ in range(300)]
    assert 0.03 < np.mean(rates) < 0.055


def test_learned_weights_tell_the_classes_apart_on_runs_that_they_have_not_seen():
    feature = (Feature("norm/weight"),)
    score = learn(synthetic(0), feature)
    last = {
        grokked: [scores_of(score, c.values)[-1] for c in synthetic(1) if c.grokked == grokked] for grokked in (0, 1)
    }
    assert np.mean([a > b for a in last[1] for b in last[0]]) > 0.9
    with pytest.raises(ValueError, match="one class"):
        learn([c for c in synthetic(0) if c.grokked], feature)


def test_held_out_scores_never_come_from_weights_that_saw_the_group():
    given, seen = synthetic(0, 12), []

    def fit(rest):
        seen.append({c.group for c in rest})
        return lambda c: np.array([float(c.group not in seen[-1])])

    assert all(scores == 1.0 for scores in held_out_scores(given, fit))


def test_first_alarm_and_its_least_time():
    c = course([0.0, 2.0, 1.0, 3.0], True)
    assert first_alarm(c, c.values[:, 0], 1.5) == 20
    assert first_alarm(c, c.values[:, 0], 1.5, after=2.5) == 40
    assert first_alarm(c, c.values[:, 0], 1.5, below=True) == 10
    assert first_alarm(c, c.values[:, 0], 9) is None


def test_the_alarm_of_a_course_is_the_alarm_of_the_detector_online():
    draw = np.random.default_rng(3)
    steps = list(range(10, 400, 10))
    numbers = {f.series: draw.normal(size=len(steps)) for f in FEATURES if f.series != "time"}
    numbers["norm/weight"] = np.exp(numbers["norm/weight"])
    numbers["accuracy/train"] = np.linspace(0.5, 1.5, len(steps))
    played = course_of(steps, numbers, FEATURES, t_gen=None, grokked=True, group="")
    watch = detector()
    online = [
        watch.update(Measurement(step=step, name=name, value=float(numbers[name][i])))
        for i, step in enumerate(steps)
        for name in sorted(numbers, key=lambda n: n == "accuracy/train")
    ]
    assert first_alarm(played, scores_of(SCORE, played.values), 0.5) == next(a.step for a in online if a)


def test_an_alarm_is_an_event_like_others():
    alarm = Alarm(step=7, detector="x", reason="y", forecast="does not generalize")
    assert from_dict(json.loads(json.dumps(to_dict(alarm)))) == alarm
