"""What holds for policies whatever the readings are."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from surgecollapse.events import Decision, Plan, Reading
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
        if decision.depth is not None:
            sparsity = decision.depth if isinstance(decision.depth, float) else decision.depth[1]
        if decision.surge is not None:
            closed = sparsity - before if decision.reopen == "collapsed" else sparsity
            sparsity -= decision.surge * max(closed, 0.0)
    return made


plans = st.builds(
    Plan,
    sparsity=st.floats(0.0, 0.99),
    total_steps=st.integers(40, 600),
    every=st.integers(1, 60),
)


@settings(max_examples=60, deadline=None)
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
        if decision.pump is not None:
            pump = decision.pump
        if decision.phase != phase:
            # One step for the two roundings of a boundary. The last surge and the freeze come at fixed times.
            if phase != "dense" and decision.phase != "frozen" and step < 0.75 * total - 1:
                assert step - since >= 0.025 * total - 1
            phase, since = decision.phase, step
        if decision.surge is not None:
            assert decision.phase == "open"
        if isinstance(decision.depth, tuple):
            assert plan.sparsity == decision.depth[0] <= decision.depth[1] < 1.0
            assert 0.1 * total - 1 <= step < 0.75 * total
        assert pump in ((0.0, 0.05) if phase == "open" else (0.0,))
    froze = [step for step, _, decision in made if decision.freeze]
    allowed = [step for step, reading, _ in made if reading.finite and step >= to_step(0.85 * total)]
    assert froze == allowed[:1]
    assert not any(decision.acts for step, _, decision in made if froze and step > froze[0])


@settings(max_examples=60, deadline=None)
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
        if decision.freeze:
            assert (decision.depth, decision.pump) == (plan.sparsity, 0.0)
            break
        heard += reading.finite and reading.entropy is not None
        if decision.pump is not None:
            assert 0.0 <= decision.pump <= 0.2
        if decision.depth is not None:
            live = 1.0 - reading.sparsity
            assert reading.sparsity < decision.depth <= plan.sparsity
            assert decision.depth - reading.sparsity <= 0.1 * live + 1e-12
            assert last is None or heard - last >= min(dwell, cooldown)
        if decision.acts:
            last = heard


@settings(max_examples=60, deadline=None)
@given(plan=plans, values=st.lists(rows, min_size=1, max_size=40))
def test_periodic_bounded_cycles_are_the_fixed_cycles(
    plan: Plan, values: list[tuple[float | None, float | None, bool]]
) -> None:
    assert simulate(EntropyCycles(periodic=True), plan, values) == simulate(ACDC(), plan, values)


@settings(max_examples=60, deadline=None)
@given(plan=plans)
def test_bounded_cycles_without_entropy_change_phase_where_the_fixed_cycles_do(plan: Plan) -> None:
    def phases(policy: Any) -> list[tuple[int, str]]:
        made = simulate(policy, plan, [(None, None, True)])
        return [(step, decision.phase) for step, _, decision in made if decision.depth is not None or decision.surge]

    assert phases(EntropyCycles()) == phases(ACDC())


@settings(max_examples=60, deadline=None)
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
            assert (decision.depth is not None) == pending
            pending = False
