"""High, low and plateau are answered as the rules say, no sooner and no oftener."""

from __future__ import annotations

import json
from collections.abc import Iterable

import pytest

from actions import depth, freezes, noise, surge
from surgecollapse.events import Decision, Plan, Reading, Regrow
from surgecollapse.policies import EntropyThresholds


def fixed(total_steps: int | None = None, sparsity: float = 0.9, **options: object) -> EntropyThresholds:
    options = {"thresholds": "fixed", "low": 0.3, "high": 0.7, **options}
    policy = EntropyThresholds(**options)
    policy.start(Plan(sparsity=sparsity, total_steps=total_steps, every=10))
    return policy


def feed(policy: EntropyThresholds, entropies: Iterable[float | None], *, sparsity: float = 0.0) -> list[Decision]:
    return [
        policy.decide(Reading(step=10 * (index + 1), entropy=entropy, sparsity=sparsity))
        for index, entropy in enumerate(entropies)
    ]


def test_high_entropy_collapses_a_tenth_of_the_live_weights_and_reopens_half_of_them_as_bounded_noise() -> None:
    decision = fixed().decide(Reading(step=10, entropy=0.8, sparsity=0.5))
    prune, regrow = decision.actions
    assert prune.sparsity == pytest.approx(0.55)
    assert prune.keep_mask
    assert regrow == Regrow(0.5, source="collapsed", regrow_init="noise", noise_energy_budget=0.1)
    assert decision.phase == "sparse"
    assert "0.800 is above 0.700" in decision.reason


def test_a_collapse_never_goes_beyond_the_target() -> None:
    assert depth(fixed(sparsity=0.52).decide(Reading(step=10, entropy=0.8, sparsity=0.5))) == 0.52
    done = fixed(sparsity=0.5).decide(Reading(step=10, entropy=0.8, sparsity=0.5))
    assert not done.acts
    assert "reached its target" in done.reason


def test_low_entropy_pumps_ever_stronger_up_to_the_bound_and_stops_once_back_in_the_band() -> None:
    decisions = feed(fixed(hysteresis=0.05), [0.2, 0.2, 0.2, 0.2, 0.2, 0.33, 0.36])
    assert [noise(decision) for decision in decisions] == pytest.approx([0.05, 0.1, 0.15, 0.2, None, None, 0.0])
    assert [decision.phase for decision in decisions] == ["pump"] * 6 + ["dense"]
    assert all(depth(decision) is None and surge(decision) is None for decision in decisions)


def test_the_pump_hands_back_to_the_sparse_phase_where_there_is_a_mask() -> None:
    assert feed(fixed(), [0.2, 0.5], sparsity=0.4)[-1].phase == "sparse"


def test_a_plateau_collapses_without_a_surge() -> None:
    decisions = feed(fixed(), [0.5] * 11)
    assert not any(decision.acts for decision in decisions[:10])
    assert depth(decisions[10]) == pytest.approx(0.1)
    assert surge(decisions[10]) is None
    assert "entropy changed by 0.0000 over the last 10 readings (limit 0.001)" in decisions[10].reason


def test_drifting_entropy_is_no_plateau() -> None:
    # .001 a reading is .01 in ten, ten times the limit; the average lags behind but comes to the same slope.
    assert not any(decision.acts for decision in feed(fixed(), [0.5 + 0.001 * index for index in range(60)]))


def test_the_same_signal_waits_for_its_cool_down() -> None:
    decisions = feed(fixed(cooldown=5, dwell=1), [0.8] * 16)
    assert [index for index, decision in enumerate(decisions) if decision.acts] == [0, 5, 10, 15]
    assert "cool-down: 4 of 5 readings" in decisions[4].reason


def test_another_signal_waits_for_the_dwell() -> None:
    decisions = feed(fixed(cooldown=1, dwell=3), [0.8, 0.2, 0.2, 0.2])
    assert [decision.phase for decision in decisions] == ["sparse", "sparse", "sparse", "pump"]
    assert "dwell: 2 of 3 readings" in decisions[2].reason


def test_high_entropy_within_the_hysteresis_is_still_answered_after_the_cool_down() -> None:
    decisions = feed(fixed(hysteresis=0.05, cooldown=2), [0.71, 0.69, 0.69])
    assert [decision.acts for decision in decisions] == [True, False, True]
    assert "not yet 0.05 back inside" in decisions[2].reason


def test_rolling_quantiles_answer_only_what_stands_out_from_the_last_readings() -> None:
    policy = EntropyThresholds()
    policy.start(Plan(sparsity=0.9, total_steps=None, every=10))
    wave = [0.5 + 0.01 * (index % 3) for index in range(21)]
    decisions = feed(policy, [*wave, 0.9])
    assert depth(decisions[-1]) == pytest.approx(0.1)
    assert "the 80% quantile of the last 21 readings" in decisions[-1].reason
    assert "too few readings" in decisions[9].reason


def test_thresholds_steered_to_a_target_follow_it() -> None:
    policy = EntropyThresholds(thresholds="target", target=0.5)
    policy.start(Plan(sparsity=0.9, total_steps=None, every=10))
    assert feed(policy, [0.54])[0].acts is False
    center = policy.state_dict()["band"]["center"]
    assert center == pytest.approx(0.5 - 0.05 * 0.04)
    assert feed(policy, [0.6])[0].acts


def test_with_a_known_end_the_exact_target_is_frozen_at_85_percent_and_the_pump_stopped() -> None:
    policy = fixed(total_steps=90)
    assert [step for step in range(1, 91) if policy.due(step)] == [10, 20, 30, 40, 50, 60, 70, 77, 80, 90]
    policy.decide(Reading(step=70, entropy=0.2))
    freeze = policy.decide(Reading(step=77, entropy=0.2))
    assert (depth(freeze), freezes(freeze), noise(freeze), freeze.phase) == (0.9, True, 0.0, "frozen")
    assert not policy.decide(Reading(step=80, entropy=0.9)).acts


def test_without_a_known_end_nothing_is_ever_frozen() -> None:
    assert not any(freezes(decision) for decision in feed(fixed(), [0.8, 0.5] * 300))


def test_missing_and_non_finite_entropy_neither_act_nor_poison_the_state() -> None:
    policy = fixed()
    for entropy in (None, float("nan")):
        decision = policy.decide(Reading(step=10, entropy=entropy))
        assert not decision.acts
        assert "no activation entropy" in decision.reason
    assert "NaN" not in json.dumps(policy.state_dict())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"thresholds": "rolling"}, "quantile, fixed, target"),
        ({"thresholds": "fixed"}, "needs both low and high"),
        ({"thresholds": "target"}, "is needed there"),
        ({"target": 0.5}, "goes with thresholds='target'"),
        ({"thresholds": "target", "target": 0.5, "low": 0.1}, "no effect"),
        ({"low": 0.9}, "low must not exceed high"),
        ({"collapse": 0.0}, "collapse"),
        ({"noise_energy_budget": -1.0}, "noise_energy_budget"),
        ({"noise_std": (0.2, 0.1)}, "noise_std"),
        ({"dwell": -1}, "dwell"),
        ({"window": 0}, "least|window"),
        ({"hysteresis": -0.1}, "hysteresis"),
        ({"freeze_at": 1.5}, "freeze_at"),
    ],
)
def test_options_out_of_range_are_refused_with_what_is_expected(options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        EntropyThresholds(**options)
