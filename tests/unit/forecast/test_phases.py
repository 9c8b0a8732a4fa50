"""Phases of toy runs whose times are known by construction."""

from __future__ import annotations

import pytest

from surgecollapse.forecast.phases import Interval, phases


def toy(fit: int, gen: int, every: int, total: int):
    """Accuracies that jump at exactly ``fit`` and ``gen``, evaluated every ``every`` steps."""
    steps = list(range(every, total + 1, every))
    return steps, [1.0 if s >= fit else 0.3 for s in steps], [1.0 if s >= gen else 0.05 for s in steps]


@pytest.mark.parametrize("every", [1, 3, 7, 10, 25])
@pytest.mark.parametrize(("fit", "gen"), [(30, 100), (33, 120), (50, 51)])
def test_intervals_hold_the_true_times_at_any_cadence(fit, gen, every):
    found = phases(*toy(fit, gen, every, 300))
    assert found.t_fit.after < fit <= found.t_fit.by
    assert found.t_gen.after < gen <= found.t_gen.by
    assert found.delay[0] <= gen - fit <= found.delay[1]


@pytest.mark.parametrize("every", [1, 2, 5, 11, 20])
@pytest.mark.parametrize("gen", [95, 99, 100, 101, 105, 140])
def test_a_certain_outcome_is_that_of_every_finer_cadence(gen, every):
    found = phases(*toy(50, gen, every, 400))
    if found.certain:
        assert found.outcome == phases(*toy(50, gen, 1, 400)).outcome


def test_phases_follow_one_another_with_losses_that_rise_and_fall():
    steps = list(range(1, 16))
    train = [0.5, 0.8] + [1.0] * 13
    validation = [0.1] * 9 + [0.3, 0.5, 0.8, 0.97, 0.98, 0.99]
    loss = [2.0, 2.5, 3.0, 4.0, 4.0, 3.5, 3.0, 2.5, 2.0, 1.5, 1.0, 0.5, 0.1, 0.1, 0.1]
    found = phases(steps, train, validation, validation_loss=loss)
    assert [(span.phase, span.first, span.last) for span in found.spans] == [
        ("memorization", 1, 2),
        ("plateau", 3, 5),
        ("circuit formation", 6, 9),
        ("cleanup", 10, 12),
        ("grokked", 13, 15),
    ]


def test_generalization_that_is_lost_again_is_sustained_but_not_stable():
    validation = [0.1, 0.1, 0.1, 0.96, 0.97, 0.97, 0.4, 0.4]
    found = phases(range(10, 90, 10), [1.0] * 8, validation)
    assert found.sustained == Interval(after=30, by=40)
    assert found.stable is None


def test_a_lasting_fall_of_the_training_accuracy_is_a_collapse_and_a_spike_is_not():
    spike = phases(range(1, 9), [1, 1, 0.2, 1, 1, 1, 1, 1], [0.1] * 8)
    assert {span.phase for span in spike.spans} == {"plateau"}
    fall = phases(range(1, 9), [1, 1, 1, 0.5, 0.2, 0.2, 0.1, 0.1], [0.1] * 8)
    assert [(span.phase, span.first) for span in fall.spans] == [("plateau", 1), ("collapsed", 4)]


def test_a_loss_that_is_not_finite_is_a_collapse_at_once():
    found = phases([1, 2, 3], [0.2, 0.2, 0.0], [0.1] * 3, train_loss=[2.0, float("inf"), float("nan")])
    assert [(span.phase, span.first) for span in found.spans] == [("memorization", 1), ("collapsed", 2)]


def test_series_of_other_lengths_or_unsorted_steps_are_refused():
    with pytest.raises(ValueError, match="one value of validation"):
        phases([1, 2], [1, 1], [1])
    with pytest.raises(ValueError, match="ascending"):
        phases([2, 1], [1, 1], [1, 1])
