"""What a run achieved, in sentences."""

from __future__ import annotations

import math

import pytest

from surgecollapse.record.outcome import (
    difference,
    difference_words,
    grokking_words,
    student_975,
    what_happened,
    why_it_stopped,
    worth_words,
)


@pytest.mark.parametrize("freedom", [1, 2, 5, 30, 31, 60, 1000])
def test_the_quantile_of_students_t_is_that_of_scipy(freedom):
    stats = pytest.importorskip("scipy.stats")
    # The table has three digits; the expansion beyond it leaves out terms of order 1/ν², under 0.01 at ν = 31.
    allowed = 5e-4 if freedom <= 30 else 10 / freedom**2
    assert student_975(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), abs=allowed)


def test_one_pair_has_the_interval_of_its_test_samples():
    found = difference([0.9], [0.8], 400)
    assert found.half == pytest.approx(1.959964 * math.sqrt((0.9 * 0.1 + 0.8 * 0.2) / 400))
    assert (found.pairs, found.source, found.is_noise) == (1, "samples", False)


def test_one_pair_without_a_number_of_samples_claims_nothing():
    found = difference([0.9], [0.1])
    assert (found.half, found.is_noise) == (None, True)
    assert difference_words(found, "x").endswith("one seed gives no interval.")


@pytest.mark.parametrize(("ours", "theirs"), [([], []), ([0.1], [0.1, 0.2])])
def test_pairs_must_be_pairs(ours, theirs):
    with pytest.raises(ValueError, match="as many values"):
        difference(ours, theirs)


@pytest.mark.parametrize(
    ("times", "words"),
    [
        ({"outcome": "grokked", "t_fit": 100, "t_gen": 900}, "it grokked, 800 steps later"),
        ({"outcome": "at once", "t_fit": 100, "t_gen": 100}, "at once, without grokking"),
        ({"outcome": "not", "t_fit": 100, "t_gen": 900}, "not for three evaluations in a row"),
        ({"outcome": "not", "t_fit": 100, "t_gen": None}, "has not generalized"),
        ({"outcome": "not", "t_fit": None, "t_gen": None}, "neither fitted the training set nor generalized"),
        ({"outcome": "at once", "t_fit": None, "t_gen": 50}, "It never fitted the training set and generalized"),
    ],
)
def test_grokking_runs_say_when_they_fitted_and_generalized(times, words):
    (said,) = grokking_words({"task": "modular", "grokking": times})
    assert words in said


def test_grokking_is_no_topic_of_other_tasks():
    assert grokking_words({"task": "digits", "grokking": {"outcome": "at once", "t_fit": 1, "t_gen": 1}}) == []


@pytest.mark.parametrize("name", ["diverged", "stopped_by_hand", "reached_goal", "given_up", "stopped_early"])
def test_each_reason_to_stop_has_its_words(name):
    others = {why_it_stopped({other: True}) for other in ("diverged", "reached_goal") if other != name}
    said = why_it_stopped({name: True})
    assert said
    assert said not in others
    assert said in what_happened({name: True, "steps": 5})


def test_a_dense_net_of_the_same_size_is_said_to_be_so():
    assert worth_words({"bytes_sparse": 100, "seconds": 1}, {"bytes_sparse": 101, "seconds": 1}) == (
        "The net is about the same size and took 1.0 times as long to train."
    )
    assert worth_words({}, {}) == ""
