"""When to collapse, surge or pump, and how deep: policies of host floats. Never imports torch."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from surgecollapse.plugins import find, fitting, unknown
from surgecollapse.policies.acdc import ACDC
from surgecollapse.policies.base import ScheduledPolicy
from surgecollapse.policies.cyclic_pruning import CyclicPruning
from surgecollapse.policies.dynamic_sparse import Static
from surgecollapse.policies.entropy_cycles import EntropyCycles
from surgecollapse.policies.entropy_thresholds import EntropyThresholds
from surgecollapse.policies.fixed_interval import FixedInterval
from surgecollapse.policies.gradual_pruning import GradualPruning
from surgecollapse.policies.granet import GraNet
from surgecollapse.policies.no_op import NoOp
from surgecollapse.policies.one_shot import OneShot
from surgecollapse.policies.recycling import Recycle
from surgecollapse.policies.rigl import RigL
from surgecollapse.policies.sparse_evolutionary import SET
from surgecollapse.protocols import Policy

__all__ = [
    "ACDC",
    "POLICIES",
    "SET",
    "CyclicPruning",
    "EntropyCycles",
    "EntropyThresholds",
    "FixedInterval",
    "GraNet",
    "GradualPruning",
    "NoOp",
    "OneShot",
    "Recycle",
    "RigL",
    "Static",
    "make_policy",
]

POLICIES: dict[
    str, type[FixedInterval | EntropyThresholds | ACDC | EntropyCycles | NoOp | ScheduledPolicy | Recycle]
] = {
    "classic": FixedInterval,
    "rules": EntropyThresholds,
    "cycles": ACDC,
    "entropy": EntropyCycles,
    "cyclic_pruning": CyclicPruning,
    "waves": CyclicPruning,
    "hold": NoOp,
    "one-shot": OneShot,
    "gmp": GradualPruning,
    "granet": GraNet,
    "static": Static,
    "set": SET,
    "rigl": RigL,
    "redo": Recycle,
}
"""The policies that have a name, on the command line and in ``attach(policy=...)``."""


def make_policy(policy: str | Policy, **options: Any) -> Policy:
    """Turn a name with options, or a policy object, into a policy.

    Args:
        policy: a key of :data:`POLICIES`, a name that a package registered under the entry-point group
            ``surgecollapse.policies``, or any object of the protocol, which is returned as it is.
        **options: constructor options of the named policy.

    Returns:
        A policy that has not been started.

    Raises:
        ValueError: if the name or an option is unknown, or options come with an object.
        TypeError: if it is neither a name nor a policy, or what a package registered is none.

    >>> make_policy("cycles", surge=0.5)
    ACDC(dense_until=0.1, cycles_until=0.75, freeze_at=0.85, phase=0.05, surge=0.5)
    >>> make_policy("clasic")
    Traceback (most recent call last):
    ...
    ValueError: unknown policy 'clasic': expected one of classic, rules, ... Did you mean 'classic'?
    """
    if isinstance(policy, str):
        kind = find("policies", "policy", policy, POLICIES)
        if policy not in POLICIES:
            theirs: Policy = fitting("policies", policy, kind(**options), _is_policy)
            return theirs
        valid = [option.name for option in fields(kind) if option.init]
        for name in options:
            if name not in valid:
                raise ValueError(unknown(f"option of policy '{policy}'", name, valid))
        ours: Policy = kind(**options)
        return ours
    if not _is_policy(policy):
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


def _is_policy(part: Any) -> bool:
    return isinstance(part, Policy) and not isinstance(part, type)
