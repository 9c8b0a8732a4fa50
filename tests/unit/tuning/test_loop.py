from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time

import optuna
import pytest
import torch
from optuna.trial import TrialState

from surgecollapse import Readings, attach, tune
from surgecollapse.events import Measurement, Reading
from surgecollapse.tuning.loop import TrialPruning
from surgecollapse.tuning.storage import LOST, REASON, RETRY, open_storage


@pytest.fixture(autouse=True)
def _quiet():
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    yield
    optuna.logging.set_verbosity(before)


def bowl(trial):
    return -((trial.params["x"] - 2.0) ** 2)


@pytest.mark.parametrize("sampler", ["tpe", "gp", "cmaes", "random"])
def test_sampler_finds_the_bottom_of_a_bowl(sampler):
    space = {"x": "-5.0..5.0", "y": "-5.0..5.0"}
    study = tune(bowl, space, trials=15, sampler=sampler, seed=1)
    assert len(study.trials) == 15
    # The nearest of n uniform draws is farther than d with probability (1 − 2d/10)ⁿ: 1e-6 for d = 3, n = 15.
    assert abs(study.best_params["x"] - 2.0) < 3.0


def test_grid_tries_every_combination_once():
    study = tune(bowl, {"x": "0..4", "kind": "a,b"}, sampler="grid")
    tried = sorted((trial.params["x"], trial.params["kind"]) for trial in study.trials)
    assert tried == [(x, kind) for x in range(5) for kind in ("a", "b")]
    assert study.best_params["x"] == 2


def test_several_objectives_have_a_front():
    study = tune(
        lambda trial: (trial.params["x"], trial.params["x"] ** 2),
        {"x": "-2..2"},
        sampler="grid",
        direction=["max", "min"],
    )
    assert sorted(trial.params["x"] for trial in study.best_trials) == [0, 1, 2]


def test_start_is_tried_first():
    study = tune(bowl, {"x": "0.0..4.0"}, trials=2, start=[{"x": 2.0}])
    assert study.trials[0].params == {"x": 2.0}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_value_that_is_not_finite_is_pruned_with_its_reason(value):
    study = tune(lambda trial: value if trial.number == 1 else 1.0, {"x": "0.0..1.0"}, trials=4)
    states = [trial.state for trial in study.trials]
    assert states == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.COMPLETE, TrialState.COMPLETE]
    assert f"the objective is {value}" in study.trials[1].user_attrs[REASON]


@pytest.mark.parametrize(
    "error", [ValueError("bad\nsettings"), MemoryError(), torch.OutOfMemoryError("no memory"), OSError("disk")]
)
def test_error_of_one_trial_is_recorded_and_the_study_goes_on(error):
    def objective(trial):
        if trial.number == 1:
            raise error
        return 1.0

    study = tune(objective, {"x": "0.0..1.0"}, trials=3)
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE, TrialState.FAIL, TrialState.COMPLETE]
    assert study.trials[1].user_attrs[REASON] == " ".join(str(error).split()) or type(error).__name__


def test_mistake_in_the_objective_ends_tuning_and_the_study_survives(tmp_path):
    def objective(trial):
        return trial.no_such_thing if trial.number == 2 else 1.0

    with pytest.raises(AttributeError, match="no_such_thing"):
        tune(objective, {"x": "0.0..1.0"}, trials=5, storage=tmp_path / "study.journal")
    study = tune(bowl, {"x": "0.0..1.0"}, trials=5, storage=tmp_path / "study.journal")
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]


