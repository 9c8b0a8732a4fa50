"""The classic rule against a hand-computed table."""

from __future__ import annotations

import pytest

from actions import depth, surge
from surgecollapse.events import Plan, Prune, Reading, Regrow
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
            table.append((step, decision.actions, decision.phase))
    prune = Prune(0.5, allocation="layer", scope="all", keep_mask=False)
    refill = Regrow(1.0, source="zeros", scope="all", regrow_init="noise", noise_std=0.1)
    assert table == [
        (100, (prune,), "sparse"),
        (200, (prune, refill), "open"),
        (300, (prune,), "sparse"),
        (400, (prune, refill), "open"),
        (500, (prune,), "sparse"),
        (600, (prune, refill), "open"),
    ]


def test_a_skipped_surge_is_made_up_for_with_the_next_collapse_and_only_once() -> None:
    policy = started()
    policy.decide(Reading(step=100))
    assert not policy.decide(Reading(step=200, finite=False)).acts
    late = policy.decide(Reading(step=300))
    assert (depth(late), surge(late)) == (0.5, 1.0)
    assert "100 steps late" in late.reason
    assert surge(policy.decide(Reading(step=400))) == 1.0
    assert surge(policy.decide(Reading(step=500))) is None


def test_intervals_that_do_not_divide_each_other_surge_alone_too() -> None:
    policy = started(collapse_every=40, surge_every=100)
    due = [step for step in range(1, 201) if policy.due(step)]
    assert due == [40, 80, 100, 120, 160, 200]
    made = {step: policy.decide(Reading(step=step)) for step in due}
    assert (depth(made[100]), surge(made[100])) == (None, 1.0)
    assert (depth(made[120]), surge(made[120])) == (0.5, None)
    assert (depth(made[200]), surge(made[200])) == (0.5, 1.0)


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
    assert after.phase == "open"


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
