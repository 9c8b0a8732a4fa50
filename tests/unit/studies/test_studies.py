"""Studies: their settings, and what a page computes."""

from __future__ import annotations

import json

import pytest

from surgecollapse.studies import registered
from surgecollapse.studies.page import markdown
from surgecollapse.studies.plasticity import chosen
from surgecollapse.studies.session import StudyRun, remaining_seconds


@pytest.mark.parametrize("name", list(registered()))
def test_settings_are_json_and_no_run_is_there_twice(name):
    for quick in (True, False):
        runs = [StudyRun(name, config) for config in registered()[name].runs(quick)]
        assert all(json.loads(json.dumps(run.config)) == run.config for run in runs)
        assert len({run.key for run in runs}) == len(runs)
    # The first runs hold one of each method, so that an unfinished study compares something.
    methods = [config["method"] for config in registered()[name].runs(False)]
    assert set(methods[: len(methods) // 4]) == set(methods)


@pytest.mark.parametrize("name", list(registered()))
def test_a_study_without_rows_says_so(name):
    assert "No run is finished yet." in markdown(registered()[name], [], 12)


def test_time_left_is_that_of_like_runs():
    missing = [StudyRun("x", {"method": method, "seed": 2}) for method in ("a", "c")]
    known = [{"config": {"method": "a", "seed": 0}, "seconds": 4.0}, {"config": {"method": "b"}, "seconds": 10.0}]
    assert remaining_seconds(missing, [], 1) is None
    assert remaining_seconds(missing, known, 2) == (4.0 + 7.0) / 2  # of the same method; else the median of all


def test_time_left_is_that_of_the_same_settings_before_that_of_the_same_names():
    def config(**own):
        return {"method": "a", "net": "gpt", "size": 1, "seed": 0, **own}

    known = [
        {"config": config(), "seconds": 1.0},
        {"config": config(size=2), "seconds": 10.0},
        {"config": config(net="lstm"), "seconds": 100.0},
    ]
    left = [config(seed=1), config(size=3, seed=1), config(net="cnn", seed=1)]
    found = [remaining_seconds([StudyRun("x", one)], known, 1) for one in left]
    assert found == [1.0, 5.5, 10.0]  # the same but for the seed; the same names; the same method


def test_seed_zero_chooses_a_setting_and_the_other_seeds_judge_it():
    def row(seed, options, online):
        return {"config": {"method": "plain", "seed": seed, "options": options}, "online": online}

    slow = {"lr": 1e-3}
    rows = [row(0, {}, 0.5), row(0, slow, 0.6), row(1, {}, 0.9), row(1, slow, 0.4), row(2, slow, 0.5)]
    assert [found["online"] for found in chosen(rows)["plain"]] == [0.4, 0.5]
    assert chosen(rows[1:]) == {}  # seed 0 has but one of the two settings
    assert chosen(rows[:2]) == {}  # nothing is left to judge by
