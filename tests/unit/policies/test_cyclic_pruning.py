"""CyclicPruning: the cubic schedule several times over, from what each surge left, as deep as is allowed."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from actions import depth, freezes, surge
from surgecollapse.events import Decision, Plan, Reading
from surgecollapse.policies import CyclicPruning, GradualPruning

THREE = {"dense_until": 0.1, "cycles": 3, "last_cycle_start": 0.45, "surge": 0.5}


def follow(
    policy: CyclicPruning | GradualPruning, plan: Plan, *, deep: float = 1.0
) -> dict[int, tuple[Decision, float]]:
    """Decisions by step, with the sparsity after each; ``deep`` is where between (least, most) a collapse ends."""
    policy.start(plan)
    sparsity, made = 0.0, {}
    for step in range(1, (plan.total_steps or 0) + 1):
        if not policy.due(step):
            continue
        decision = policy.decide(Reading(step=step, sparsity=sparsity))
        if isinstance(depth(decision), tuple):
            least, most = depth(decision)
            assert least <= most
            sparsity = least + deep * (most - least)
        elif depth(decision) is not None:
            sparsity = depth(decision)
        if surge(decision) is not None:
            sparsity *= 1.0 - surge(decision)
        made[step] = decision, sparsity
    return made


def test_three_cycles_by_hand() -> None:
    # T = 1000: cycles begin at 100, 275, 450, end at 250, 425, 750; the target is .8, half its density .9.
    made = follow(
        CyclicPruning(**THREE, floor=0.0, min_density_ratio=0.5), Plan(sparsity=0.8, total_steps=1000, every=25)
    )
    assert made[75][0].phase == made[100][0].phase == "dense"
    halfway = 1 - 0.5**3  # the share of the way, at the middle of a cycle
    assert made[175][1] == pytest.approx(0.9 * halfway)
    assert made[250][1] == pytest.approx(0.9)
    assert surge(made[275][0]) == 0.5
    assert made[275][1] == pytest.approx(0.45)
    assert made[350][1] == pytest.approx(0.45 + 0.45 * halfway)
    assert made[425][1] == pytest.approx(0.9)
    assert surge(made[450][0]) == 0.5
    assert made[450][1] == pytest.approx(0.45)
    assert made[600][1] == pytest.approx(0.45 + 0.35 * halfway)
    assert freezes(made[750][0])
    assert depth(made[750][0]) == 0.8
    assert made[775][0] == Decision(phase="frozen", reason="frozen: the mask is final")
    assert [step for step, (decision, _) in made.items() if surge(decision)] == [275, 450]


def test_one_cycle_is_gradual_pruning() -> None:
    plan = Plan(sparsity=0.9, total_steps=730, every=20)
    one, gradual = follow(CyclicPruning(cycles=1, dense_until=0.1), plan), follow(GradualPruning(), plan)
    assert [one[step][1] for step in gradual if step in one] == pytest.approx(
        [value for step, (_, value) in gradual.items() if step in one]
    )


def test_where_the_floor_binds_a_cycle_ends_at_the_target() -> None:
    made = follow(CyclicPruning(**THREE), Plan(sparsity=0.8, total_steps=1000, every=25), deep=0.0)
    assert made[250][1] == pytest.approx(0.8)
    assert made[275][1] == pytest.approx(0.4)


def test_a_cycle_settles_until_the_next_one() -> None:
    made = follow(CyclicPruning(**THREE, settle_fraction=0.1), Plan(sparsity=0.8, total_steps=1000, every=25))
    assert [depth(made[step][0]) for step in (200, 225, 250)] == [None] * 3
    assert "settles" in made[225][0].reason


@settings(max_examples=80)
@given(
    sparsity=st.floats(0.05, 0.99),
    total=st.integers(60, 600),
    every=st.integers(1, 60),
    cycles=st.integers(1, 4),
    share=st.floats(0.01, 1.0),
    deep=st.floats(0.0, 1.0),
    min_density_ratio=st.floats(0.01, 1.0),
)
@example(sparsity=1 / 3, total=60, every=1, cycles=2, share=1.0, deep=0.0, min_density_ratio=1.0)
def test_never_deeper_than_allowed_and_exact_at_the_end(
    sparsity: float, total: int, every: int, cycles: int, share: float, deep: float, min_density_ratio: float
) -> None:
    policy = CyclicPruning(cycles=cycles, surge=share, min_density_ratio=min_density_ratio)
    made = follow(policy, Plan(sparsity=sparsity, total_steps=total, every=every), deep=deep)
    deepest = 1 - min_density_ratio * (1 - sparsity)
    assert all(value <= deepest + 1e-12 for _, value in made.values())
    assert sum(surge(decision) is not None for decision, _ in made.values()) == cycles - 1
    frozen = [decision for decision, _ in made.values() if freezes(decision)]
    assert [depth(decision) for decision in frozen] == [sparsity]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cycles": 0}, "cycles must be a whole number of at least 1"),
        ({"dense_until": 0.5}, "expected dense_until < last_cycle_start < freeze_at"),
        ({"settle_fraction": 0.2}, "leaves nothing of a cycle: 4 cycles are 0.15 of the run long"),
        ({"surge": 0.0}, "surge must be in"),
        ({"floor": 1.5}, "floor must be in"),
        ({"min_density_ratio": 0.0}, "min_density_ratio must be in"),
        ({"measure": "loss"}, "unknown measure 'loss': expected one of prediction_confidence, on_off, entropy"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CyclicPruning(**options)


def test_what_cannot_be_planned_is_refused() -> None:
    with pytest.raises(ValueError, match="too short for CyclicPruning"):
        CyclicPruning().start(Plan(sparsity=0.9, total_steps=10, every=1))
