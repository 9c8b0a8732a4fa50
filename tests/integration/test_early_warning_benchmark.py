"""The benchmark of the detectors, end to end on a committed slice of the bank (`bank.py --slice tests/data/bank`)."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from grokking_bank.calibration import alarm_threshold, held_out_scores
from grokking_bank.members import Member
from grokking_bank.plan import block
from grokking_bank.store import read_bank

pytest.importorskip("sklearn")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("early_warning", ROOT / "benchmarks" / "early_warning.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look themselves up there
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture(scope="module")
def runs():
    return read_bank(ROOT / "tests" / "data" / "bank")


@pytest.fixture(scope="module")
def courses(benchmark, runs):
    return benchmark.courses_of(runs)


def rows(benchmark, courses, name):
    entry = next(entry for entry in benchmark.entries() if entry.name == name)
    return entry, benchmark.evaluate(entry, benchmark.folds_by([c.group for c in courses], courses))


def test_the_slice_is_of_the_plan_and_has_both_outcomes_of_three_tasks(runs):
    assert [run.outcome for run in runs] == ["grokked", "grokked", "not", "not"] * 3
    for run in runs:
        assert isinstance(run.member, Member)
        assert run.member in block(run.task).members


def test_a_run_counts_from_fitting_to_the_last_evaluation_before_it_generalized(runs, courses):
    for run, course in zip(runs, courses, strict=True):
        assert course.steps[0] == run.times.t_fit
        if run.outcome == "grokked":
            assert course.steps[-1] < run.times.t_gen_sustained
        else:
            assert course.steps[-1] == run.steps[-1]


def test_every_run_is_scored_by_what_saw_no_run_of_its_task(benchmark, courses):
    entry, found = rows(benchmark, courses, "logistic, labeled")
    assert sorted(row["run"] for row in found) == list(range(12))
    assert all(row["fold"] == row["task"] for row in found)
    # The fold's own runs have no part in it: the scores are those of the others alone.
    rest = [course for course in courses if course.group != "add-23"]
    scorer = benchmark.fitted(entry, rest)
    inner = held_out_scores(rest, lambda calibration: benchmark.fitted(entry, calibration))
    threshold = alarm_threshold([s.max() for s, c in zip(inner, rest, strict=True) if not c.grokked], benchmark.RATE)
    for row in found:
        if row["task"] == "add-23":
            course = courses[row["run"]]
            assert row["course"][1].tolist() == pytest.approx(scorer(course).tolist())
            assert row["alarm"] == benchmark.first_alarm(course, scorer(course), threshold)


def test_the_slope_of_the_validation_loss_ranks_and_the_time_after_fitting_does_not(benchmark, courses):
    _, slope = rows(benchmark, courses, "control: slope of the validation loss")
    _, clock = rows(benchmark, courses, "control: time after fitting")
    assert benchmark.auroc(slope, 8)[0] >= 0.8
    assert benchmark.summary(slope)["auroc"][8][0] == benchmark.auroc(slope, 8)[0]
    for row in slope:
        if row["grokked"] and row["alarm"] is not None:
            assert 0 < benchmark.lead(row) < 1
    assert abs(benchmark.auroc(clock, 4)[0] - 0.5) < 0.25


def test_the_shipped_threshold_of_the_slope_separates_the_runs_of_the_slice(benchmark, courses):
    from grokking_bank.calibration import scores_of

    from surgecollapse.forecast.calibrated import calibrated

    detector = calibrated("slope")
    (feature,) = detector.score.features
    column = [benchmark._AT[feature.name]]
    steepest = [(scores_of(detector.score, c.values[:, column]).max(), c.grokked) for c in courses]
    assert max(value for value, grokked in steepest if not grokked) < detector.threshold
    assert min(value for value, grokked in steepest if grokked) > detector.threshold


def test_a_slope_is_written_at_the_rate_that_the_runs_allow_and_the_other_detector_stays(benchmark, courses, tmp_path):
    import json
    import math

    path = tmp_path / "calibrated.json"
    path.write_text(json.dumps({"slope": {}, "give up": {"name": "kept"}}))
    benchmark.write_calibrated(courses, ["slope"], path)
    few = json.loads(path.read_text())
    assert few["give up"] == {"name": "kept"}
    assert few["slope"]["threshold"] == math.inf, "six runs cannot promise 5%"
    benchmark.write_calibrated(courses * 10, ["slope"], path)
    assert 2 < json.loads(path.read_text())["slope"]["threshold"] < 2.5


def test_the_shipped_threshold_separates_the_slice_it_was_set_on(benchmark, courses):
    found = benchmark.shipped_alarm(courses)
    assert found["recall"][:2] == (6, 6)
    assert found["false"][:2] == (0, 6)
    assert 0 < found["lead"][0] <= found["lead"][1] <= found["lead"][2] < 1


def test_the_bound_closes_the_alarm_while_the_loss_is_above_guessing(benchmark, courses):
    """The course of a run that grokked, with its loss put above ln K throughout, and exactly there."""
    from dataclasses import replace

    (course,) = [c for c in courses if c.grokked][:1]
    assert benchmark.shipped_alarm([course])["recall"][:2] == (1, 1)
    for over, found in ((0.01, 0), (0.0, 1)):
        values = course.values.copy()
        values[:, benchmark._AT["loss over chance"]] = over
        high = replace(course, values=values)
        assert benchmark.shipped_alarm([high])["recall"][:2] == (found, 1)
        assert benchmark.shipped_alarm([high], bounded=False)["recall"][:2] == (1, 1)


def test_the_loss_over_chance_is_that_of_the_run_by_the_number_of_classes(benchmark, runs, courses):
    for run, course in zip(runs, courses, strict=True):
        at = run.steps.tolist().index(course.steps[0])
        guessing = np.log({"add-23": 23, "div-23": 23, "s4": 24}[run.task])
        wanted = np.log(run.series["loss/validation"][at] / guessing)
        assert course.values[0, benchmark._AT["loss over chance"]] == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize(("good", "count"), [(0, 6), (3, 10), (6, 6), (80, 100)])
def test_the_ends_of_wilson_are_the_shares_at_which_the_count_is_just_significant(benchmark, good, count):
    """Each inner end p solves |good/count - p| = z sqrt(p (1 - p)/count)."""
    share, z = good / count, 1.959964
    for end in benchmark.wilson(good, count):
        if 0 < end < 1:
            assert abs(share - end) == pytest.approx(z * (end * (1 - end) / count) ** 0.5, rel=1e-9)
        else:
            assert end == share


def score_rows(scores, alarms=None):
    """Rows of two tasks, each with a run that grokked and one that did not, in this order."""
    tasks = ["a", "a", "b", "b"]
    return [
        {
            "run": i,
            "fold": task,
            "task": task,
            "grokked": i % 2 == 0,
            "alarm": None if alarms is None or not alarms[i] else 5,
            "course": (np.array([1.0, 4.0]), np.array([-1.0, score])),
            "t_fit": 2,
            "t_gen": 10,
            "scores": {4: score},
        }
        for i, (task, score) in enumerate(zip(tasks, scores, strict=True))
    ]


def test_differences_to_the_slope_are_paired_over_tasks(benchmark):
    right, half = score_rows([1, 0, 1, 0], [1, 0, 1, 0]), score_rows([1, 0, 0, 1], [1, 0, 0, 0])
    assert benchmark.minus_slope(right, right) == dict.fromkeys(benchmark.WHAT, (0.0, 0.0, 0.0))
    found = benchmark.minus_slope(half, right)
    assert found["auroc"][0] == found["recall"][0] == -0.5
    # Drawn twice, task a says 0 and task b −1, each in a quarter of the draws.
    assert found["auroc"][1:] == found["recall"][1:] == (-1.0, 0.0)
    assert found["recall at 5%"] == (-0.5, -1.0, 0.0)
    assert found["early at 5%"] == (0.0, 0.0, 0.0), "four times t_fit is 8 of 10 steps"


def test_at_five_percent_one_in_twenty_of_a_folds_own_runs_may_exceed_the_threshold(benchmark):
    def run(fold, highest, grokked):
        course = (np.array([1.0, 2.0, 3.0]), np.array([-1.0, highest, highest]))
        return {"fold": fold, "course": course, "grokked": grokked, "t_fit": 50, "t_gen": 200}

    a = [run("a", i / 10, False) for i in range(40)] + [run("a", 3.75, True), run("a", 3.6, True)]
    b = [run("b", 5.0, False), run("b", 5.0, True), run("b", 5.1, True)]
    found = benchmark.leads_at_rate(a + b)
    assert {i: left for i, left in enumerate(found) if left is not None} == {38: 0.0, 39: 0.0, 40: 0.5, 44: 0.5}, (
        "two of forty, none of one; twice t_fit is half of t_gen"
    )
    soon = [run("c", 0.0, False), {**run("c", 1.0, True), "t_gen": 120}]
    assert benchmark.flags_of(soon, "recall at 5%") == [False, True]
    assert benchmark.flags_of(soon, "early at 5%") == [False, False], "a sixth of t_gen is left"


def test_a_detector_is_ahead_if_one_measure_is_above_zero_on_every_split(benchmark):
    none, good, bad = (0.1, -0.1, 0.2), (0.1, 0.01, 0.2), (-0.1, -0.2, -0.01)

    def behind(*measures):
        return dict(zip(benchmark.WHAT, measures, strict=True))

    splits = {
        "one": {"x": behind(good, good, bad, none), "y": behind(good, bad, none, good)},
        "two": {"x": behind(none, good, good, good), "y": behind(bad, good, good, none)},
    }
    assert benchmark.ahead_of_slope(splits) == ["x (recall)"]


def test_the_detector_without_labels_is_chosen_by_the_calibration_side_of_each_fold(benchmark):
    wanted = [
        benchmark.Entry(name, track, ()) for name, track in (("x", "train"), ("y", "unlabeled"), ("z", "labeled"))
    ]
    calibration = {"x": (0.2, 0.5), "y": (0.3, 0.4), "z": (1.0, 1.0)}
    rows = {
        name: [{"fold": f, "calibration": found, "of": name} for f, found in zip("ab", values, strict=True)]
        for name, values in calibration.items()
    }
    assert [(row["fold"], row["of"]) for row in benchmark.choose(rows, wanted)] == [("a", "y"), ("b", "x")]


def test_what_the_first_bank_did_not_record_says_nothing_there(benchmark, courses):
    _, found = rows(benchmark, courses, "commutator defect")
    assert benchmark.auroc(found, 4)[0] == 0.5


def test_the_whole_page_is_written_from_a_bank_of_two_kinds_of_nets(benchmark, monkeypatch, tmp_path):
    """Half of the slice, told to be of deeper nets."""
    from dataclasses import replace

    runs = read_bank(ROOT / "tests" / "data" / "bank")
    mixed = [replace(run, net="deep") if i % 2 else run for i, run in enumerate(runs)]
    monkeypatch.setattr(benchmark, "read_bank", lambda folder: mixed)
    given = ["early_warning.py", "--out", str(tmp_path / "page.md"), "--images", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", given)
    benchmark.main()
    text = (tmp_path / "page.md").read_text()
    assert "| deep | 0 of 3: 0% (0%–56%) | 3 of 3: 100% (44%–100%) |" in text
    assert "## By architecture: an architecture held out" in text
    assert f"| {benchmark.CHOSEN} |" in text
    assert (tmp_path / "early-warning-nets.png").stat().st_size > 10_000
    assert "## An architecture held out" in text
    assert "## Minus the slope of the validation loss" in text
    assert "| commutator defect | 0.50" in text
