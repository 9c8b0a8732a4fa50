"""The study of regularization: interaction, tuning, early stopping of sparse networks."""

from __future__ import annotations

import pytest
import torch

from surgecollapse.lab.nets.layers import hidden_density
from surgecollapse.lab.nets.mlp import MLP
from surgecollapse.studies import regularization
from surgecollapse.studies.regularization import small_width


def rows(method, values):
    return [
        {"config": {"method": method, "seed": seed, "samples": 1}, "accuracy": value}
        for seed, value in enumerate(values)
    ]


def test_the_interaction_is_what_both_gain_less_what_each_gains():
    by = {
        "plain": rows("plain", [0.50, 0.60]),
        "dropout": rows("dropout", [0.55, 0.64]),  # +5, +4
        "surge": rows("surge", [0.52, 0.63]),  # +2, +3
        "surge+dropout": rows("surge+dropout", [0.58, 0.66]),  # +8, +6: 1 more, 1 less than the sums
    }
    assert regularization._interaction(by, "dropout") == "+0.0 ± 12.7"
    by["surge+dropout"] = rows("surge+dropout", [0.60, 0.70])  # 3 more in both
    assert regularization._interaction(by, "dropout") == "+3.0 ± 0.0"
    assert regularization._interaction({"plain": by["plain"]}, "dropout") == "–"


@pytest.mark.parametrize(("inputs", "classes"), [(40, 10), (64, 10), (784, 10), (256, 6)])
def test_the_small_network_has_no_more_weights_than_the_sparse_one_and_one_unit_more_has_more(inputs, classes):
    def weights(width):
        return [p.numel() for p in MLP(inputs, (width, width), classes).parameters() if p.ndim > 1]

    width = small_width(inputs, 256, classes)
    *hidden, last = weights(256)  # the last layer of a sparse network is whole
    assert sum(weights(width)) <= 0.1 * sum(hidden) + last < sum(weights(width + 1))


def test_tuning_takes_the_strength_of_the_best_validation_accuracy(monkeypatch):
    tried = []

    def train(task, samples, steps, parts, seed, strengths):
        tried.append((parts, seed, strengths["dropout"]))
        torch.manual_seed(0)
        return MLP(2, (4,), 2), data, []

    class data:
        x_validation, y_validation = torch.zeros(4, 2), torch.zeros(4, dtype=torch.long)

    accuracy = iter([0.5, 0.75, 0.75])
    monkeypatch.setattr(regularization, "_train", train)
    monkeypatch.setattr(regularization, "_accuracy", lambda *_: next(accuracy))
    regularization._chosen.cache_clear()
    assert regularization._chosen("digits", 100, 10, "dropout") == 0.1  # the first of the two best
    assert tried == [(("dropout",), 1000, strength) for strength in (0.2, 0.1, 0.4)]
    regularization._chosen.cache_clear()


def test_a_sparse_network_is_stopped_early_only_where_it_is_sparse():
    strengths = {part: values[0] for part, values in regularization._STRENGTHS.items()}
    model, _, losses = regularization._train("digits", 100, 200, ("surge", "early_stopping"), 0, strengths)
    assert len(losses) == 200
    assert hidden_density(model) <= 0.105
