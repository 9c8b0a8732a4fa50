"""Runs that stop when they are over, or when they are forecast to come to nothing; alarms in the record."""

from __future__ import annotations

import math
import os
import signal

import pytest

from surgecollapse.forecast.combination import Combination, Score
from surgecollapse.forecast.features import TIME, Feature
from surgecollapse.lab.config import ConfigError, make_config
from surgecollapse.lab.training import forecasts
from surgecollapse.lab.training.progress import Silent
from surgecollapse.lab.training.run import train
from surgecollapse.record import RunStore

CLOCK = Score(features=(TIME,), center=(0.0,), scale=(1.0,), weight=(-1.0,))


def settings(**changes):
    values = {
        "task": "modular", "model": "mlp", "widths": (32,), "modulus": 7, "policy": "none", "label_noise": 1.0,
        "lr": 0.03, "batch_size": 0, "steps": 400, "every": 5, "evaluate_every": 5, "checkpoint_every": 25,
        "monitor_budget": 1.0, "monitors": "norms,predictions", "forecast": "slope",
    }  # fmt: skip
    return make_config(**{**values, **changes})


@pytest.fixture
def at_twice_fitting(monkeypatch):
    """Detectors whose alarms are known by hand: never that it groks; at 2·t_fit that it will not."""

    def made(name, classes):
        if name == "slope":
            return Combination("never", CLOCK, math.inf)
        return Combination("late", CLOCK, -math.log(2), below=True)

    monkeypatch.setattr(forecasts, "calibrated", made)


class StopAt(Silent):
    """Interrupts the run when it has passed a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def update(self, snapshot) -> None:
        if snapshot.step == self.step:
            os.kill(os.getpid(), signal.SIGINT)


def alarms(folder):
    with RunStore(folder / "run.db") as store:
        return store.alarms()


def test_a_run_is_given_up_at_the_alarm_and_the_record_says_why(at_twice_fitting, tmp_path):
    result = train(settings(give_up=True), tmp_path / "run")
    fitted = result.summary["grokking"]["t_fit"]
    (alarm,) = alarms(tmp_path / "run")
    assert result.summary["given_up"]
    assert result.status == "complete"
    assert result.step == alarm.step == next(step for step in range(5, 400, 5) if step >= 2 * fitted)
    assert alarm.forecast == "does not generalize"
    assert "threshold" in alarm.reason


def test_without_give_up_the_alarm_changes_nothing(at_twice_fitting, tmp_path):
    with_forecast = train(settings(steps=100), tmp_path / "a")
    without = train(settings(steps=100, forecast="none"), tmp_path / "b")
    assert len(alarms(tmp_path / "a")) == 1
    assert with_forecast.step == without.step == 100
    assert with_forecast.summary["loss"] == without.summary["loss"], "watching changes no weight"


def test_a_resumed_run_alarms_as_the_uninterrupted_one(at_twice_fitting, tmp_path):
    train(settings(steps=100), tmp_path / "whole")
    (expected,) = alarms(tmp_path / "whole")
    train(settings(steps=100), tmp_path / "cut", progress=StopAt(expected.step - 5))
    assert alarms(tmp_path / "cut") == []
    train(None, tmp_path / "cut", resume=True)
    assert alarms(tmp_path / "cut") == [expected]


def test_until_grokked_stops_at_the_third_evaluation_on_end(tmp_path):
    config = make_config(
        task="parity", policy="none", noise_bits=2, widths=(64,), lr=1e-2, steps=2_000, evaluate_every=10,
        until="grokked", monitors="none",
    )  # fmt: skip
    facts = train(config, tmp_path / "run").summary
    assert facts["steps"] == facts["grokking"]["t_gen_sustained"] + 20 < 2_000


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"give_up": True, "forecast": "none"}, "give_up = true needs a forecast"),
        ({"until": "grokked", "stop_at_accuracy": 0.9}, "two goals"),
        ({"forecast": "slop"}, "Did you mean 'slope'"),
        ({"forecast": "labeled"}, "the slope of the validation loss beats it"),
    ],
)
def test_what_makes_no_sense_is_refused(changes, words):
    with pytest.raises(ConfigError) as caught:
        settings(**changes)
    assert words in str(caught.value)


def test_the_shipped_detectors_hear_what_a_run_measures(tmp_path):
    """Every series of theirs that a run can have is there, under its name."""
    from surgecollapse.forecast.calibrated import SHIPPED, calibrated

    train(settings(steps=60, monitors="default"), tmp_path / "run")
    with RunStore(tmp_path / "run" / "run.db") as store:
        measured = {name for name, _ in store.names()}
    wanted = {feature.series for name in SHIPPED for feature in calibrated(name).score.features} - {"time"}
    assert wanted <= measured


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0, 3.0, 4.0])
def test_the_slope_alarms_where_the_loss_falls_as_a_steep_enough_power_of_the_step(exponent):
    """A loss of step^−a has the slope −a, whatever its level: the alarm is a comparison of a with the threshold."""
    from surgecollapse.events import Measurement
    from surgecollapse.forecast.calibrated import calibrated

    detector, alarms = calibrated("slope"), []
    for step in range(10, 400, 10):
        loss = 7.0 if step <= 100 else 7.0 * (step / 100) ** -exponent
        alarms += [detector.update(Measurement(step=step, name="loss/validation", value=loss))]
        alarms += [detector.update(Measurement(step=step, name="accuracy/train", value=1.0))]
    found = [alarm for alarm in alarms if alarm]
    assert [alarm.forecast for alarm in found] == ["generalizes"] * (exponent > detector.threshold)
    assert all(100 < alarm.step <= 160 for alarm in found), "the slope reaches back to two thirds of the step"


@pytest.mark.parametrize("lowest", [10.0, 3.0, 2.9, 0.5])
def test_the_slope_says_nothing_while_the_loss_is_above_that_of_guessing(lowest):
    """ln 19 = 2.944: a fall by half within a third of the steps, to either side of it."""
    from surgecollapse.events import Measurement
    from surgecollapse.forecast.calibrated import calibrated

    def alarms(detector):
        found = []
        for step in range(10, 400, 10):
            loss = 4.0 * lowest if step <= 200 else max(lowest, 4.0 * lowest * (step / 200) ** -4)
            found += [detector.update(Measurement(step=step, name="loss/validation", value=loss))]
            found += [detector.update(Measurement(step=step, name="accuracy/train", value=1.0))]
        return [alarm for alarm in found if alarm]

    assert len(alarms(calibrated("slope"))) == 1
    assert len(alarms(calibrated("slope", 19))) == (lowest < math.log(19))
    assert len(alarms(calibrated("slope", 1))) == 1, "of one class there is nothing to guess"


def test_a_runs_forecast_knows_its_classes_where_the_loss_is_a_cross_entropy(tmp_path):
    from surgecollapse.lab.training.optim import guessed_classes
    from surgecollapse.lab.training.trainer import Training

    for loss, wanted in (("cross_entropy", 7), ("stablemax", 7), ("cross_entropy_float64", 7), ("mse", None)):
        trainer = Training(settings(loss=loss), tmp_path, Silent())
        assert guessed_classes(trainer.config, trainer.data) == wanted
        bound = trainer.event_sink.forecast._detectors["slope"].at_most
        assert bound == (None if wanted is None else (Feature("loss/validation", "value"), math.log(math.log(7))))


def test_runs_of_version_1_open_whichever_detector_they_had():
    from surgecollapse.lab.config.stored import current

    for name in ("train", "unlabeled", "labeled", "label" + "led"):
        assert current({"task": "digits", "hold": 3, "forecast": name})["forecast"] == "slope"
