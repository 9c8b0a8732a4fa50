"""The classic rule against a hand-computed table."""

from __future__ import annotations

import pytest

from surgecollapse.events import Plan, Reading
from surgecollapse.policies import FixedInterval


def started(total_steps: int | None = None, **options: object) -> FixedInterval:
    policy = FixedInterval(**options)
    policy.start(Plan(sparsity=0.9, total_steps=total_steps, every=50))
    return policy


def test_the_classic_rule_follows_the_published_table() -> None:
    policy = started()
    table = []
    for step in range(1, 601):
        if policy.due(step):
            decision = policy.decide(Reading(step=step))
            table.append((step, decision.depth, decision.surge, decision.sigma, decision.phase))
    assert table == [
        (100, 0.5, None, None, "sparse"),
        (200, 0.5, 1.0, 0.1, "open"),
        (300, 0.5, None, None, "sparse"),
        (400, 0.5, 1.0, 0.1, "open"),
        (500, 0.5, None, None, "sparse"),
        (600, 0.5, 1.0, 0.1, "open"),
    ]


def test_the_classic_rule_prunes_every_tensor_refills_every_zero_and_holds_no_mask() -> None:
    decision = started().decide(Reading(step=200))
    assert (decision.distribution, decision.scope, decision.held) == ("layer", "all", False)
    assert (decision.reopen, decision.growth, decision.initial) == ("zeros", "random", "noise")
    assert not decision.freeze
    assert decision.pump is None


def test_a_skipped_surge_is_made_up_for_with_the_next_collapse_and_only_once() -> None:
    policy = started()
    policy.decide(Reading(step=100))
    assert not policy.decide(Reading(step=200, finite=False)).acts
    late = policy.decide(Reading(step=300))
    assert (late.depth, late.surge) == (0.5, 1.0)
    assert "100 steps late" in late.reason
    assert policy.decide(Reading(step=400)).surge == 1.0
    assert policy.decide(Reading(step=500)).surge is None


def test_intervals_that_do_not_divide_each_other_surge_alone_too() -> None:
    policy = started(collapse_every=40, surge_every=100)
    due = [step for step in range(1, 201) if policy.due(step)]
    assert due == [40, 80, 100, 120, 160, 200]
    made = {step: policy.decide(Reading(step=step)) for step in due}
    assert (made[100].depth, made[100].surge) == (None, 1.0)
    assert (made[120].depth, made[120].surge) == (0.5, None)
    assert (made[200].depth, made[200].surge) == (0.5, 1.0)


def test_a_reading_between_the_intervals_changes_nothing() -> None:
    policy = started()
    policy.decide(Reading(step=100))
    between = policy.decide(Reading(step=150))
    assert not between.acts
    assert between.phase == "sparse"


def test_the_last_step_still_acts_and_the_one_after_holds() -> None:
    policy = started(total_steps=300)
    assert policy.decide(Reading(step=300)).acts
    after = policy.decide(Reading(step=400))
    assert not after.acts
    assert after.phase == "hold"


@pytest.mark.parametrize(
    "options",
    [
        {"collapse_every": 0},
        {"surge_every": 1.5},
        {"sparsity": 1.0},
        {"sparsity": -0.1},
        {"recovery": float("nan")},
    ],
)
def test_options_out_of_range_are_refused_by_name(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        FixedInterval(**options)
