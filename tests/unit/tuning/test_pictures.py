"""Pictures of a study: axes span what was searched, with ticks that the values can take."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

pytest.importorskip("matplotlib")

from surgecollapse.tuning.pictures import history, slices

SPACE = {
    "warmup": IntDistribution(1, 3),
    "width": IntDistribution(16, 512, log=True),
    "lr": FloatDistribution(1e-3, 1e-1, log=True),
    "rate": FloatDistribution(2e-3, 9e-3, log=True),
    "fixed": IntDistribution(7, 7),
    "policy": CategoricalDistribution(["gmp", "rigl"]),
}
OBJECTIVE = SimpleNamespace(title="accuracy", direction="maximize")


@pytest.fixture
def trials():
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    for value in (0.25, 0.5, 0.75):
        trial = study.ask(SPACE)
        study.tell(trial, value)
    return study.trials


def drawn(picture):
    figure = picture.figure
    figure.canvas.draw()
    return [ax for ax in figure.axes if ax.get_xlabel()]


def shown(ax):
    low, high = ax.get_xlim()
    return [tick for tick in ax.get_xticks() if low <= tick <= high]


def test_trials_are_counted_in_whole_numbers(trials):
    (ax,) = drawn(history(trials, OBJECTIVE, 0))
    assert shown(ax) == [0, 1, 2]


def test_slices_span_the_space_and_whole_numbers_have_whole_ticks(trials):
    axes = {ax.get_xlabel(): ax for ax in drawn(slices(trials, SPACE, OBJECTIVE, 0))}
    assert list(axes) == list(SPACE)
    assert shown(axes["warmup"]) == [1, 2, 3]
    assert shown(axes["fixed"]) == [7]
    assert [label.get_text() for label in axes["policy"].get_xticklabels()] == ["gmp", "rigl"]
    for name in ("width", "lr", "rate"):
        low, high = axes[name].get_xlim()
        assert low < SPACE[name].low < SPACE[name].high < high


def test_labels_of_an_axis_do_not_overlap(trials):
    for ax in drawn(slices(trials, SPACE, OBJECTIVE, 0)):
        ax.figure.canvas.draw()
        low, high = ax.get_xlim()
        ticks = [*ax.xaxis.get_major_ticks(), *ax.xaxis.get_minor_ticks()]
        labels = [tick.label1 for tick in ticks if tick.label1.get_text() and low <= tick.get_loc() <= high]
        boxes = sorted((label.get_window_extent() for label in labels), key=lambda box: box.x0)
        assert boxes
        assert all(one.x1 <= other.x0 for one, other in itertools.pairwise(boxes)), ax.get_xlabel()