@pytest.mark.parametrize("values", ["0.5x", None, (1.0, 2.0)])
def test_wrong_number_of_values_is_a_mistake(values):
    with pytest.raises(TypeError, match="expected a number"):
        tune(lambda trial: values, {"x": "0.0..1.0"}, trials=1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"sampler": "tpee"}, "unknown sampler 'tpee'.*Did you mean 'tpe'"),
        ({"sampler": "cmaes"}, "needs two numeric settings"),
        ({"sampler": "cmaes", "direction": ["max", "min"]}, "takes one objective"),
        ({"pruner": "medain"}, "Did you mean 'median'"),
        ({"pruner": "median", "direction": ["max", "min"]}, "takes one objective, got 2"),
        ({"pruner": "wilcoxon"}, "needs 5 seeds"),
        ({"direction": "up"}, "unknown direction 'up'"),
        ({"direction": []}, "direction is empty"),
        ({"trials": 0}, "trials must be at least 1, got 0"),
        ({"minutes": 0}, "minutes must be above 0"),
        ({"start": [{"y": 1.0}]}, "unknown searched setting 'y'"),
        ({"start": [{"x": 9.0}]}, r"x = 9\.0 is outside"),
    ],
)
def test_bad_option_is_one_line(options, said):
    with pytest.raises(ValueError, match=said) as caught:
        tune(bowl, {"x": "0.0..1.0"}, **{"trials": 1, **options})
    assert "\n" not in str(caught.value)


def test_a_grid_too_large_says_what_to_do():
    with pytest.raises(ValueError, match="more than 10,000: set wider steps"):
        tune(bowl, {"x": "0.0..1.0:step=0.001", "y": "0..99:step=1", "z": "0.0..1.0:step=0.001"}, sampler="grid")


def test_study_goes_on_with_other_draws_and_other_directions_are_refused(tmp_path):
    place, space = tmp_path / "study.journal", {"x": "0.0..1.0"}
    tune(bowl, space, trials=3, storage=place, sampler="random")
    study = tune(bowl, space, trials=6, storage=place, sampler="random")
    assert len({trial.params["x"] for trial in study.trials}) == 6
    assert len(tune(bowl, space, trials=6, storage=place).trials) == 6
    with pytest.raises(ValueError, match="choose another name or storage"):
        tune(bowl, space, trials=6, storage=place, direction="minimize")


def test_file_that_is_no_journal_is_named(tmp_path):
    (tmp_path / "study.journal").write_text("hello\nthere\n")
    with pytest.raises(ValueError, match="is not a journal of a study"):
        tune(bowl, {"x": "0.0..1.0"}, trials=1, storage=tmp_path / "study.journal")


def test_line_that_was_cut_off_is_no_loss(tmp_path):
    place, space = tmp_path / "study.journal", {"x": "0.0..1.0"}
    tune(bowl, space, trials=3, storage=place)
    with place.open("ab") as file:
        file.write(b'{"op_code":4,"worker_id":"x')
    study = tune(bowl, space, trials=5, storage=place)
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 5


PROGRAM = """
import sys, time
from pathlib import Path
from surgecollapse import tune

def objective(trial):
    with Path(sys.argv[2]).open("a") as file:
        file.write(f"{trial.number}\\n")
    time.sleep(0.05)
    return trial.params["x"]

tune(objective, {"x": "0.0..1.0", "y": "a,b"}, trials=10_000, storage=sys.argv[1], sampler="random")
"""


def test_killed_study_goes_on_with_nothing_lost_and_nothing_twice(tmp_path):
    place, log = tmp_path / "study.journal", tmp_path / "log"
    for _ in range(2):
        process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(place), str(log)])
        wanted = (len(log.read_text().splitlines()) if log.exists() else 0) + 4
        while not log.exists() or len(log.read_text().splitlines()) < wanted:
            assert process.poll() is None
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    begun = len(log.read_text().splitlines())
    study = tune(
        lambda trial: trial.params["x"],
        {"x": "0.0..1.0", "y": "a,b"},
        trials=begun + 5,
        storage=place,
        sampler="random",
    )
    lost = [trial for trial in study.trials if trial.user_attrs.get(REASON) == LOST]
    kept = [trial for trial in study.trials if trial not in lost]
    assert all(trial.state is TrialState.COMPLETE for trial in kept)
    assert len(kept) == begun + 5
    assert 1 <= len(lost) <= 2  # a kill between two trials loses none
    for trial in lost:
        (again,) = [other for other in study.trials if other.user_attrs.get(RETRY) == trial.number]
        assert trial.params.items() <= again.params.items()
    assert len({trial.params["x"] for trial in kept}) == len(kept)


