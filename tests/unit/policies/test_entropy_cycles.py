"""Entropy-bounded cycles: each rule of each phase, and both null forms (no entropy; periodic)."""

from __future__ import annotations

import logging
import random

import pytest

from actions import depth, freezes, noise, surge
from surgecollapse.events import Decision, Plan, Prune, Reading, Regrow, SetNoise
from surgecollapse.policies import ACDC, EntropyCycles

T = 4000
DENSE_END, SHORTEST, NOMINAL, LONGEST = 400, 100, 200, 400


def started(total_steps: int = T, every: int = 50, sparsity: float = 0.9, **options: object) -> EntropyCycles:
    policy = EntropyCycles(**options)
    policy.start(Plan(sparsity=sparsity, total_steps=total_steps, every=every))
    return policy


def run(
    policy: EntropyCycles | ACDC,
    until: int,
    *,
    entropy: float | None,
    on_off: float | None,
    start: int = 1,
) -> list[tuple[int, Decision]]:
    """Decide at every due step; entropy may be a function of the step."""
    made = []
    for step in range(start, until + 1):
        if policy.due(step):
            value = entropy(step) if callable(entropy) else entropy
            made.append((step, policy.decide(Reading(step=step, entropy=value, on_off=on_off))))
    return made


def changes(made: list[tuple[int, Decision]]) -> list[tuple[int, str]]:
    return [(step, decision.phase) for step, decision in made if depth(decision) or surge(decision)]


def falling(step: int) -> float:
    return 0.5 - 1e-4 * step


def rising(step: int) -> float:
    return 0.1 + 1e-4 * step


def in_sparse_phase(**options: object) -> EntropyCycles:
    policy = started(**options)
    run(policy, DENSE_END, entropy=0.5, on_off=0.8)
    assert policy.state_dict()["phase"] == "sparse"
    return policy


def in_open_phase(on_off: float = 0.8, **options: object) -> EntropyCycles:
    policy = in_sparse_phase(**options)
    run(policy, DENSE_END + NOMINAL, entropy=falling, on_off=on_off, start=DENSE_END + 1)
    assert policy.state_dict()["phase"] == "open"
    return policy


@pytest.mark.parametrize(("total_steps", "every"), [(4000, 50), (1010, 50), (417, 7), (1000, 1), (40, 1)])
def test_without_entropy_the_phases_are_those_of_the_fixed_cycles(total_steps: int, every: int) -> None:
    fixed = ACDC()
    fixed.start(Plan(sparsity=0.9, total_steps=total_steps, every=every))
    bounded = started(total_steps, every)
    assert changes(run(bounded, total_steps, entropy=None, on_off=None)) == changes(
        run(fixed, total_steps, entropy=None, on_off=None)
    )


@pytest.mark.parametrize("total_steps", [4000, 1010, 417])
def test_periodic_decides_word_for_word_as_the_fixed_cycles(total_steps: int) -> None:
    fixed = ACDC()
    fixed.start(Plan(sparsity=0.9, total_steps=total_steps, every=50))
    periodic = started(total_steps, periodic=True)
    for step in range(1, total_steps + 10):
        assert periodic.due(step) == fixed.due(step)
        if fixed.due(step):
            wild = {
                "entropy": (step * 37 % 100) / 100,
                "on_off": (step * 53 % 100) / 100,
                "finite": step % 7 != 0,
            }
            assert periodic.decide(Reading(step=step, **wild)) == fixed.decide(Reading(step=step, **wild))


def test_collapses_may_go_from_the_target_to_half_its_density_above_the_floor() -> None:
    policy = started()
    first = policy.decide(Reading(step=400, entropy=0.5, on_off=0.8))
    assert depth(first) == pytest.approx((0.9, 0.95))
    assert (first.find(Prune).floor, first.find(Prune).measure, first.find(Prune).keep_mask) == (0.4, "on_off", True)
    deeper = started(max_sparsity=0.99)
    assert depth(deeper.decide(Reading(step=400))) == (0.9, 0.99)


