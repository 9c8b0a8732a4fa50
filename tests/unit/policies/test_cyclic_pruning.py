"""CyclicPruning: the cubic schedule several times over, from what each surge left, as deep as is allowed."""

from __future__ import annotations

import warnings
from itertools import pairwise

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

import surgecollapse as sc
from actions import depth, freezes, surge
from surgecollapse.events import Aim, Decision, Freeze, Plan, Prune, Reading, Regrow, Warn
from surgecollapse.functional import kept
from surgecollapse.policies import CyclicPruning, GradualPruning
from surgecollapse.schedules import cubic

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


# ---- when training does not recover --------------------------------------------------------------------------------

RUN = Plan(sparsity=0.8, total_steps=400, every=10)


def train(policy: CyclicPruning, loss, confidence=lambda _: None) -> dict[int, tuple[Decision, float]]:
    """Decisions by step and the sparsity after each; ``loss`` and ``confidence`` are functions of the step."""
    policy.start(RUN)
    sparsity, made = 0.0, {}
    for step in filter(policy.due, range(1, 401)):
        reading = Reading(step=step, sparsity=sparsity, loss=loss(step), prediction_confidence=confidence(step))
        decision = policy.decide(reading)
        for action in decision.actions:
            if isinstance(action, Prune):
                sparsity = action.range[1]
            elif isinstance(action, Regrow):
                sparsity *= 1.0 - action.fraction
            elif isinstance(action, Aim):
                policy._state.plan = Plan(sparsity=action.sparsity, total_steps=400, every=10)  # as the controller does
        made[step] = decision, sparsity
    return made


def warned(made) -> dict[int, str]:
    return {step: decision.find(Warn).message for step, (decision, _) in made.items() if decision.find(Warn)}


def test_exact_decides_alike_whatever_the_loss_is_and_warns_in_the_last_cycle_alone() -> None:
    good = train(CyclicPruning(), lambda step: 2.0 / step)
    bad = train(CyclicPruning(), lambda step: 2.0 if step < 20 else 0.1 if step < 100 else 1.9)
    assert not warned(good)
    assert warned(bad)
    assert min(warned(bad)) >= 200
    assert all("when_not_recovering='at_most'" in message for message in warned(bad).values())
    for step, (decision, sparsity) in bad.items():
        assert sparsity == good[step][1]
        assert [a for a in decision.actions if not isinstance(a, Warn)] == list(good[step][0].actions)


def test_exact_says_that_nothing_was_learned() -> None:
    made = train(CyclicPruning(), lambda _: 2.0)
    assert made[300][0].actions[1:] == (Prune(0.8), Freeze())
    assert "training has learned nothing until the final mask at step 300, at sparsity 0.8" in warned(made)[300]


def test_without_numbers_nothing_is_said_of_learning() -> None:
    assert not warned(train(CyclicPruning(), lambda _: None))


def test_at_most_begins_with_the_first_cycle_after_training_has_learned() -> None:
    # T = 400: cycles begin at 20, 80, 140 and 200. The moving average has learned at 50, having lost 1.75 of 2.0 at 40.
    one, other = (
        train(CyclicPruning(when_not_recovering=when), lambda step: 2.0 if step < 20 else 0.0)
        for when in ("exact", "at_most")
    )
    assert {sparsity for step, (_, sparsity) in other.items() if step < 80} == {0.0}
    assert "dense at step 40: training has not learned yet, until step 200" in other[40][0].reason
    assert "training has learned, and the next cycle begins at step 80" in other[70][0].reason
    assert other[80][0].phase == "dense"
    assert [step for step, (decision, _) in one.items() if surge(decision)] == [80, 140, 200]
    assert [step for step, (decision, _) in other.items() if surge(decision)] == [140, 200]
    assert other[300][0] == one[300][0]
    assert other[130][1] == pytest.approx(one[130][1])


def test_at_most_that_learns_late_prunes_once_and_gradually_and_leaves_time_to_recover() -> None:
    made = train(CyclicPruning(when_not_recovering="at_most"), lambda step: 2.0 if step < 180 else 0.0)
    begun, end = 200, 250
    for step, (decision, sparsity) in made.items():
        assert surge(decision) is None
        if step <= 300:
            assert sparsity == pytest.approx(cubic(step, begun, end, 0.0, 0.8)), step
    assert made[300][0].actions == (Prune(0.8), Freeze())