def test_a_lost_trial_is_enqueued_once_however_often_the_cleaning_is_cut_off(tmp_path):
    place, space = tmp_path / "study.journal", {"x": "0.0..1.0"}
    study = optuna.create_study(storage=open_storage(place), study_name="tuning", direction="maximize")
    trial = study.ask({"x": optuna.distributions.FloatDistribution(0, 1)})
    trial.set_user_attr("process", {"time": 0.0, "pid": 2**22 + 1, "place": _this_place()})
    study.enqueue_trial(trial.params, user_attrs={RETRY: 0})  # and then it was killed, before the failure was written
    found = tune(bowl, space, trials=2, storage=place)
    assert [t.user_attrs.get(RETRY) for t in found.trials].count(0) == 1
    assert found.trials[0].state is TrialState.FAIL


def _this_place():
    from surgecollapse.record.heartbeat import beat

    return beat()["place"]


def test_trial_of_a_process_that_lives_is_left_alone(tmp_path):
    place, space = tmp_path / "study.journal", {"x": "0.0..1.0"}
    study = optuna.create_study(storage=open_storage(place), study_name="tuning", direction="maximize")
    study.ask().set_user_attr("process", {"time": time.time(), "pid": os.getppid(), "place": _this_place()})
    found = tune(bowl, space, trials=2, storage=place)
    assert found.trials[0].state is TrialState.RUNNING


def test_pruning_reports_readings_of_a_controller_and_stops_a_bad_trial():
    def objective(trial):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        x, y = torch.randn(32, 8), torch.arange(32) % 2
        pruning = TrialPruning(trial, "loss")
        options = {"policy": "gmp", "readings": Readings(every=5), "recorders": [pruning]}
        with attach(model, optimizer, 0.5, 60, **options) as controller:
            for _ in range(60):
                optimizer.zero_grad()
                loss = torch.nn.functional.cross_entropy(model(x), y) + trial.params["offset"]
                controller.note(loss=loss)
                loss.backward()
                optimizer.step()
            controller.finalize()
        return loss.item()

    pruner = optuna.pruners.MedianPruner(n_startup_trials=2, n_warmup_steps=0)
    study = tune(objective, {"offset": [0.0, 0.1, 5.0]}, direction="minimize", pruner=pruner, trials=3,
                 start=[{"offset": 0.0}, {"offset": 0.1}, {"offset": 5.0}])  # fmt: skip
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE, TrialState.COMPLETE, TrialState.PRUNED]
    assert len(study.trials[0].intermediate_values) > len(study.trials[2].intermediate_values) >= 1
    assert study.trials[2].user_attrs[REASON].startswith("stopped by the pruner after step 5 at")


def test_pruning_reports_a_measurement_by_its_name_only():
    trial = optuna.create_study().ask()
    pruning = TrialPruning(trial, "accuracy/validation")
    pruning.record(Measurement(step=1, name="accuracy/validation", value=0.5))
    pruning.record(Measurement(step=2, name="accuracy/train", value=0.9))
    pruning.record(Measurement(step=3, name="accuracy/validation", value=math.nan))
    pruning.record(Reading(step=4, loss=1.0))
    assert trial.study.trials[0].intermediate_values == {1: 0.5}


def test_missing_optuna_names_the_extra():
    code = """
import sys
sys.modules["optuna"] = None
try:
    from surgecollapse import tune
except ModuleNotFoundError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'surgecollapse[tune]'" in done.stdout


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_the_cost_of_a_trial_grows_no_faster_than_the_trials_there_are(tmp_path, sampler):
    at = []

    def objective(trial):
        at.append(time.process_time())
        return trial.params["x"]

    space = {"x": "0.0..1.0", "y": "1e-4..1e-2:log"}
    tune(objective, space, trials=400, storage=tmp_path / "study.journal", sampler=sampler)
    first, last = at[99] - at[49], at[399] - at[349]
    # The work of a trial may grow with the trials there are: 375 at the end over 75 here, 5 times. If it grew with
    # their square, as where every trial read all of the journal for each other, it would be 25 times. The root between.
    assert last / first < math.sqrt(5 * 25)
