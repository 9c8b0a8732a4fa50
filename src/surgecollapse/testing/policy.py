"""What every policy must do, whatever it decides."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

from surgecollapse.events import Plan, Reading, from_dict, to_dict
from surgecollapse.protocols import Policy

Make = Callable[[], Policy]
"""Makes a new policy, not started."""

STEPS = 400
PLAN = Plan(sparsity=0.8, total_steps=STEPS, every=5)
"""Under which policies are checked."""
PHASES = ("dense", "sparse", "open", "pump", "frozen")
_SEEDS = range(4)


def check_policy(make: Make) -> None:
    """Check a policy against the protocol: sound decisions, bitwise resume, level-triggered, pure ``due``.

    Args:
        make: makes a new policy that acts within 400 steps; a class without required arguments will do.

    Raises:
        AssertionError: for the first claim that does not hold.

    >>> from surgecollapse.policies import RigL
    >>> check_policy(RigL)
    """
    for check in POLICY_CHECKS:
        check(make)


def keeps_the_protocol(make: Make) -> None:
    """It has start, due, decide, state_dict and load_state_dict."""
    assert isinstance(make(), Policy), f"expected start, due, decide, state_dict, load_state_dict; got {make()!r}"


def due_is_pure(make: Make) -> None:
    """Asking ``due`` changes nothing, and some step of the run is due; step 0 is not."""
    policy = _started(make)
    state = _plain(policy.state_dict())
    first = _due(policy)
    assert first, f"no step of {STEPS} is due"
    assert _due(policy) == first, "due() answers differently when it is asked again"
    assert _plain(policy.state_dict()) == state, "due() changes the state"
    assert not policy.due(0), "step 0 is due: set from_start = True to decide before the first step"


def decisions_are_sound(make: Make) -> None:
    """Each has a known phase and a reason in words, and survives the wire format."""
    for seed in _SEEDS:
        policy = _started(make)
        for reading in _readings(seed, _due(policy)):
            decision = policy.decide(reading)
            assert decision.phase in PHASES, f"unknown phase {decision.phase!r}: expected one of {', '.join(PHASES)}"
            assert len(decision.reason) > 10, f"expected a reason in words, got {decision.reason!r}"
            assert "nan" not in decision.reason.lower(), f"the reason has a NaN: {decision.reason!r}"
            wire = json.loads(json.dumps(to_dict(decision)))
            assert from_dict(wire) == decision, f"the decision does not survive its record: {decision}"


def resumes_exactly(make: Make) -> None:
    """A state that went through JSON gives the same further decisions, and is a snapshot."""
    for seed in _SEEDS:
        policy = _started(make)
        readings = _readings(seed, _due(policy))
        cut = random.Random(seed + 1000).randrange(len(readings))
        for reading in readings[:cut]:
            policy.decide(reading)
        state = policy.state_dict()
        wire = json.dumps(state, allow_nan=False)
        resumed = _started(make)
        resumed.load_state_dict(json.loads(wire))
        assert _plain(resumed.state_dict()) == _plain(state), "the loaded state is another than the saved one"
        for reading in readings[cut:]:
            assert resumed.due(reading.step) == policy.due(reading.step), f"due({reading.step}) differs after a resume"
            wanted, found = policy.decide(reading), resumed.decide(reading)
            assert found == wanted, f"after a resume at reading {cut}: {found}, expected {wanted}"
        assert json.dumps(state) == json.dumps(json.loads(wire)), "a saved state changes with further decisions"


def start_forgets(make: Make) -> None:
    """Started again, it decides as the first time."""
    policy = _started(make)
    readings = _readings(5, _due(policy))
    first = [policy.decide(reading) for reading in readings]
    policy.start(PLAN)
    assert [policy.decide(reading) for reading in readings] == first, "start() does not forget the earlier run"


def nothing_after_the_end(make: Make) -> None:
    """After the last step of the plan nothing is decided, and the state stays."""
    policy = _started(make)
    for reading in _readings(0, _due(policy)):
        policy.decide(reading)
    state = _plain(policy.state_dict())
    for step in filter(policy.due, range(STEPS + 1, 3 * STEPS)):
        decision = policy.decide(Reading(step=step, entropy=0.99, on_off=0.01))
        assert not decision.acts, f"it acts at step {step} of {STEPS}: {decision.reason}"
    assert _plain(policy.state_dict()) == state, "its state changes after the end"


def skipped_decisions_are_made_up_for(make: Make) -> None:
    """What falls on a step that is not finite is not done, and is done at the next reading.

    A policy that never acts passes.
    """
    policy = _started(make)
    # Entropy falls far below any limit: a policy that listens acts at some reading, for a lasting reason.
    readings = [Reading(step=step, entropy=0.9 / (1 + step), on_off=0.2, sparsity=0.3) for step in _due(policy)]
    for index, reading in enumerate(readings[:-1]):
        state = _plain(policy.state_dict())
        wanted = policy.decide(reading)
        if not wanted.acts:
            continue
        late = _started(make)
        late.load_state_dict(state)
        skipped = late.decide(Reading(step=reading.step, entropy=0.5, on_off=0.2, sparsity=0.3, finite=False))
        assert not skipped.acts, f"it acts on a step that is not finite: {skipped.reason}"
        assert _plain(late.state_dict()) == state, "a step that is not finite changes the state"
        made = late.decide(readings[index + 1])
        kinds = {type(action) for action in made.actions}
        missing = [action for action in wanted.actions if type(action) not in kinds]
        assert not missing, f"skipped at step {reading.step} and not made up for: {missing}"
        return


def impossible_plans_are_refused(make: Make) -> None:
    """``start`` raises ``ValueError`` for a plan out of range."""
    for wrong in ({"sparsity": 1.0}, {"every": 0}, {"total_steps": 0}):
        values: dict[str, Any] = {"sparsity": 0.5, "total_steps": STEPS, "every": 5, **wrong}
        try:
            make().start(Plan(**values))
        except ValueError:
            continue
        raise AssertionError(f"start() takes a plan with {wrong}: expected a ValueError")


def foreign_states_are_refused(make: Make) -> None:
    """``load_state_dict`` raises ``ValueError`` for a state without its entries; a policy without state passes."""
    policy = _started(make)
    for foreign in ({"policy": "Another"}, {}):
        if not set(policy.state_dict()) - set(foreign) and foreign.get("policy") == policy.state_dict().get("policy"):
            continue
        try:
            policy.load_state_dict(dict(foreign))
        except (ValueError, KeyError):
            continue
        raise AssertionError(f"load_state_dict() takes {foreign}: expected a ValueError")


POLICY_CHECKS: tuple[Callable[[Make], None], ...] = (
    keeps_the_protocol,
    due_is_pure,
    decisions_are_sound,
    resumes_exactly,
    start_forgets,
    nothing_after_the_end,
    skipped_decisions_are_made_up_for,
    impossible_plans_are_refused,
    foreign_states_are_refused,
)
"""The claims, each a function of what makes the policy."""


def _started(make: Make) -> Policy:
    policy = make()
    policy.start(PLAN)
    return policy


def _due(policy: Policy) -> list[int]:
    return [step for step in range(1, STEPS + 1) if policy.due(step)]


def _plain(state: dict[str, Any]) -> Any:
    return json.loads(json.dumps(state, allow_nan=False))


def _readings(seed: int, steps: list[int]) -> list[Reading]:
    """Random walks of entropy with gaps and steps that are not finite; the same for the same seed."""
    rng = random.Random(seed)
    entropy, on_off, made = 0.5, 0.6, []
    for step in steps:
        entropy = min(max(entropy + rng.gauss(0.0, 0.08), 0.0), 1.0)
        on_off = min(max(on_off + rng.gauss(0.0, 0.1), 0.0), 1.0)
        made.append(
            Reading(
                step=step,
                entropy=None if rng.random() < 0.05 else entropy,
                on_off=on_off,
                sparsity=rng.random() * 0.8,
                finite=rng.random() > 0.05,
            )
        )
    return made