def test_a_sparse_phase_ends_early_and_pumps_once_the_measure_is_under_its_floor() -> None:
    policy = in_sparse_phase()
    made = run(policy, 600, entropy=0.5, on_off=0.39, start=401)
    assert changes(made)[0] == (DENSE_END + SHORTEST, "open")
    decision = dict(made)[500]
    assert decision.actions == (Regrow(0.5, growth="ema_gradient", regrow_init="zero"), SetNoise(0.05))
    assert decision.reason == "low entropy: on_off 0.390 is under its floor 0.4 after 100 steps of the sparse phase"


def test_a_sparse_phase_ends_at_its_nominal_length_without_a_pump_where_the_measure_is_fine() -> None:
    made = run(in_sparse_phase(), 700, entropy=falling, on_off=0.8, start=401)
    assert changes(made)[0] == (DENSE_END + NOMINAL, "open")
    assert noise(dict(made)[600]) is None
    assert dict(made)[600].reason == "sparse phase reached its nominal 200 steps"


def test_a_sparse_phase_goes_on_while_entropy_rises_but_not_beyond_its_longest() -> None:
    made = run(in_sparse_phase(), 900, entropy=rising, on_off=0.8, start=401)
    assert changes(made)[0] == (DENSE_END + LONGEST, "open")
    assert "goes on past its nominal 200 steps: entropy changes by" in dict(made)[600].reason
    assert dict(made)[800].reason == "sparse phase reached its longest after 400 steps"


def test_an_open_phase_ends_early_on_a_plateau() -> None:
    # Readings at 50, 100 and 150 steps into the phase: three are the least that show a trend.
    made = run(in_open_phase(), 900, entropy=0.4, on_off=0.8, start=601)
    assert changes(made)[0] == (750, "sparse")
    assert dict(made)[750].reason.startswith("plateau: entropy changes by 0.0000 per 10 readings")


def test_an_open_phase_ends_early_on_high_entropy_but_not_before_its_shortest() -> None:
    made = run(in_open_phase(), 900, entropy=lambda step: 0.9 + 1e-4 * (step - 600), on_off=0.8, start=601)
    assert changes(made)[0] == (600 + SHORTEST, "sparse")
    assert dict(made)[700].reason.startswith("high entropy: the phase's mean 0.907 is above 0.500")
    assert not dict(made)[650].acts


