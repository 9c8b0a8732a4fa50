"""What holds for policies whatever the readings are."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from actions import depth, freezes, noise, surge
from surgecollapse.events import Decision, Plan, Reading, Regrow
from surgecollapse.policies import ACDC, EntropyCycles, EntropyThresholds, FixedInterval
from surgecollapse.policies.schedule import to_step

unit = st.none() | st.floats(0.0, 1.0)
rows = st.tuples(unit, unit, st.sampled_from([True, True, True, False]))


def simulate(
    policy: Any, plan: Plan, values: list[tuple[float | None, float | None, bool]]
) -> list[tuple[int, Reading, Decision]]:
    """Run a policy over the whole plan, with the sparsity it leads to; values are cycled through."""
    policy.start(plan)
    sparsity, made = 0.0, []
    for step in range(1, plan.total_steps + 1):
        if not policy.due(step):
            continue
        entropy, on_off, finite = values[len(made) % len(values)]
        reading = Reading(step=step, entropy=entropy, on_off=on_off, finite=finite, sparsity=sparsity)
        decision = policy.decide(reading)
        made.append((step, reading, decision))
        before = sparsity
        if depth(decision) is not None:
            sparsity = depth(decision) if isinstance(depth(decision), float) else depth(decision)[1]
        if surge(decision) is not None:
            closed = sparsity - before if decision.find(Regrow).source == "collapsed" else sparsity
            sparsity -= surge(decision) * max(closed, 0.0)
    return made


plans = st.builds(
    Plan,
    sparsity=st.floats(0.0, 0.99),
    total_steps=st.integers(40, 600),
    every=st.integers(1, 60),
)


@settings(max_examples=60)
@given(plan=plans, values=st.lists(rows, min_size=1, max_size=40))
def test_bounded_cycles_keep_their_bounds(plan: Plan, values: list[tuple[float | None, float | None, bool]]) -> None:
    policy = EntropyCycles()
    made = simulate(policy, plan, values)
    total = plan.total_steps
    phase, since, pump = "dense", 0, 0.0
    for step, reading, decision in made:
        if not reading.finite:
            assert not decision.acts
            continue
        if noise(decision) is not None:
            pump = noise(decision)
        if decision.phase != phase:
            # One step for the two roundings of a boundary. The last surge and the freeze come at fixed times.
            if phase != "dense" and decision.phase != "frozen" and step < 0.75 * total - 1:
                assert step - since >= 0.025 * total - 1
            phase, since = decision.phase, step
        if surge(decision) is not None:
            assert decision.phase == "open"
        if isinstance(depth(decision), tuple):
            assert plan.sparsity == depth(decision)[0] <= depth(decision)[1] < 1.0
            assert 0.1 * total - 1 <= step < 0.75 * total
        assert pump in ((0.0, 0.05) if phase == "open" else (0.0,))
    froze = [step for step, _, decision in made if freezes(decision)]
    allowed = [step for step, reading, _ in made if reading.finite and step >= to_step(0.85 * total)]
    assert froze == allowed[:1]
    assert not any(decision.acts for step, _, decision in made if froze and step > froze[0])


@settings(max_examples=60)
@given(
    plan=plans,
    values=st.lists(rows, min_size=1, max_size=40),
    dwell=st.integers(1, 6),
    cooldown=st.integers(1, 6),
)
def test_rules_keep_depth_noise_and_spacing_in_bounds(
    plan: Plan, values: list[tuple[float | None, float | None, bool]], dwell: int, cooldown: int
) -> None:
    policy = EntropyThresholds(window=10, dwell=dwell, cooldown=cooldown)
    heard, last = 0, None
    for _, reading, decision in simulate(policy, plan, values):
        if freezes(decision):
            assert (depth(decision), noise(decision)) == (plan.sparsity, 0.0)
            break
        heard += reading.finite and reading.entropy is not None
        if noise(decision) is not None:
            assert 0.0 <= noise(decision) <= 0.2
        if depth(decision) is not None:
            live = 1.0 - reading.sparsity
            assert reading.sparsity < depth(decision) <= plan.sparsity
            assert depth(decision) - reading.sparsity <= 0.1 * live + 1e-12
            assert last is None or heard - last >= min(dwell, cooldown)
        if decision.acts:
            last = heard


@settings(max_examples=60)
@given(plan=plans, values=st.lists(rows, min_size=1, max_size=40))
def test_periodic_bounded_cycles_are_the_fixed_cycles(
    plan: Plan, values: list[tuple[float | None, float | None, bool]]
) -> None:
    assert simulate(EntropyCycles(periodic=True), plan, values) == simulate(ACDC(), plan, values)


@settings(max_examples=60)
@given(plan=plans)
def test_bounded_cycles_without_entropy_change_phase_where_the_fixed_cycles_do(plan: Plan) -> None:
    def phases(policy: Any) -> list[tuple[int, str]]:
        made = simulate(policy, plan, [(None, None, True)])
        return [(step, decision.phase) for step, _, decision in made if depth(decision) is not None or surge(decision)]

    assert phases(EntropyCycles()) == phases(ACDC())


@settings(max_examples=60)
@given(
    every=st.integers(1, 50),
    surge_every=st.integers(1, 50),
    skipped=st.sets(st.integers(1, 300)),
)
def test_intervals_leave_no_collapse_unmade_past_the_next_one_that_is_due(
    every: int, surge_every: int, skipped: set[int]
) -> None:
    policy = FixedInterval(collapse_every=every, surge_every=surge_every)
    policy.start(Plan(sparsity=0.5, total_steps=300, every=10))
    pending = False
    for step in range(1, 301):
        if not policy.due(step):
            continue
        pending = pending or step % every == 0
        decision = policy.decide(Reading(step=step, finite=step not in skipped))
        if step in skipped:
            assert not decision.acts
        else:
            assert (depth(decision) is not None) == pending
            pending = False
