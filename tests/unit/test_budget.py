"""The budget keeper: what fits runs as asked, what does not is rotated and stretched, and noise moves nothing."""

from __future__ import annotations

import time

import pytest
import torch
from torch import nn

from surgecollapse import MemoryRecorder, watch_training
from surgecollapse.observe.budget import BudgetKeeper


def keeper(step=0.01, every=10, limit=0.02):
    made = BudgetKeeper(every=every, limit=limit)
    for _ in range(20):
        made.step_took(step)
    return made


def test_what_fits_runs_at_the_cadence_asked_for():
    made = keeper()
    made.event_took({"a": 0.001, "b": 0.001})  # 2 ms in 10 steps of 10 ms: exactly the budget
    assert (made.every, made.turns) == (10, 1)


@pytest.mark.parametrize(("cost", "every"), [(0.004, 20), (0.05, 250), (0.0041, 21)])
def test_an_event_is_paid_back_before_the_next(cost, every):
    made = keeper()
    made.event_took({"a": cost})
    assert made.every == every
    assert cost <= 0.02 * made.every * 0.01 * (1 + 1e-9)


def test_rotation_comes_before_stretching_and_ends_at_the_number_of_layers():
    made = keeper()
    made.event_took({"a": 0.008}, rotating={"a"}, layers=6)
    assert (made.every, made.turns) == (10, 4)  # a quarter of the layers an event costs 2 ms
    made = keeper()
    made.event_took({"a": 0.040}, rotating={"a"}, layers=5)
    assert (made.every, made.turns) == (40, 5)  # a fifth costs 8 ms: 4 times the budget


def test_costs_of_a_part_of_the_layers_stand_for_all():
    made = keeper()
    made.event_took({"a": 0.008}, rotating={"a"}, layers=6)
    for _ in range(10):
        made.event_took({"a": 0.002}, rotating={"a"}, layers=6)
    assert (made.every, made.turns) == (10, 4)
    assert made.report().seconds["a"] == pytest.approx(0.008)


def test_a_seldom_monitor_counts_for_its_share_of_the_events():
    made = keeper()
    made.event_took({"a": 0.008}, periods={"a": 4})
    assert made.every == 10


def test_one_disturbed_step_or_event_moves_nothing():
    made = keeper()
    for _ in range(4):
        made.event_took({"a": 0.002})
    made.step_took(5.0)
    made.event_took({"a": 3.0})
    assert made.every == 10


def test_without_a_limit_the_cadence_is_kept():
    made = keeper(limit=None)
    made.event_took({"a": 100.0}, rotating={"a"}, layers=9)
    assert (made.every, made.turns) == (10, 1)


def test_another_cadence_may_be_asked_for():
    made = keeper()
    made.event_took({"a": 0.004})
    made.ask(50)
    assert made.every == 50
    made.ask(1)
    made.event_took({"a": 0.004})
    assert made.every == 20


@pytest.mark.parametrize("limit", [0.0, 1.0, -0.1])
def test_a_budget_out_of_range_is_refused(limit):
    with pytest.raises(ValueError, match="budget"):
        BudgetKeeper(every=10, limit=limit)
    with pytest.raises(ValueError, match="every"):
        BudgetKeeper(every=0)


class Slow:
    """Takes 4 ms an event."""

    name, needs = "slow", ()

    def measure(self, scene):
        time.sleep(0.004)
        return {"slow/one": 1.0}


def test_a_costly_monitor_is_held_to_the_share_of_a_real_loop():
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recorder = MemoryRecorder()
    with watch_training(model, optimizer, monitors=[Slow()], recorders=[recorder], every=5, budget=0.05) as watched:
        for _ in range(400):
            time.sleep(0.001)
            optimizer.step()
    report = watched.report()
    assert report.every > 40  # 4 ms are 5% of 80 steps of 1 ms; a loaded machine sleeps longer
    assert report.share < 0.075
    stated = [event.value for event in recorder.events if event.name == "budget/share"]
    assert stated[-1] <= 0.075
