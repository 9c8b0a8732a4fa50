"""What every named policy must do. A new member of ``POLICIES`` is bound by this without further ado."""

from __future__ import annotations

import subprocess
import sys
from functools import partial

import pytest

from surgecollapse.events import Decision, Plan, Prune, Reading
from surgecollapse.policies import POLICIES, NoOp, make_policy
from surgecollapse.policies.base import BasePolicy
from surgecollapse.testing import POLICY_CHECKS, check_policy

NAMES = sorted(POLICIES)
OPTIONS = {"redo": {"interval": 20}}
"""Where a policy would not act at all within the checks' 400 steps."""


@pytest.mark.parametrize("check", POLICY_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", NAMES)
def test_it_does_what_every_policy_must(name: str, check) -> None:
    check(partial(make_policy, name, **OPTIONS.get(name, {})))


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"no_op"}))
def test_it_acts(name: str) -> None:
    policy = make_policy(name, **OPTIONS.get(name, {}))
    policy.start(Plan(sparsity=0.8, total_steps=400, every=5))
    steps = filter(policy.due, range(1, 401))
    readings = [Reading(step=step, entropy=0.9 / (1 + step), on_off=0.2) for step in steps]
    assert any(policy.decide(reading).acts for reading in readings)


class Impatient(NoOp):
    """Breaks one promise at a time."""

    def _act(self, reading: Reading) -> Decision:
        return Decision(phase="sparse", reason=f"always at step {reading.step}", actions=(Prune(0.5),))


class Late(Impatient):
    def decide(self, reading: Reading) -> Decision:
        return self._act(reading)


class Mute(NoOp):
    def _act(self, reading: Reading) -> Decision:
        return Decision(phase="sparse", reason="")


class Strange(NoOp):
    def _act(self, reading: Reading) -> Decision:
        return Decision(phase="melted", reason="a phase of its own")


class Forgetful(Impatient):
    """Remembers how often it was asked, and does not save it."""

    calls = 0

    def _act(self, reading: Reading) -> Decision:
        type(self).calls += 1
        return Decision(phase="sparse", reason=f"call number {self.calls} so far", actions=(Prune(0.5),))


class Restless(NoOp):
    def due(self, step: int) -> bool:
        self._state.phase = f"asked for {step}"
        return step > 0


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (Late, "acts at step|not finite"),
        (Mute, "expected a reason in words"),
        (Strange, "unknown phase 'melted'"),
        (Forgetful, "after a resume"),
        (Restless, "changes the state"),
        (object, "expected start, due"),
    ],
)
def test_what_breaks_the_contract_is_found(broken: type, words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        check_policy(broken)


@pytest.mark.parametrize("name", NAMES)
def test_a_foreign_or_damaged_state_is_refused_with_what_to_do(name: str) -> None:
    policy = make_policy(name)
    policy.start(Plan(sparsity=0.8, total_steps=400, every=5))
    with pytest.raises(ValueError, match="expected a state of"):
        policy.load_state_dict({"policy": "Another"})
    state = policy.state_dict()
    del state["policy"]
    with pytest.raises(ValueError, match="resume with the policy"):
        policy.load_state_dict(state)


@pytest.mark.parametrize("name", NAMES)
def test_only_one_object_of_a_policy_changes(name: str) -> None:
    policy = make_policy(name)
    assert isinstance(policy, BasePolicy)
    before = {field: repr(value) for field, value in vars(policy).items() if not field.startswith("_")}
    policy.start(Plan(sparsity=0.8, total_steps=400, every=5))
    state = policy._state
    for step in filter(policy.due, range(1, 401)):
        policy.decide(Reading(step=step, entropy=0.5, on_off=0.2))
    assert policy._state is state
    assert {field: repr(value) for field, value in vars(policy).items() if not field.startswith("_")} == before


@pytest.mark.parametrize("name", NAMES)
def test_options_cannot_be_changed_afterwards_and_are_shown(name: str) -> None:
    policy = make_policy(name)
    with pytest.raises(AttributeError):
        policy.sparsity = 0.1
    assert repr(policy).startswith(type(policy).__name__ + "(")
    assert "_state" not in repr(policy)


def test_deciding_never_imports_torch() -> None:
    code = "import sys, surgecollapse.policies; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_an_unknown_name_lists_the_valid_ones_and_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"acdc, cyclic_pruning, cyclical_pruning.*Did you mean 'acdc'"):
        make_policy("acd")


def test_an_unknown_option_lists_the_valid_ones_and_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"option of policy 'entropy_cycles' 'shortes'.*Did you mean 'shortest'"):
        make_policy("entropy_cycles", shortes=0.1)
    with pytest.raises(ValueError, match="expected none"):
        make_policy("no_op", every=3)


def test_a_policy_object_is_returned_as_it_is_and_takes_no_options() -> None:
    policy = NoOp()
    assert make_policy(policy) is policy
    with pytest.raises(ValueError, match="constructor of NoOp"):
        make_policy(policy, floor=0.3)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [(NoOp, r"the class NoOp: write policy=NoOp\(\)"), (3, "policy must be a name"), (None, "policy must be a name")],
)
def test_what_is_no_policy_is_refused(wrong: object, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        make_policy(wrong)
