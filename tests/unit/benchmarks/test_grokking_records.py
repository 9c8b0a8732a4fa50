"""The page of grokking records: intervals and p in closed form, order, failures, and rows that are joined."""

from __future__ import annotations

import itertools
import math
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FAILED = math.inf


@pytest.fixture
def records(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import grokking_records

    yield grokking_records
    for name in ("grokking_records", "grokking_tracks", "grokking_tracks.page", "grokking_tracks.runs"):
        sys.modules.pop(name, None)


@pytest.fixture
def page(records):
    return sys.modules["grokking_tracks.page"]


def rows(track, method, reached):
    config = {"steps": 300, "lr": 0.1, "seed": 0}
    return [
        {
            "track": track,
            "method": method,
            "seed": i,
            "reached": value,
            "seconds": 2.0 + i,
            "config": {**config, "seed": i},
        }
        for i, value in enumerate(reached)
    ]


@pytest.mark.parametrize("n", [6, 10, 17, 40])
def test_the_interval_of_the_median_holds_what_the_binomial_says(page, n):
    low, high = page.median_interval(range(1, n + 1))
    assert low + high == n + 1
    # P(X_(low) ≤ median ≤ X_(high)): between low and high−1 of n values lie below the median.
    inside = sum(math.comb(n, k) for k in range(low, high)) / 2**n
    wider = sum(math.comb(n, k) for k in range(low + 1, high - 1)) / 2**n
    assert inside >= 0.95 > wider


def test_five_seeds_are_too_few_for_an_interval(page):
    assert page.median_interval([1, 2, 3, 4, 5]) is None


def test_p_is_the_share_of_orders_that_are_as_extreme(page):
    ours, theirs = [1.0, 2.0, 4.0], [3.0, 5.0, 6.0, 7.0]
    everything = ours + theirs
    pairs = sum(a < b for a in ours for b in theirs)
    orders = [
        sum(a < b for a in some for b in [x for x in everything if x not in some])
        for some in itertools.combinations(everything, 3)
    ]
    exact = sum(count >= pairs for count in orders) / len(orders)
    assert page.p_value(ours, theirs) == pytest.approx(exact)


def test_failures_rank_after_every_step(page):
    assert page.p_value([10.0, 20.0, 30.0, 40.0], [FAILED] * 4) < 0.05
    assert page.p_value([FAILED] * 4, [10.0, 20.0, 30.0, 40.0]) > 0.95


def test_methods_stand_from_the_most_steps_to_the_fewest_with_failures_first(page):
    found = page.collected(
        rows("s5", "adamw", [200, None, None])
        + rows("s5", "muon", [150.0 + i for i in range(10)])
        + rows("s5", "one-setting", [100.0 + i for i in range(10)])
    )
    lines = list(page.table("s5", found))
    assert [line.split("|")[1].strip() for line in lines[3:]] == [
        page.METHOD_TITLES[name] for name in ("adamw", "muon", "one-setting")
    ]
    adamw, _, ours = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[3:]]
    assert adamw[1:6] == ["> 300", "–", "200–> 300", "3", "2"]
    assert adamw[-1] == "under 10 seeds; 2 of 3 failed"
    assert ours[1:6] == ["104", "101–108", "100–109", "10", "0"]
    assert ours[-1] == "–"


def test_an_even_number_of_seeds_of_which_half_failed_has_no_finite_median(page):
    found = [s for s in page.collected(rows("s5", "adamw", [100, 100, None, None])) if s.track == "s5"]
    assert found[0].median == FAILED


def test_earlier_rows_of_the_same_settings_are_joined_without_the_seeds_it_was_chosen_on(page):
    row = rows("multiplication", "one-setting", [90])[0]
    (series,) = [
        s for s in page.collected([{**row, "seed": 500}]) if (s.track, s.method) == ("multiplication", "one-setting")
    ]
    assert sorted(series.reached) == [*range(10, 20), 500]


def test_the_one_setting_is_the_frozen_experiment_with_its_filter(records):
    from surgecollapse.lab.config import as_mapping, flat_values, make_config

    ours = flat_values(as_mapping(make_config(**records.settings("multiplication", "one-setting"))))
    filtered = {"grokfast": "ema", "grokfast_alpha": 0.9, "grokfast_lamb": 0.5}
    frozen = flat_values(as_mapping(make_config(task="grokfast-modular-record", **filtered)))
    different = {name for name in ours if ours[name] != frozen[name]}
    assert different <= {"monitors", "checkpoint_every", "stop_at_accuracy"}


def test_every_setting_is_a_configuration_and_only_the_clip_differs_by_track(records):
    from surgecollapse.lab.config import make_config

    for track in records.TRACKS:
        for method in records.METHODS:
            make_config(**records.settings(track, method))
    own = [
        {k: v for k, v in records.settings(track, "one-setting").items() if k not in {*records.TRACKS[track], "steps"}}
        for track in records.TRACKS
    ]
    assert all(settings == own[0] for settings in own)


def test_a_small_run_is_the_run_of_the_lab(records, tmp_path):
    from grokking_tracks.runs import train

    from surgecollapse.lab.config import make_config
    from surgecollapse.lab.training.run import train as train_in_the_lab
    from surgecollapse.record import RunStore

    small = {"modulus": 7, "widths": (8, 16), "batch_size": 8, "steps": 60, "max_row_norm": 2.0}
    config = make_config(**{**records.settings("multiplication", "one-setting"), **small}, seed=3)
    ours = train(config)
    train_in_the_lab(config, tmp_path / "run")
    with RunStore(tmp_path / "run" / "run.db") as store:
        theirs = store.measurements("accuracy/validation")
    lab = dict(zip(theirs.steps.tolist(), theirs.values.tolist(), strict=True))
    assert ours.steps == [40, 45, 50, 55, 60]
    assert ours.validation == [pytest.approx(lab[step]) for step in ours.steps]


def test_the_page_is_what_the_rows_say(records, page):
    written = page.page(page.collected(records.read_rows(records.ROWS)))
    assert records.PAGE.read_text(encoding="utf-8") == written
