"""Configurations as records have them: of this version in sections, of version 0.1 flat and with other names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from surgecollapse.lab.config.keys import FAMILIES, KEYS, unfit
from surgecollapse.lab.config.renamed import RENAMED
from surgecollapse.policies.version_01 import NAMES, policy_of

if TYPE_CHECKING:
    from collections.abc import Mapping

_DROPPED = ("recipe",)
"""Keys of version 0.1 that are no more; what a recipe set stands in the file beside it."""
_WHOLE = {"seed", "moments", "batch_size", "minimum_density", "threads"}
"""What stands in every file that version 0.1 wrote itself."""


def is_of_version_1(values: Mapping[str, Any]) -> bool:
    """Whether a mapping of keys was written for version 0.1: it is flat, and has a name that is no more."""
    if any(isinstance(values.get(section), dict) for section in FAMILIES):
        return False
    return any(key in values and key not in KEYS for key in (*RENAMED, *_DROPPED)) or (values.get("policy") in NAMES)


def current(values: Mapping[str, Any]) -> dict[str, Any]:
    """Keys of version 0.1 by the names of this one; what had no effect there is left out.

    >>> current({"task": "digits", "policy": "hold", "minimum_density": 0.1, "modulus": 7, "model": "mlp"})
    {'task': 'digits', 'policy': 'no_op', 'min_density': 0.1, 'model': 'mlp'}
    """
    whole = set(values) >= _WHOLE
    kept = {RENAMED.get(key, key): value for key, value in values.items() if key not in _DROPPED}
    if "policy" in kept or whole:
        kept["policy"], options = policy_of(kept.get("policy", "entropy"), kept.get("policy_options"))
        kept |= {"policy_options": options} if options or "policy_options" in kept else {}
    if str(kept.get("forecast")).startswith(("train", "unlabel", "label")):  # the learned detectors, in two spellings
        kept["forecast"] = "slope"
    if kept.get("grokfast_lamb", 0) is None:
        kept.pop("grokfast_lamb")
    if whole:  # it left out what was not set
        optional = {
            name: None for name, (_, field) in KEYS.items() if not field.is_required() and field.default is None
        }
        kept = {**optional, **kept}
    known = {key: value for key, value in kept.items() if key in KEYS}
    useless = unfit(known)
    return {key: value for key, value in kept.items() if key not in useless}


def flat_values(stored: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a record by own name, whichever version wrote it.

    >>> flat_values({"optimizer": {"name": "sgd"}, "run": {"seed": 1}})
    {'optimizer': 'sgd', 'seed': 1}
    >>> flat_values({"task": "digits", "hold": 3, "policy": "waves"})["policy"]
    'cyclic_pruning'
    """
    if is_of_version_1(stored):
        return current(stored)
    values: dict[str, Any] = {}
    for section, part in stored.items():
        family = FAMILIES.get(section)
        if family is None or not isinstance(part, dict):  # what a loop of one's own recorded
            values[section] = part
        else:
            values.update({family.own(name): value for name, value in part.items()})
    return values