def test_the_lift_of_a_surge_alone_does_not_count_as_high() -> None:
    policy, reasons = started(total_steps=40_000), []
    for step in range(50, 40_001, 50):
        # Sparse phases lie far lower; open ones come back to the same level, wavering a little around it.
        sparse = policy.state_dict()["phase"] == "sparse"
        entropy = (0.3 if sparse else 0.5) + (0.01 if step // 50 % 2 else -0.01)
        reasons.append(policy.decide(Reading(step=step, entropy=entropy, on_off=0.8)).reason)
    assert not [reason for reason in reasons if "high entropy" in reason]


@pytest.mark.parametrize("seed", range(5))
def test_stationary_noise_is_never_high(seed: int) -> None:
    rng = random.Random(seed)
    made = run(started(total_steps=40_000), 40_000, entropy=lambda _: rng.gauss(0.5, 0.02), on_off=0.8)
    assert not [decision.reason for _, decision in made if "high entropy" in decision.reason]


def test_an_open_phase_ends_at_its_nominal_length() -> None:
    made = run(in_open_phase(), 900, entropy=falling, on_off=0.8, start=601)
    assert changes(made)[0] == (600 + NOMINAL, "sparse")


def test_an_open_phase_goes_on_while_the_measure_is_under_its_floor_but_not_beyond_its_longest() -> None:
    made = run(in_open_phase(), 1100, entropy=falling, on_off=0.3, start=601)
    assert changes(made)[0] == (600 + LONGEST, "sparse")
    assert "under its floor 0.4" in dict(made)[800].reason


def pumping() -> EntropyCycles:
    policy = in_sparse_phase()
    run(policy, 500, entropy=falling, on_off=0.3, start=401)
    assert policy.state_dict()["pumping"]
    return policy


def test_the_pump_stops_as_soon_as_the_measure_is_back() -> None:
    made = run(pumping(), 600, entropy=falling, on_off=0.4, start=501)
    assert [(step, noise(decision)) for step, decision in made] == [(550, 0.0), (600, None)]
    assert made[0][1].phase == "open"


def test_the_pump_stops_at_the_next_collapse_at_the_latest() -> None:
    made = run(pumping(), 900, entropy=falling, on_off=0.3, start=501)
    assert [(step, noise(decision)) for step, decision in made if decision.acts] == [(900, 0.0)]
    assert dict(made)[900].phase == "sparse"


def test_zero_sigma_means_no_pump() -> None:
    policy = in_sparse_phase(noise_std=0.0)
    assert all(noise(decision) is None for _, decision in run(policy, 3000, entropy=0.5, on_off=0.1, start=401))


def test_the_floor_may_bound_the_mean_activation_entropy_instead() -> None:
    policy = in_sparse_phase(measure="entropy", floor=0.55)
    made = run(policy, 500, entropy=0.5, on_off=0.9, start=401)
    assert "entropy 0.500 is under its floor 0.55" in dict(made)[500].reason


def test_the_last_surge_comes_at_75_percent_and_the_exact_final_mask_at_85() -> None:
    made = run(started(), T, entropy=falling, on_off=0.8)
    last = [(step, decision) for step, decision in made if depth(decision) or surge(decision)][-2:]
    assert [(step, decision.phase) for step, decision in last] == [(3000, "open"), (3400, "frozen")]
    freeze = last[1][1]
    assert (depth(freeze), freezes(freeze), noise(freeze)) == (0.9, True, 0.0)


def test_no_sparse_phase_begins_that_could_not_last_its_shortest_before_the_last_surge() -> None:
    policy = started()
    policy.decide(Reading(step=400))
    for step in range(450, 2900, 50):
        policy.decide(Reading(step=step))
    policy.load_state_dict({**policy.state_dict(), "phase": "open", "since": 2550.0})
    late = policy.decide(Reading(step=2950))
    assert not late.acts
    assert "too late for a sparse phase before step 3000" in late.reason


def test_a_skipped_change_of_phase_is_made_at_the_next_reading() -> None:
    policy = in_sparse_phase()
    assert not policy.decide(Reading(step=600, entropy=0.5, on_off=0.8, finite=False)).acts
    assert surge(policy.decide(Reading(step=650, entropy=0.5, on_off=0.8))) == 0.5
    assert policy.state_dict()["since"] == 650.0


def test_a_coarse_cadence_warns_once_and_adds_readings_at_fixed_steps(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING, logger="surgecollapse"):
        policy = started(total_steps=1000, every=100)
        due = [step for step in range(1, 1001) if policy.due(step)]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "longer than the shortest phase (25 steps)" in caplog.text
    assert set(range(100, 751, 25)) <= set(due)
    assert [step for step in due if step > 750] == [800, 850, 900, 1000]


def test_a_fine_cadence_does_not_warn(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="surgecollapse"):
        started()
    assert not caplog.records


def test_a_state_of_the_other_form_is_refused() -> None:
    with pytest.raises(ValueError, match="periodic"):
        started(periodic=True).load_state_dict(started().state_dict())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"shortest": 0.06}, "shortest <= phase <= longest"),
        ({"longest": 0.01}, "shortest <= phase <= longest"),
        ({"max_sparsity": 1.0}, "max_sparsity"),
        ({"floor": 1.1}, "floor"),
        ({"measure": "energy"}, "on_off, entropy"),
        ({"surge": 0.0}, "surge"),
        ({"growth": "best"}, "ema_gradient"),
        ({"regrow_init": "one"}, "zero, noise, last"),
        ({"noise_std": -0.1}, "noise_std"),
        ({"plateau": -1.0}, "plateau"),
        ({"window": 0}, "window"),
        ({"cycles_until": 0.9}, "cycles_until"),
    ],
)
def test_options_out_of_range_are_refused_with_what_is_expected(options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        EntropyCycles(**options)


def test_a_deepest_collapse_shallower_than_the_target_is_refused_at_the_start() -> None:
    with pytest.raises(ValueError, match="give at least the target"):
        started(max_sparsity=0.8)
