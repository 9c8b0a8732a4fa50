"""What every named policy must do. A new member of ``POLICIES`` is bound by this without further ado."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys

import pytest

from surgecollapse.events import Plan, Reading, from_dict, to_dict
from surgecollapse.policies import POLICIES, NoOp, make_policy
from surgecollapse.protocols import Policy

T = 400
PLAN = Plan(sparsity=0.8, total_steps=T, every=5)
NAMES = sorted(POLICIES)
OPTIONS = {"redo": {"interval": 20}}
"""Where a policy would not act at all within ``T`` steps."""
PHASES = {"dense", "sparse", "open", "pump", "hold", "frozen"}


def readings(seed: int, steps: list[int], *, missing: bool = True) -> list[Reading]:
    """Random walks of entropy with gaps and non-finite steps; the same for the same seed."""
    rng = random.Random(seed)
    entropy, on_off, made = 0.5, 0.6, []
    for step in steps:
        entropy = min(max(entropy + rng.gauss(0.0, 0.08), 0.0), 1.0)
        on_off = min(max(on_off + rng.gauss(0.0, 0.1), 0.0), 1.0)
        gap = missing and rng.random() < 0.05
        made.append(
            Reading(
                step=step,
                entropy=None if gap else entropy,
                on_off=on_off,
                sparsity=rng.random() * 0.8,
                finite=not missing or rng.random() > 0.05,
            )
        )
    return made


def started(name: str, plan: Plan = PLAN) -> Policy:
    policy = make_policy(name, **OPTIONS.get(name, {}))
    policy.start(plan)
    return policy


def due_steps(policy: Policy, until: int = T) -> list[int]:
    return [step for step in range(1, until + 1) if policy.due(step)]


@pytest.mark.parametrize("name", NAMES)
def test_it_satisfies_the_protocol(name: str) -> None:
    assert isinstance(make_policy(name), Policy)
    assert isinstance(make_policy(name), POLICIES[name])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", range(8))
def test_a_state_saved_at_a_random_point_gives_the_same_further_decisions(name: str, seed: int) -> None:
    policy = started(name)
    sequence = readings(seed, due_steps(policy))
    cut = random.Random(seed + 1000).randrange(len(sequence))
    for reading in sequence[:cut]:
        policy.decide(reading)
    wire = json.dumps(policy.state_dict(), allow_nan=False)
    resumed = started(name)
    resumed.load_state_dict(json.loads(wire))
    assert resumed.state_dict() == policy.state_dict()
    for reading in sequence[cut:]:
        assert resumed.due(reading.step) == policy.due(reading.step)
        assert resumed.decide(reading) == policy.decide(reading)
    assert resumed.state_dict() == policy.state_dict()


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_state_is_not_changed_by_further_decisions(name: str) -> None:
    policy = started(name)
    sequence = readings(3, due_steps(policy))
    half = len(sequence) // 2
    for reading in sequence[:half]:
        policy.decide(reading)
    state = policy.state_dict()
    before = json.dumps(state)
    for reading in sequence[half:]:
        policy.decide(reading)
    assert json.dumps(state) == before


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", range(4))
def test_every_decision_is_sound_and_carries_its_reason(name: str, seed: int) -> None:
    policy = started(name)
    for reading in readings(seed, due_steps(policy)):
        decision = policy.decide(reading)
        assert len(decision.reason) > 10
        assert "nan" not in decision.reason.lower()
        assert decision.phase in PHASES
        depths = decision.depth if isinstance(decision.depth, tuple) else (decision.depth or 0.0,)
        assert all(0.0 <= depth < 1.0 for depth in depths)
        assert decision.surge is None or 0.0 < decision.surge <= 1.0
        assert decision.pump is None or (math.isfinite(decision.pump) and decision.pump >= 0.0)
        assert from_dict(json.loads(json.dumps(to_dict(decision)))) == decision


@pytest.mark.parametrize("name", NAMES)
def test_it_holds_after_the_end(name: str) -> None:
    policy = started(name)
    for reading in readings(0, due_steps(policy)):
        policy.decide(reading)
    state = policy.state_dict()
    for step in range(T + 1, 3 * T):
        if policy.due(step):
            assert not policy.decide(Reading(step=step, entropy=0.99, on_off=0.01)).acts
    assert policy.state_dict() == state


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"hold"}))
def test_a_decision_skipped_on_a_non_finite_step_is_made_at_the_next(name: str) -> None:
    policy = started(name)
    # Entropy falls far below any limit: every policy acts at some reading, for a lasting reason.
    sequence = [Reading(step=step, entropy=0.9 / (1 + step), on_off=0.2, sparsity=0.3) for step in due_steps(policy)]
    for index, reading in enumerate(sequence):
        state = json.loads(json.dumps(policy.state_dict()))
        wanted = policy.decide(reading)
        if not wanted.acts:
            continue
        late = started(name)
        late.load_state_dict(state)
        skipped = late.decide(Reading(step=reading.step, entropy=0.5, on_off=0.2, sparsity=0.3, finite=False))
        assert not skipped.acts
        assert "not finite" in skipped.reason
        assert late.state_dict() == state
        made = late.decide(sequence[index + 1])
        # More may fall due meanwhile (the classic rule's surge, a gradual schedule's next depth), never less.
        for name_of_part in ("depth", "surge", "recycle", "pump"):
            part = getattr(wanted, name_of_part)
            assert part is None or getattr(made, name_of_part) >= part
        return
    pytest.fail("the policy never acted")


@pytest.mark.parametrize("name", NAMES)
def test_due_is_pure(name: str) -> None:
    policy = started(name)
    state = policy.state_dict()
    first = due_steps(policy)
    assert due_steps(policy) == first
    assert policy.state_dict() == state
    assert first
    assert not policy.due(0)


@pytest.mark.parametrize("name", NAMES)
def test_starting_again_forgets_the_earlier_run(name: str) -> None:
    policy = started(name)
    sequence = readings(5, due_steps(policy))
    first = [policy.decide(reading) for reading in sequence]
    policy.start(PLAN)
    assert [policy.decide(reading) for reading in sequence] == first


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (Plan(sparsity=1.0, total_steps=T, every=5), "sparsity"),
        (Plan(sparsity=0.5, total_steps=T, every=0), "every"),
        (Plan(sparsity=0.5, total_steps=0, every=5), "total_steps"),
    ],
)
def test_an_impossible_plan_is_refused(name: str, plan: Plan, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make_policy(name).start(plan)


@pytest.mark.parametrize("name", NAMES)
def test_a_foreign_or_damaged_state_is_refused(name: str) -> None:
    policy = started(name)
    with pytest.raises(ValueError, match="expected a state of"):
        policy.load_state_dict({"policy": "Another"})
    state = policy.state_dict()
    del state["policy"]
    with pytest.raises(ValueError, match="resume with the policy"):
        policy.load_state_dict(state)


@pytest.mark.parametrize("name", NAMES)
def test_options_cannot_be_changed_afterwards_and_are_shown(name: str) -> None:
    policy = make_policy(name)
    with pytest.raises(AttributeError):
        policy.sparsity = 0.1
    assert repr(policy).startswith(type(policy).__name__ + "(")
    assert "_run" not in repr(policy)


def test_deciding_never_imports_torch() -> None:
    code = "import sys, surgecollapse.policies; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_an_unknown_name_lists_the_valid_ones_and_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"classic, rules, cycles, entropy, waves, hold.*Did you mean 'cycles'"):
        make_policy("cycle")


def test_an_unknown_option_lists_the_valid_ones_and_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"option of policy 'entropy' 'shortes'.*Did you mean 'shortest'"):
        make_policy("entropy", shortes=0.1)
    with pytest.raises(ValueError, match="it has none"):
        make_policy("hold", every=3)


def test_a_policy_object_is_returned_as_it_is_and_takes_no_options() -> None:
    policy = NoOp()
    assert make_policy(policy) is policy
    with pytest.raises(ValueError, match="constructor of NoOp"):
        make_policy(policy, floor=0.3)


@pytest.mark.parametrize("wrong", [NoOp, 3, None])
def test_what_is_no_policy_is_refused(wrong: object) -> None:
    with pytest.raises(TypeError, match="policy must be a name"):
        make_policy(wrong)
