"""Events as JSON and back: of newer versions, of other types, from tuples."""

from __future__ import annotations

import dataclasses

import pytest

from surgecollapse.events import (
    Intervention,
    LayerChange,
    Reading,
    from_dict,
    to_dict,
)


def act(step, **details):
    return Intervention(step=step, kind="collapse", phase="sparse", reason="", sparsity_before=0.0, sparsity_after=0.5,
                        details=details)  # fmt: skip


def test_fields_of_newer_versions_are_dropped_and_missing_ones_take_their_defaults():
    data = to_dict(Reading(step=3, loss=0.5))
    data["event"]["later"] = [1, 2]
    del data["event"]["sparsity"]
    assert from_dict(data) == Reading(step=3, loss=0.5)


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"kind": ["Reading"], "version": 1, "event": {}},
        {"kind": "Reading", "version": "1", "event": {"step": 1}},
        {"kind": "Reading", "version": 1, "event": None},
        {"kind": "Reading", "version": 1, "event": {"step": True}},
        {"kind": "Reading", "version": 1, "event": {"step": 2**63}},
        {"kind": "Decision", "version": 1, "event": {"phase": "a", "reason": "b", "depth": [0.1]}},
        {"kind": "Decision", "version": 1, "event": {"phase": "a", "reason": "b", "depth": ["a", "b"]}},
        {"kind": "Decision", "version": 1, "event": {"phase": "a", "reason": 3}},
        {"kind": "Decision", "version": 1, "event": {"phase": "a", "reason": "b", "depth": 0.5, "layers": [1]}},
        {"kind": "Decision", "version": 1, "event": {"phase": "a", "reason": "b", "depth": 0.5, "held": 1}},
        {"kind": "Decision", "version": 2, "event": {"phase": "a", "reason": "b", "actions": [1]}},
        {"kind": "Decision", "version": 2, "event": {"phase": "a", "reason": "b", "actions": [{"type": "melt"}]}},
        {"kind": "Decision", "version": 2, "event": {"phase": "a", "reason": "b", "actions": [{"type": "prune"}]}},
        {
            "kind": "Decision",
            "version": 2,
            "event": {"phase": "a", "reason": "b", "actions": [{"type": "set_noise", "std": -1.0}]},
        },
        {"kind": "Intervention", "version": 1, "event": {"step": 1}},
    ],
)
def test_events_with_values_of_other_types_are_refused(data):
    with pytest.raises(ValueError, match=r"damaged|unknown event kind"):
        from_dict(data)


def test_events_come_back_from_tuples_as_from_lists():
    """Checkpoints of version 0.1 keep tuples, which JSON has not."""
    change = LayerChange(name="a", size=10, live=5, energy_before=2.0, energy_after=1.5)
    event = dataclasses.replace(act(3), layers=(change,))
    data = to_dict(event)
    data["event"]["layers"] = tuple(data["event"]["layers"])
    assert from_dict(data) == event
