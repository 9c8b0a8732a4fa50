"""The study of language: its n-gram control by hand, what a stretch is, and how its figures are read from a curve."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from surgecollapse.lab.nets.lstm import LSTMPredictor
from surgecollapse.studies import language, registered
from surgecollapse.studies.language import counted_loss


def test_the_ngram_control_by_hand():
    # In 0 1 0 1 1: n(0) = 2, n(1) = 3, two kinds; after 0: 1 twice; after 1: 0 once, 1 once.
    sequence = [0, 1, 0, 1, 1]
    one = {0: (2 + 2 / 2) / (5 + 2), 1: (3 + 2 / 2) / (5 + 2)}
    two = {(0, 1): (2 + 1 * one[1]) / (2 + 1), (1, 0): (1 + 2 * one[0]) / (2 + 2)}
    x, y = torch.tensor([[0, 1]]), torch.tensor([[1, 0]])
    found = counted_loss(sequence, x, y, vocabulary=2, order=2)
    assert found == pytest.approx(-(math.log(two[(0, 1)]) + math.log(two[(1, 0)])) / 2)


def test_the_ngram_control_is_a_distribution():
    sequence = [0, 1, 2, 0, 1, 1, 2, 2, 0]
    context = torch.tensor([[0, 1]])
    total = 0.0
    for first in range(3):
        for second in range(3):
            total += math.exp(-2 * counted_loss(sequence, context, torch.tensor([[first, second]]), 3, order=3))
    assert total == pytest.approx(1.0)


def test_seeds_take_stretches_spread_over_the_text(monkeypatch):
    text = "".join(chr(ord("a") + place % 26) if place < 9_000 else "z" for place in range(10_000))
    monkeypatch.setattr(language, "_text", lambda *_: text)
    first, last = (language._excerpt("t", 1_000, seed) for seed in (0, 9))
    assert first.vocabulary == 27  # all letters and the unknown one
    assert last.vocabulary == 2
    assert last.x_train.unique().tolist() == [1]


@pytest.mark.parametrize("net", ["gpt", "lstm"])
def test_both_networks_have_the_stated_weights(net):
    full, small = (
        sum(weight.numel() for weight in language._hidden(language._net(net, 60, method)))
        for method in ("dense", "small_dense")
    )
    assert full == 98_304
    assert small == pytest.approx(full / 5, rel=0.05)


def test_an_lstm_predicts_from_what_came_before_alone():
    torch.manual_seed(0)
    model = LSTMPredictor(5, embedding=4, hidden=6)
    x = torch.tensor([[0, 1, 2, 3], [0, 1, 4, 4]])
    out = model(x)
    assert torch.equal(out[0, :2], out[1, :2])
    assert not torch.equal(out[0, 2], out[1, 2])


def test_stopping_early_counts_at_the_final_density_alone(monkeypatch):
    curve = [
        {"passes": 1.0, "train": 1.0, "validation": 1.0, "test": 1.1, "density": 1.0},
        {"passes": 2.0, "train": 0.8, "validation": 1.5, "test": 1.6, "density": 0.2},
        {"passes": 3.0, "train": 0.7, "validation": 1.6, "test": 1.7, "density": 0.2},
    ]
    monkeypatch.setattr(language, "_train", lambda *_: curve)
    monkeypatch.setattr(language, "_excerpt", lambda *_: None)
    found = language.measure({"method": "gmp", "text": "t", "characters": 1, "seed": 0})
    assert (found["final"], found["stopped"], found["onset"]) == (1.7, 1.6, 2.0)
    assert found["gap"] == pytest.approx(0.9)
    curve[2]["validation"] = 1.505  # no rise to speak of
    assert language.measure({"method": "gmp", "text": "t", "characters": 1, "seed": 0})["onset"] is None


def test_the_tuned_form_is_chosen_by_validation_and_judged_by_the_test():
    def row(method, text, validation, final, strength=None):
        config = {"method": method, "net": "lstm", "steps": 1500, "text": text, "characters": 50_000, "seed": 0}
        config |= {} if strength is None else {"strength": strength}
        facts = {"final": final, "stopped": final, "gap": 0.0, "onset": None, "density": 1.0}
        return {"config": config, **facts, "curve": [[0.0, 9.0, 0.0], [1.0, 9.0, validation]]}

    rows = [row("dense", "a", 2.0, 2.5), row("dense", "b", 2.0, 2.5)]
    rows += [row("dropout", "a", 1.0, 2.2), row("dropout", "b", 3.0, 2.2)]
    # A strength of 0.3 is better in the mean of both texts, though its test loss is higher.
    rows += [row("dropout", "a", 1.5, 2.4, 0.3), row("dropout", "b", 1.5, 2.4, 0.3)]
    rows += [row("dense", text, 8.0, 1.0, 2.0) for text in "ab"]
    *plain, tuned = language.tables(rows)
    assert plain[0].title == "LSTM, 50,000 characters"
    assert [line[0] for line in plain[0].lines] == ["six-grams, counted", "dense", "dropout"]
    assert plain[0].lines[2][3] == "-0.300 ± 0.000"  # of the default alone
    assert [line[:4] for line in tuned.lines] == [
        ["dense", "default", "2.500 ± 0.000", "+0.000 ± 0.000"],
        ["dropout", "0.3", "2.400 ± 0.000", "-0.100 ± 0.000"],
    ]
    assert language.tables(rows[:4])[-1].title == "The default policy minus each other method"  # nothing was tuned


def test_every_method_has_three_strengths_on_ten_stretches():
    counts: dict[tuple, int] = {}
    for config in registered()["language"].listed():
        if config["characters"] == 50_000 and (config["net"], config.get("steps")) in language._TUNED:
            key = (config["net"], config["method"], config.get("strength"))
            counts[key] = counts.get(key, 0) + 1
    assert set(counts.values()) == {10}
    assert len(counts) == 2 * 8 * 3


@pytest.mark.parametrize("method", language._METHODS)
def test_the_strength_of_a_method_changes_what_it_learns(method, monkeypatch):
    text = "".join(chr(ord("a") + (place * place) % 23) for place in range(2_000))
    monkeypatch.setattr(language, "_text", lambda *_: text)
    config = {"method": method, "net": "lstm", "steps": 40, "windows": 2, "text": "t", "characters": 2_000, "seed": 0}
    values = [None, *language._STRENGTHS[method]]
    finals = [language.measure(config if s is None else {**config, "strength": s})["final"] for s in values]
    assert len(set(finals)) == 3


def test_stretches_of_the_longest_text_do_not_overlap():
    for _, _, characters, seeds in language._PLAN:
        starts = sorted(seed % 10 * (4_000_000 - characters) // 9 for seed in seeds)  # the King James text has more
        assert all(after - before >= characters for before, after in itertools.pairwise(starts))
