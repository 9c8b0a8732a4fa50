"""The study of streams: rates that other seeds choose, and what of the grid is published."""

from __future__ import annotations

import pytest

from surgecollapse.studies import registered, streams
from surgecollapse.studies.plasticity import perceptron
from surgecollapse.studies.streams import measure, tables

ROW = {
    "config": {"method": "dense", "drift": "abrupt", "stay": 0.9, "seed": 0},
    "kappa": 0.5,
    "balanced": 0.7,
    "lowest": 0.4,
    "density": 1.0,
}


def row(method, seed, accuracy, rate=None):
    config = {"method": method, "drift": "abrupt", "stay": 0.9, "seed": seed, "length": 200}
    config |= {} if rate is None else {"rate": rate}
    return {"config": config, "accuracy": accuracy, "kappa_temporal": 0.0}


def test_a_seed_takes_the_rate_that_is_best_on_the_others():
    rows = [row("dense", 0, 0.9), row("dense", 1, 0.5), row("dense", 0, 0.6, 1e-3), row("dense", 1, 0.6, 1e-3)]
    # Seed 0 takes 1e-3, which is better on seed 1; seed 1 takes the default, which is better on seed 0.
    rows += [row("static", 0, 0.7), row("static", 1, 0.7), row("static", 0, 0.1, 1e-3), row("static", 1, 0.1, 1e-3)]
    plain, tuned = tables(rows)
    assert [line[:2] for line in plain.lines] == [["dense", "70.0 ± 254.1"], ["static", "70.0 ± 0.0"]]
    assert [[*line[:1], line[2], line[4]] for line in tuned.lines] == [["dense", "55.0", "2"], ["static", "70.0", "2"]]
    assert tuned.lines[1][3].startswith("+15.0 ± ")  # 70 − 60 and 70 − 50
    assert tables([each for each in rows if each["config"]["seed"] == 0])[1:] == []  # one seed has no others


def test_a_rate_is_the_one_that_learns():
    config = {"method": "dense", "drift": "none", "stay": 0.9, "seed": 0, "length": 400}
    found = [measure({**config, **rate}) for rate in ({}, {"rate": 3e-3}, {"rate": 1e-12})]
    assert found[1] == {key: value for key, value in found[0].items() if key != "parts"}
    assert found[2]["accuracy"] < found[0]["accuracy"]


def test_every_generated_stream_of_the_page_has_as_many_seeds_for_each_method():
    counts: dict[tuple, set[int]] = {}
    for config in registered()["streams"].listed():
        if "seed" in config and config["stay"] == 0.9:
            kind = (config["method"], config["drift"], config.get("stream"), config.get("rate"))
            counts.setdefault(kind, set()).add(config["seed"])
    assert {len(seeds) for seeds in counts.values()} == {10}
    assert len(counts) == 9 * 7 + 7 * 7 * 2


@pytest.mark.parametrize("features", [10, 6, 2])
def test_the_small_network_has_as_many_weights_as_a_static_mask_leaves(features):
    def weights(width):
        return [p.numel() for p in perceptron(features, width, 2).parameters() if p.ndim > 1]

    *hidden, last = weights(streams._WIDTH)
    left = round(0.2 * sum(hidden)) + last
    assert sum(weights(streams._SMALL[features])) == pytest.approx(left, rel=0.03)


def test_recovery_says_how_many_runs_it_is_of():
    rows = [
        {**ROW, "config": {**ROW["config"], "seed": seed}, "recovery": after}
        for seed, after in enumerate((300, -1, 500))
    ]
    assert streams._rolling(rows)[3] == "400 (2 of 3)"
    assert streams._rolling([ROW])[3] == "–"
