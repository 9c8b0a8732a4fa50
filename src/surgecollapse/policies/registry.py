"""The policies by name. A new policy is a new file in this package, with ``@policy("its-name")``."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from inspect import signature
from typing import Any

from surgecollapse.errors import unknown
from surgecollapse.plugins import Registry, fitting
from surgecollapse.protocols import Policy

policy: Registry[type[Policy]] = Registry("policies", "policy", "surgecollapse.policies")
"""Decorator that gives a policy its name, and the mapping of all named ones."""
POLICIES = policy
"""The policies that have a name, on the command line and in ``attach(policy=...)``."""


def make_policy(policy: str | Policy, **options: Any) -> Policy:
    """Turn a name with options, or a policy object, into a policy.

    Args:
        policy: a key of :data:`POLICIES`, a name that a package registered under the entry-point group
            ``surgecollapse.policies``, or any object of the protocol. An object is returned as it is.
        **options: constructor options of the named policy.

    Returns:
        A policy that has not been started.

    Raises:
        ValueError: if the name or an option is unknown, or options come with an object.
        TypeError: if it is neither a name nor a policy, or what a package registered is none.

    >>> make_policy("acdc", surge=0.5)
    ACDC(dense_until=0.1, cycles_until=0.75, freeze_at=0.85, phase=0.05, surge=0.5)
    >>> make_policy("acdd")
    Traceback (most recent call last):
    ...
    ValueError: unknown policy 'acdd': expected one of acdc, cyclic_pruning, ... Did you mean 'acdc'?
    """
    if isinstance(policy, str):
        kind = POLICIES.find(policy)
        if policy not in POLICIES:
            theirs: Policy = fitting("policies", policy, kind(**options), is_policy)
            return theirs
        valid = options_of(kind)
        for name in options:
            if name not in valid:
                raise ValueError(unknown(f"option of policy {policy!r}", name, valid))
        ours: Policy = kind(**options)
        return ours
    if isinstance(policy, type):
        raise TypeError(f"policy must be an object, got the class {policy.__name__}: write policy={policy.__name__}()")
    if not is_policy(policy):
        raise TypeError(
            f"policy must be a name ({', '.join(POLICIES)}) or an object with start, due, decide, "
            f"state_dict and load_state_dict, got {policy!r}"
        )
    if options:
        raise ValueError(
            f"options ({', '.join(options)}) go with a policy's name; give them to the constructor of "
            f"{type(policy).__name__} instead"
        )
    return policy


def is_policy(part: Any) -> bool:
    """Whether it is an object of the protocol, and not a class of such objects."""
    return isinstance(part, Policy) and not isinstance(part, type)


def options_of(kind: Any) -> list[str]:
    """Names of a policy's constructor options."""
    if is_dataclass(kind):
        return [option.name for option in fields(kind) if option.init]
    return list(signature(kind).parameters)
