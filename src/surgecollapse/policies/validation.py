"""What every policy checks: its options, its plan, its state, and when nothing may be decided."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from surgecollapse.events import Decision, Plan, Reading
from surgecollapse.policies.version_01 import state_of


def fraction(name: str, value: float, *, zero: bool = True, one: bool = True) -> None:
    """Check that an option lies between 0 and 1.

    Args:
        name: the option, as the caller wrote it.
        value: what was given.
        zero: whether exactly 0 is allowed.
        one: whether exactly 1 is allowed.

    Raises:
        ValueError: if it does not, or is not finite.

    >>> fraction("sparsity", 1.0, one=False)
    Traceback (most recent call last):
    ...
    ValueError: sparsity must be in [0, 1), got 1.0
    """
    if 0.0 < value < 1.0 or (zero and value == 0.0) or (one and value == 1.0):
        return
    raise ValueError(f"{name} must be in {'[' if zero else '('}0, 1{']' if one else ')'}, got {value!r}")


def whole(name: str, value: int, *, least: int = 1) -> None:
    """Check that an option is a whole number of at least ``least``.

    Raises:
        ValueError: if it is not.

    >>> whole("window", 0)
    Traceback (most recent call last):
    ...
    ValueError: window must be a whole number of at least 1, got 0
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")


def not_negative(name: str, value: float) -> None:
    """Check that an option is finite and at least 0.

    Raises:
        ValueError: if it is not.

    >>> not_negative("recovery", -0.1)
    Traceback (most recent call last):
    ...
    ValueError: recovery must be finite and at least 0, got -0.1
    """
    if not math.isfinite(value) or value < 0.0:
        raise ValueError(f"{name} must be finite and at least 0, got {value!r}")


def known(value: float | None) -> float | None:
    """Return a value that can be reckoned with, ``None`` for a missing or non-finite one.

    A NaN let into a moving average would stay there for good.

    >>> known(0.5), known(float("nan")), known(None)
    (0.5, None, None)
    """
    return value if value is not None and math.isfinite(value) else None


def check_plan(plan: Plan, *, owner: str, scheduled: bool) -> None:
    """Check a plan before a policy follows it.

    Args:
        plan: what the policy is told.
        owner: the policy's class name, for the message.
        scheduled: whether the policy cannot work without ``total_steps``.

    Raises:
        ValueError: if the plan is out of range, or lacks ``total_steps`` where that is needed.
    """
    fraction("sparsity", plan.sparsity, one=False)
    whole("every", plan.every)
    if plan.total_steps is not None:
        whole("total_steps", plan.total_steps)
    elif scheduled:
        raise ValueError(
            f"{owner} follows a schedule over the whole run and needs total_steps, got None: pass "
            "total_steps=<optimizer steps of the run>, or choose policy 'entropy_thresholds' or 'fixed_interval'"
        )


def started(plan: Plan | None, *, owner: str) -> Plan:
    """Return the plan, or say that there is none yet.

    Raises:
        RuntimeError: if the policy was asked before ``start(plan)``.
    """
    if plan is None:
        raise RuntimeError(f"{owner} has no plan yet: call start(plan) before due() and decide()")
    return plan


def check_state(state: Mapping[str, Any], *, owner: str, keys: Iterable[str]) -> dict[str, Any]:
    """Check that a state was written by the same kind of policy.

    Returns:
        The state, in the words of this version.

    Raises:
        ValueError: if it was written by another policy, or entries are missing.
    """
    state = state_of(state)
    if state.get("policy") != owner:
        raise ValueError(
            f"expected a state of {owner}, got one of {state.get('policy')!r}: resume with the policy of the checkpoint"
        )
    missing = sorted(set(keys) - set(state))
    if missing:
        raise ValueError(f"the state of {owner} lacks {', '.join(missing)}: the checkpoint is damaged or foreign")
    return state


def pause(reading: Reading, plan: Plan, phase: str) -> Decision | None:
    """Say when nothing may be decided: on non-finite gradients, and after the end of the run.

    The policy's state must stay as it is then, so that what was due is made up for at the next reading.

    Returns:
        A decision that does nothing, or ``None`` where the policy is free to decide.

    >>> plan = Plan(sparsity=0.9, total_steps=100, every=10)
    >>> pause(Reading(step=110), plan, "frozen").reason
    'step 110 is past total_steps (100): nothing more is decided'
    """
    if not reading.finite:
        reason = f"skipped: loss or gradients are not finite at step {reading.step}; decided at the next reading"
        return Decision(phase=phase, reason=reason)
    if plan.total_steps is not None and reading.step > plan.total_steps:
        reason = f"step {reading.step} is past total_steps ({plan.total_steps}): nothing more is decided"
        return Decision(phase=phase, reason=reason)
    return None
