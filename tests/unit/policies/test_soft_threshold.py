"""The soft threshold's schedule, its entropy loop, and when it stops short of the target."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from torch import nn

import surgecollapse as sc
from surgecollapse.events import Aim, Freeze, Plan, Prune, Reading, Threshold, Warn
from surgecollapse.functional import kept
from surgecollapse.policies import SoftThreshold, SoftThresholdEntropy
from surgecollapse.policies.recovery import Recovery

PLAN = Plan(sparsity=0.8, total_steps=400, every=10)


def play(policy, **readings):
    """Decisions of a run by step; readings: name → function of the step."""
    policy.start(PLAN)
    steps = [0, *(step for step in range(1, 401) if policy.due(step))]
    made = {}
    for step in steps:
        given = {name: value(step) for name, value in readings.items()}
        made[step] = policy.decide(Reading(step=step, **given))
    return made


def depths(made):
    """Sparsity that each decision goes to, by the step at which it is reached."""
    found = {}
    for step, decision in made.items():
        action = decision.find(Threshold)
        if action is not None:
            found[step + action.over] = action.sparsity
    return found


def cubic(step, start, end):
    u = min(1.0, max(0.0, (step - start) / (end - start)))
    return 0.8 * (1 - (1 - u) ** 3)


@pytest.mark.parametrize(("start", "end", "freeze"), [(0.0, 0.5, 0.75), (0.1, 0.6, 0.9), (0.25, 0.25 + 1 / 3, 0.6)])
def test_the_sparsity_is_the_cubic_of_zhu_and_gupta_at_every_decision(start, end, freeze):
    made = play(SoftThreshold(start_at=start, end_at=end, freeze_at=freeze))
    first, last, final = (round(400 * at) for at in (start, end, freeze))
    for step, depth in depths(made).items():
        assert depth == pytest.approx(cubic(step, first, last), abs=1e-12)
    assert depths(made)[last] == 0.8
    assert min(step for step, decision in made.items() if decision.find(Threshold)) == first
    assert made[final].actions == (Prune(0.8), Freeze())
    assert not any(decision.acts for step, decision in made.items() if step > final)


def test_options_reach_the_action():
    policy = SoftThreshold(p=3.0, theta=0.5, rescale=False, allocation="erk", threshold_every=7)
    action = play(policy)[0].find(Threshold)
    assert (action.p, action.theta, action.rescale, action.allocation, action.every) == (3.0, 0.5, False, "erk", 7)


@pytest.mark.parametrize(
    ("p", "rescale", "scaled"), [(1, None, True), (3, None, False), (3, True, True), (1, False, False)]
)
def test_open_weights_get_their_magnitude_back_with_p_of_one_alone_unless_told(p, rescale, scaled):
    assert play(SoftThreshold(p=p, rescale=rescale))[0].find(Threshold).rescale is scaled


@pytest.mark.parametrize(
    "options",
    [
        {"p": 0.5},
        {"theta": 1.5},
        {"end_at": 0.8},
        {"start_at": 0.5},
        {"threshold_every": 0},
        {"allocation": "lamp"},
        {"when_not_recovering": "maybe"},
    ],
)
@pytest.mark.parametrize("kind", [SoftThreshold, SoftThresholdEntropy])
def test_options_out_of_range_are_refused(kind, options):
    with pytest.raises(ValueError, match=r"got|expected"):
        kind(**options) if options != {"start_at": 0.5} else kind(**options, end_at=0.5)


# ---- the entropy loop ----------------------------------------------------------------------------------------------


def by_entropy(**readings):
    return play(SoftThresholdEntropy(end_at=0.6, earliest_end=0.3), **readings)


CALM = {
    "on_off": lambda _: 0.9,
    "prediction_confidence": lambda _: 0.8,
    "entropy": lambda step: 0.5 - step / 1000,  # neither flat nor high
}


def test_without_news_the_sparsity_is_half_way_between_the_two_schedules():
    for step, depth in depths(by_entropy(**CALM)).items():
        assert depth == pytest.approx((cubic(step, 0, 120) + cubic(step, 0, 240)) / 2, abs=1e-9)


@pytest.mark.parametrize(
    ("readings", "words"),
    [
        ({**CALM, "prediction_confidence": lambda step: 0.8 if step < 60 else 0.5}, "prediction confidence 0.500"),
        ({**CALM, "on_off": lambda step: 0.9 if step < 60 else 0.1}, "on_off 0.100 is under its floor 0.3"),
    ],
)
def test_a_starved_net_gets_a_lower_threshold_and_the_reason_says_why(readings, words):
    made = by_entropy(**readings)
    found = depths(made)
    assert words in made[60].reason
    assert found[70] < found[60], "a surge: the threshold falls"
    assert found[100] == pytest.approx(cubic(100, 0, 240))
    assert words not in made[50].reason


def test_room_raises_the_threshold_faster():
    """A plateau of entropy, as the signals call it, from the third reading on."""
    made = by_entropy(**{**CALM, "entropy": lambda _: 0.5})
    found = depths(made)
    assert "plateau" in made[60].reason
    assert found[100] > (cubic(100, 0, 120) + cubic(100, 0, 240)) / 2
    assert found[120] == pytest.approx(0.8)


@pytest.mark.parametrize("bad", [True, False])
def test_the_target_is_reached_exactly_whatever_entropy_says(bad):
    readings = {
        "on_off": lambda _: 0.0 if bad else 1.0,
        "prediction_confidence": lambda step: 1 / (1 + step) if bad else 1.0,
        "entropy": lambda _: 0.5,
    }
    made = by_entropy(**readings)
    assert depths(made)[240] == 0.8
    assert all(0.0 <= depth <= 0.8 for depth in depths(made).values())
    assert made[300].actions == (Prune(0.8), Freeze())


# ---- when training does not recover --------------------------------------------------------------------------------


@pytest.mark.parametrize("signal", ["loss", "prediction_confidence"])
def test_recovery_is_judged_by_the_loss_or_by_the_confidence(signal):
    recovery = Recovery(patience=3, decay=0.0)
    good, bad = (0.1, 1.9) if signal == "loss" else (0.9, 0.1)
    values = [2.0 if signal == "loss" else 0.0, good, bad, bad, good, bad, bad, bad]
    failed = []
    for step, value in enumerate(values):
        recovery.read(Reading(step=step, **{signal: value}))
        failed.append(recovery.failed is not None)
    assert failed == [False] * 7 + [True]
    assert recovery.failed is not None
    assert ("loss" if signal == "loss" else "prediction confidence") in recovery.failed
    recovery.forgive()
    assert recovery.failed is None


def test_a_reading_without_numbers_says_nothing():
    recovery = Recovery(patience=1)
    for value in (None, math.nan, None):
        recovery.read(Reading(step=1, loss=value))
    assert not recovery.begun
    assert recovery.failed is None


@pytest.mark.parametrize(
    ("loss", "begun", "waits"),
    [
        (0.0, 130, {90: "not begun to learn", 120: "not learned yet, until step 200"}),  # the average is 1.75 at 120
        (0.5, 200, {90: "not begun to learn", 190: "not learned yet, until step 200"}),  # three quarters at most
        (1.95, 300, {290: "not begun to learn"}),
    ],
)
def test_at_most_waits_until_training_has_learned_or_two_thirds_of_the_time_are_over(loss, begun, waits):
    made = play(SoftThreshold(when_not_recovering="at_most"), loss=lambda step: 2.0 if step < 100 else loss)
    for step, reason in waits.items():
        assert reason in made[step].reason
    assert min(step for step, decision in made.items() if decision.acts) == begun
    if begun < 300:
        assert depths(made)[240] == pytest.approx(cubic(240, begun, max(200, (begun + 300) // 2)))
        assert made[300].actions == (Prune(0.8), Freeze())


def test_what_never_learns_is_not_pruned_and_says_so():
    made = play(SoftThreshold(when_not_recovering="at_most"), prediction_confidence=lambda _: 0.001)
    assert made[300].actions == (Warn(made[300].reason), Aim(0.0), Freeze())
    assert "not begun to learn" in made[300].reason


@pytest.mark.parametrize("readings", [{"prediction_confidence": lambda _: 0.001}, {"loss": lambda _: 2.0}])
def test_exact_prunes_what_never_learns_and_warns(readings):
    warning, *others = play(SoftThreshold(), **readings)[300].actions
    assert others == [Prune(0.8), Freeze()]
    assert "training has learned nothing until the final mask at step 300, at sparsity 0.8" in warning.message


def test_without_numbers_nothing_is_said_of_learning():
    assert play(SoftThreshold())[300].actions == (Prune(0.8), Freeze())


def test_exact_goes_on_where_training_does_not_recover_and_warns():
    policy = SoftThreshold()
    made = play(policy, loss=lambda step: 2.0 if step == 0 else 0.1 if step < 200 else 1.9)
    warned = {step: decision.find(Warn).message for step, decision in made.items() if decision.find(Warn)}
    assert "training does not recover from being pruned (average loss 1.79 for 4 readings" in warned[230]
    assert depths(made) == depths(play(SoftThreshold()))
    assert list(warned) == [230, 270]  # counted anew after each


def test_it_backs_off_to_twice_the_density_where_training_does_not_recover():
    made = play(
        SoftThreshold(when_not_recovering="at_most"),
        loss=lambda step: 2.0 if step == 0 else 0.1 if step < 200 else 1.9,
        sparsity=lambda _: 0.8,
    )
    first = next(step for step, decision in made.items() if decision.find(Aim))
    assert made[first].find(Aim).sparsity == pytest.approx(0.6)
    assert made[first].find(Threshold).sparsity == pytest.approx(0.6)
    assert "training does not recover (average loss 1.79 for 4 readings" in made[first].reason


def test_a_net_that_pruning_kills_ends_at_a_lower_sparsity_with_the_reason_and_resumes():
    """The loss that the loop notes is made up: fine while more than half of the weights are open."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    x, y = torch.randn(32, 8), torch.randint(3, (32,))

    def attached(model, optimizer):
        readings = sc.Readings(every=5, probe=x)
        return sc.attach(
            model, optimizer, 0.8, 400, policy=SoftThreshold(when_not_recovering="at_most"), readings=readings
        )

    def train(model, optimizer, controller, steps):
        for _ in range(steps):
            model.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            controller.note(loss=2.0 if controller.step < 5 else 0.1 if controller.sparsity < 0.5 else 2.5)
            optimizer.step()

    controller = attached(model, optimizer)
    with pytest.warns(UserWarning, match=r"training does not recover .* back to sparsity"):
        train(model, optimizer, controller, 150)
    other = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3))
    stepper = torch.optim.SGD(other.parameters(), lr=0.01)
    again = attached(other, stepper)
    other.load_state_dict(model.state_dict())
    stepper.load_state_dict(optimizer.state_dict())
    for parts in ((model, optimizer, controller), (other, stepper, again)):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "training does not recover")  # said before, or not again
            train(*parts, 250)
        parts[2].finalize()
        assert parts[2].frozen
    assert 0.0 < controller.sparsity < 0.5
    size = 8 * 32 + 32 * 32
    assert controller.open_weights() == (kept(size, controller.plan.sparsity), size)
    aims = [event.reason for event in controller.events if event.kind == "aim"]
    assert aims
    assert [event.reason for event in controller.events if event.kind == "warning"] == [
        reason.partition(": ")[2] for reason in aims
    ]
    assert all("training does not recover (average loss" in reason for reason in aims)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), other.parameters(), strict=True))
