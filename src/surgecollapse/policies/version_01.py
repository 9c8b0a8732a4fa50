"""What version 0.1 called policies, their options and their states. Used only where something that it wrote is read."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

NAMES: Mapping[str, str] = MappingProxyType(
    {
        "classic": "fixed_interval",
        "rules": "entropy_thresholds",
        "cycles": "acdc",
        "entropy": "entropy_cycles",
        "waves": "cyclic_pruning",
        "hold": "no_op",
        "one-shot": "one_shot",
    }
)
"""Registry name in version 0.1 → registry name now, where it changed."""

CLASSES: Mapping[str, str] = MappingProxyType(
    {
        "Intervals": "FixedInterval",
        "EntropyRules": "EntropyThresholds",
        "Cycles": "ACDC",
        "EntropyBoundedCycles": "EntropyCycles",
        "Waves": "CyclicPruning",
        "Hold": "NoOp",
    }
)
"""Class in version 0.1, as checkpoints name it → class now."""

_EXCHANGING = {"layers": "allocation", "drop": "drop_fraction"}
OPTIONS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "cyclic_pruning": {
            "waves": "cycles",
            "last_wave_at": "last_cycle_start",
            "rest": "settle_fraction",
            "thinnest": "min_density_ratio",
        },
        "entropy_cycles": {
            "deepest": "max_sparsity",
            "initial": "regrow_init",
            "pump": "noise_std",
            "landing": "final_ramp",
        },
        "entropy_thresholds": {"rho": "noise_energy_budget", "pump": "noise_std", "pump_step": "noise_step"},
        "granet": _EXCHANGING,
        "static": _EXCHANGING,
        "set": _EXCHANGING,
        "rigl": _EXCHANGING,
    }
)
"""Option in version 0.1 → option now, by policy."""

_WORDS = {"certainty": "prediction_confidence"}
_RAMPS = {"drop": "none", "gradual": "cubic"}
_DEFAULTS = {"waves": {"dense_until": 0.10, "cycles": 3, "last_cycle_start": 0.45, "surge": 0.5}}
"""Defaults that another version has by now, by the name in version 0.1."""


def policy_of(name: str, options: Mapping[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
    """Translate the name and the options of a policy as version 0.1 wrote them; present ones stay as they are.

    Options that were left out get the value that they had then, where the default has changed.

    >>> policy_of("waves", {"thinnest": 0.5, "surge": 0.35, "measure": "certainty"})[1]["min_density_ratio"]
    0.5
    >>> policy_of("cycles"), policy_of("redo", {"over": "hold"}), policy_of("gmp")
    (('acdc', {}), ('redo', {'over': 'no_op'}), ('gmp', {}))
    """
    now = NAMES.get(name, name)
    renamed = OPTIONS.get(now, {})
    found = dict(_DEFAULTS.get(name, {}))
    for option, value in (options or {}).items():
        if option == "landing":
            value = _RAMPS.get(value, value)
        elif option == "measure":
            value = _WORDS.get(value, value)
        elif option == "over" and isinstance(value, str):
            value = NAMES.get(value, value)
        found[renamed.get(option, option)] = value
    return now, found


def class_of(name: str) -> str:
    """Translate the class of a policy as a checkpoint of version 0.1 names it.

    >>> class_of("Waves"), class_of("RigL")
    ('CyclicPruning', 'RigL')
    """
    return CLASSES.get(name, name)


def state_of(state: Mapping[str, Any]) -> dict[str, Any]:
    """Translate the state of a policy as a checkpoint of version 0.1 holds it; a present one stays as it is.

    >>> state_of({"policy": "Waves", "phase": "open", "wave": 2, "start": 0.5})
    {'policy': 'CyclicPruning', 'phase': 'open', 'cycle': 2, 'start': 0.5}
    """
    name = state.get("policy")
    found: dict[str, Any] = {**state, "policy": CLASSES.get(name, name)} if isinstance(name, str) else dict(state)
    if name == "Waves" and "wave" in found:
        return {("cycle" if key == "wave" else key): value for key, value in found.items()}
    if name == "Hold" or (name == "Recycle" and "over" in found):  # these two did not write their phase
        found.setdefault("phase", found.get("over", {}).get("phase", "dense"))
    return found