def test_at_most_that_never_learns_stays_dense_and_says_so() -> None:
    made = train(CyclicPruning(when_not_recovering="at_most"), lambda _: None, lambda _: 0.001)
    reason = made[300][0].reason
    assert made[300][0].actions == (Warn(reason), Aim(0.0), Freeze())
    assert "not begun to learn" in reason
    assert {sparsity for _, sparsity in made.values()} == {0.0}


@pytest.mark.parametrize("fails_at", [0.5, 0.7])
def test_at_most_backs_off_to_twice_the_density_until_training_recovers(fails_at) -> None:
    """The loss is good while the sparsity is under ``fails_at``."""
    at = {"sparsity": 0.0}

    def loss(step: int) -> float:
        return 2.0 if step < 20 else 0.0 if at["sparsity"] < fails_at else 1.9

    policy = CyclicPruning(when_not_recovering="at_most", cycles=1)
    policy.start(RUN)
    targets = [0.8]
    for step in filter(policy.due, range(1, 401)):
        decision = policy.decide(Reading(step=step, sparsity=at["sparsity"], loss=loss(step)))
        for action in decision.actions:
            if isinstance(action, Prune):
                at["sparsity"] = action.range[1]
            elif isinstance(action, Regrow):
                at["sparsity"] *= 1.0 - action.fraction
                assert at["sparsity"] == pytest.approx(targets[-1])
            elif isinstance(action, Aim):
                targets.append(action.sparsity)
                assert "training does not recover (average loss" in decision.reason
                policy._state.plan = Plan(sparsity=action.sparsity, total_steps=400, every=10)
    assert at["sparsity"] == pytest.approx(targets[-1])
    assert 0.0 < targets[-1] < fails_at
    assert all(b < a for a, b in pairwise(targets))


def test_no_cycle_goes_deeper_than_a_target_that_was_lowered() -> None:
    made = train(
        CyclicPruning(when_not_recovering="at_most", floor=0.0),
        lambda step: 2.0 if step < 20 else 1.9 if 130 <= step < 180 else 0.0,
    )
    lowered = {step: decision.find(Aim).sparsity for step, (decision, _) in made.items() if decision.find(Aim)}
    assert len(lowered) == 1
    (at, target), deepest = next(iter(lowered.items())), max(sparsity for _, sparsity in made.values())
    assert deepest > 0.8
    assert all(sparsity <= target + 1e-9 for step, (_, sparsity) in made.items() if step >= at)
    assert made[300][1] == pytest.approx(target)


@pytest.mark.parametrize("bad_from", ["half of the weights", "the end"])
def test_a_net_that_the_cycles_kill_ends_where_it_recovers_and_resumes(bad_from) -> None:
    """The loss that the loop notes is made up: bad once half of the weights are closed, or near the final mask."""
    x, y = torch.randn(32, 8), torch.randint(3, (32,))

    def built():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        policy = CyclicPruning(when_not_recovering="at_most", cycles=1, floor=0.0)
        readings = sc.Readings(every=5, probe=x)
        return model, optimizer, sc.attach(model, optimizer, 0.8, 400, policy=policy, readings=readings)

    def train_on(model, optimizer, controller, until):
        while controller.step < until:
            model.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            fine = controller.sparsity < 0.5 if bad_from == "half of the weights" else controller.step < 282
            fine &= controller.step >= 5
            controller.note(loss=0.1 if fine else 2.5)
            optimizer.step()

    first = built()
    again = built()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "training does not recover")
        train_on(*first, 190)
        again[0].load_state_dict(first[0].state_dict())
        again[1].load_state_dict(first[1].state_dict())
        for parts in (first, again):
            train_on(*parts, 400)
            parts[2].finalize()
    controller, size = first[2], 8 * 32 + 32 * 32
    assert controller.frozen
    aims = [event.step for event in controller.events if event.kind == "aim"]
    if bad_from == "the end":
        assert (aims, controller.plan.sparsity) == ([300], pytest.approx(0.6, abs=1e-3))
    else:
        assert aims[0] < 300
        assert 0.0 < controller.plan.sparsity < 0.5
    assert controller.open_weights() == (kept(size, controller.plan.sparsity), size)
    assert all(torch.equal(p, q) for p, q in zip(first[0].parameters(), again[0].parameters(), strict=True))
