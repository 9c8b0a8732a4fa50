"""Metrics of streams, against counts by hand and against river where it is installed."""

from __future__ import annotations

import math

import pytest
import torch

from surgecollapse.lab.continual.prequential import balanced_accuracy, cohen_kappa, recovery, rolling_accuracy
from surgecollapse.lab.continual.streams import second_sine


def guesses(classes=3, count=400, seed=0):
    draws = torch.Generator().manual_seed(seed)
    y = torch.randint(classes, (count,), generator=draws)
    wrong = torch.rand(count, generator=draws) < 0.4
    return torch.where(wrong, torch.randint(classes, (count,), generator=draws), y), y


@pytest.mark.parametrize("window", [1, 7, 1000])
def test_rolling_accuracy_is_the_mean_of_the_window(window):
    predictions, y = guesses()
    right = (predictions == y).double()
    found = rolling_accuracy(predictions, y, window)
    wanted = [float(right[max(0, end - window) : end].mean()) for end in range(1, len(y) + 1)]
    assert found.tolist() == pytest.approx(wanted, abs=1e-12)
    with pytest.raises(ValueError, match="window"):
        rolling_accuracy(predictions, y, 0)


def test_kappa_is_one_for_the_truth_and_zero_for_a_constant():
    _, y = guesses()
    assert cohen_kappa(y, y) == 1.0
    assert cohen_kappa(torch.zeros_like(y), y) == pytest.approx(0.0, abs=1e-12)
    assert math.isnan(cohen_kappa(torch.zeros_like(y), torch.zeros_like(y)))
    assert balanced_accuracy(torch.zeros_like(y), y) == pytest.approx(1 / 3)


def test_recovery_counts_from_the_drift():
    y = torch.zeros(100, dtype=torch.long)
    predictions = y.clone()
    predictions[50:60] = 1
    assert recovery(predictions, y, drift=50, window=10) == 20  # all ten wrong ones must have left the window
    assert recovery(predictions, y, drift=50, window=10, share=0.5) == 15
    predictions[50:] = 1
    assert recovery(predictions, y, drift=50, window=10) == -1


def test_metrics_are_those_of_river():
    metrics = pytest.importorskip("river.metrics", reason="no river: pip install river")
    utils = pytest.importorskip("river.utils")
    predictions, y = guesses()
    rolling = utils.Rolling(metrics.Accuracy, window_size=50)
    kappa, balanced = metrics.CohenKappa(), metrics.BalancedAccuracy()
    seen = []
    for label, guess in zip(y.tolist(), predictions.tolist(), strict=True):
        for metric in (rolling, kappa, balanced):
            metric.update(label, guess)
        seen.append(rolling.get())
    assert rolling_accuracy(predictions, y, 50).tolist() == pytest.approx(seen, abs=1e-12)
    assert cohen_kappa(predictions, y) == pytest.approx(kappa.get(), abs=1e-12)
    assert balanced_accuracy(predictions, y) == pytest.approx(balanced.get(), abs=1e-12)


@pytest.mark.parametrize("second", [False, True])
def test_sines_are_those_of_river(second):
    synth = pytest.importorskip("river.datasets.synth", reason="no river: pip install river")
    stream = synth.Sine(classification_function=2 if second else 0, seed=1).take(500)
    x, y = zip(*((list(sample.values()), label) for sample, label in stream), strict=True)
    x = torch.tensor(x, dtype=torch.float64)
    ours = second_sine(x) if second else x[:, 0] < torch.sin(x[:, 1])
    assert set(y) == {0, 1}
    assert ours.long().tolist() == list(y)
