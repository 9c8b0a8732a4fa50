"""Choosing between two ways by what they cost: with costs that are given, so that every choice is known."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from surgecollapse import Grokfast, GrokfastMA, OrthoGrad
from surgecollapse.torch_utils import chunking, fastest
from surgecollapse.torch_utils.fastest import Chooser


def played(costs, calls, chooser=None):
    """Ways that were taken where ``costs(call, way)`` is what they cost; and the sum of what they cost."""
    chooser, ways, total = chooser or Chooser(), [], 0.0
    for call in range(calls):
        way = chooser.way()
        cost = costs(call, way)
        chooser.took(way, cost)
        ways.append(way)
        total += cost
    return ways, total


@pytest.mark.parametrize("faster", [0, 1])
@pytest.mark.parametrize("ratio", [1.05, 1.5, 20.0, 1000.0])
def test_the_faster_way_is_taken_and_trials_cost_a_sixteenth(faster, ratio):
    ways, total = played(lambda _, way: 1.0 if way == faster else ratio, 200_000)
    assert ways[0] == 0
    assert ways[1] == 1
    assert ways.count(faster) > 0.9 * len(ways)
    # The first four trials come early; from then on one trial of r comes in 16·r calls.
    assert total <= len(ways) * (1 + 1 / 16) + 5 * ratio


def test_a_way_that_becomes_slow_is_left_within_two_calls_and_comes_back():
    def costs(call, way):
        busy = 100 <= call < 200
        return 1.5 if way == 0 else (30.0 if busy else 1.0)

    ways, _ = played(costs, 2000)
    assert set(ways[50:100]) <= {0, 1}
    assert ways[80:100].count(1) >= 18
    assert ways[102:200].count(0) >= 96
    assert ways[-100:].count(1) >= 95  # it was tried again, and found fast again


def test_one_slow_call_costs_about_what_it_lasted():
    ways, total = played(lambda call, way: 1.5 if way == 0 else (20.0 if call == 500 else 1.0), 1000)
    assert ways[499] == 1
    assert ways[-100:].count(1) >= 95
    _, undisturbed = played(lambda _, way: 1.5 if way == 0 else 1.0, 1000)
    assert total - undisturbed <= 19 + 0.5 * 16 * (1 + 19 / 4) / 1.5 + 19


def test_where_both_become_slower_the_faster_one_is_kept():
    ways, _ = played(lambda call, way: (1.0 if way else 1.5) * (5.0 if call >= 100 else 1.0), 400)
    assert ways[300:].count(1) >= 94


def test_a_clock_that_stands_still_does_no_harm():
    ways, _ = played(lambda call, way: 0.0, 50)
    assert set(ways) == {0, 1}


@pytest.fixture
def clock(monkeypatch):
    """A clock that moves by hand, and no memory of earlier calls."""
    now = [0.0]
    monkeypatch.setattr(fastest, "_clock", lambda: now[0])
    monkeypatch.setattr(fastest, "_choosers", {})

    def advance(seconds):
        now[0] += seconds

    return advance


def work(clock, safe_cost, quick_cost, kind="kind", groups=((1, 2), (3,), (4, 5))):
    """One call; what each way was given."""
    done = []

    def safe(items):
        done.append(("safe", items))
        clock(safe_cost * len(items))

    def quick(items):
        done.append(("quick", items))
        clock(quick_cost * len(items))

    fastest.fastest(kind, groups, 5, safe, quick)
    return done


def test_all_items_are_done_once_whatever_the_way(clock):
    for quick_cost in (0.1, 1.0, 1.7, 100.0, 0.1, 100.0):
        done = work(clock, 1.0, quick_cost)
        assert [item for _, items in done for item in items] == [1, 2, 3, 4, 5]


def test_a_trial_that_lasts_too_long_is_ended_by_the_safe_way(clock):
    assert work(clock, 1.0, 100.0) == [("safe", [1, 2, 3, 4, 5])]
    assert work(clock, 1.0, 100.0) == [("quick", [1, 2]), ("safe", [3, 4, 5])]
    assert work(clock, 1.0, 100.0) == [("safe", [1, 2, 3, 4, 5])]


def test_figures_are_those_of_one_kind_and_size(clock):
    for _ in range(3):
        work(clock, 1.0, 0.1, kind="one")
    assert work(clock, 1.0, 0.1, kind="one")[0][0] == "quick"
    assert work(clock, 1.0, 0.1, kind="other")[0][0] == "safe"
    fastest.fastest("one", [[1]], 5000, lambda _: done.append("safe"), lambda _: done.append("quick"), counts=bool)
    assert done == ["safe"]


done: list[str] = []


def test_calls_that_do_not_count_leave_no_figure(clock):
    for _ in range(3):
        fastest.fastest("kind", [[1]], 1, lambda _: clock(1.0), lambda _: clock(0.1), counts=lambda: False)
    assert fastest._choosers["kind", 1].way() == 0
    assert fastest._choosers["kind", 1].cost(0) == float("inf")


def test_an_error_is_raised_and_leaves_no_figure(clock):
    def fail(items):
        raise ValueError("this group")

    with pytest.raises(ValueError, match="this group"):
        fastest.fastest("kind", [[1]], 1, fail, fail)
    assert fastest._choosers["kind", 1].cost(0) == float("inf")


@pytest.mark.parametrize("make", [Grokfast, lambda: GrokfastMA(3), OrthoGrad], ids=["ema", "ma", "orthogonal"])
def test_copies_and_checkpoints_hold_nothing_of_it(make):
    before = torch.get_num_threads()
    params = [torch.randn(300, 200) for _ in range(3)]
    transform, alone = make(), make()
    try:
        for count, each in ((2, transform), (1, alone)):
            torch.set_num_threads(count)
            for _ in range(3):
                each(params, [torch.randn_like(p) for p in params])
    finally:
        torch.set_num_threads(before)
    assert vars(transform).keys() == vars(alone).keys()
    assert b"hooser" not in pickle.dumps(transform)
    if hasattr(transform, "state_dict"):
        assert transform.state_dict(params).keys() == alone.state_dict(params).keys()
    other, gradient = copy.deepcopy(transform), torch.ones(300, 200)
    other(params[:1], [gradient])


def test_one_thread_has_no_choice(monkeypatch):
    monkeypatch.setattr(chunking, "fastest", None)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        Grokfast()([torch.zeros(200_000)], [torch.ones(200_000)])
    finally:
        torch.set_num_threads(before)
