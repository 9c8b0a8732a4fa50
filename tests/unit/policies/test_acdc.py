"""AC/DC's schedule, step by step."""

from __future__ import annotations

import pytest

from actions import depth, freezes, surge
from surgecollapse.events import Plan, Reading, Regrow
from surgecollapse.policies import ACDC


def started(total_steps: int = 1000, every: int = 50, **options: float) -> ACDC:
    policy = ACDC(**options)
    policy.start(Plan(sparsity=0.9, total_steps=total_steps, every=every))
    return policy


def test_the_schedule_is_dense_then_thirteen_phases_then_open_then_frozen() -> None:
    policy = started()
    acted = []
    for step in range(1, 1001):
        if policy.due(step):
            decision = policy.decide(Reading(step=step))
            if decision.acts:
                acted.append((step, decision.phase, depth(decision), surge(decision), freezes(decision)))
    expected = []
    for index in range(13):
        step = 100 + 50 * index
        sparse = index % 2 == 0
        expected.append((step, "sparse", 0.9, None, False) if sparse else (step, "open", None, 1.0, False))
    assert acted == [*expected, (750, "open", None, 1.0, False), (850, "frozen", 0.9, None, True)]
    assert acted[12][:2] == (700, "sparse")


def test_surges_reopen_all_pruned_weights_at_zero() -> None:
    policy = started()
    policy.decide(Reading(step=100))
    decision = policy.decide(Reading(step=150))
    assert decision.actions == (Regrow(1.0, source="pruned", growth="random", regrow_init="zero"),)


def test_decisions_are_due_at_rounded_boundaries_and_at_every_reading() -> None:
    policy = started(total_steps=1010, every=400)
    due = [step for step in range(1, 1011) if policy.due(step)]
    # .15 · 1010 = 151.5 is rounded up.
    assert due[:3] == [101, 152, 202]
    assert {400, 800} <= set(due)
    assert len(due) == 17


def test_a_skipped_collapse_is_made_at_the_next_reading() -> None:
    policy = started(every=10)
    assert not policy.decide(Reading(step=100, finite=False)).acts
    late = policy.decide(Reading(step=110))
    assert depth(late) == 0.9
    assert "10 steps late" in late.reason


def test_two_skipped_changes_cancel() -> None:
    policy = started()
    policy.decide(Reading(step=100))
    assert not policy.decide(Reading(step=210)).acts
    assert policy.decide(Reading(step=250)).phase == "open"


def test_a_skipped_first_collapse_leaves_nothing_to_reopen() -> None:
    policy = started()
    assert not policy.decide(Reading(step=160)).acts
    assert depth(policy.decide(Reading(step=200))) == 0.9


def test_a_freeze_that_was_skipped_is_made_at_the_next_reading_and_only_once() -> None:
    policy = started()
    assert not policy.decide(Reading(step=850, finite=False)).acts
    assert freezes(policy.decide(Reading(step=900)))
    after = policy.decide(Reading(step=950))
    assert not after.acts
    assert after.phase == "frozen"


def test_a_missing_length_is_refused_with_what_to_do() -> None:
    with pytest.raises(ValueError, match="pass total_steps="):
        ACDC().start(Plan(sparsity=0.9, total_steps=None, every=50))


def test_the_shortest_possible_run_is_accepted_and_a_shorter_one_refused() -> None:
    assert started(total_steps=20).schedule.freeze == 17
    with pytest.raises(ValueError, match=r"total_steps=12 is too short .* at least about 20"):
        started(total_steps=12)


def test_an_even_number_of_phases_ends_open() -> None:
    policy = started(cycles_until=0.7, freeze_at=0.8)
    phases = [(boundary.step, boundary.phase) for boundary in policy.schedule.boundaries]
    assert phases[-3:] == [(650, "open"), (700, "open"), (800, "frozen")]


@pytest.mark.parametrize(
    "options",
    [
        {"dense_until": 0.0},
        {"dense_until": 0.8},
        {"cycles_until": 0.9},
        {"freeze_at": 1.2},
        {"phase": 0.0},
        {"surge": 0.0},
    ],
)
def test_fractions_out_of_order_or_range_are_refused_by_name(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        ACDC(**options)


def test_deciding_before_the_start_says_what_to_call() -> None:
    with pytest.raises(RuntimeError, match=r"start\(plan\)"):
        ACDC().decide(Reading(step=1))
