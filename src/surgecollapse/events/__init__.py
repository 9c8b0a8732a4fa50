"""The records that flow through the loop observe → decide → act → record.

Frozen dataclasses of host numbers and strings: no tensors, no behavior beyond (de)serialization, and nothing but
the standard library. ``to_dict`` and ``from_dict`` are the one wire format.
"""

from __future__ import annotations

from surgecollapse.events.actions import (
    Action,
    Aim,
    Decision,
    Exchange,
    Freeze,
    Prune,
    Recycle,
    Regrow,
    SetNoise,
    Threshold,
    Warn,
)
from surgecollapse.events.records import (
    Alarm,
    Intervention,
    LayerChange,
    LayerReading,
    Measurement,
    Plan,
    Reading,
    Request,
)
from surgecollapse.events.wire import EVENT_VERSION, from_dict, plain, to_dict, upgraded

Event = Reading | Decision | Intervention | Measurement | Request | Alarm

__all__ = [
    "EVENT_VERSION",
    "Action",
    "Aim",
    "Alarm",
    "Decision",
    "Event",
    "Exchange",
    "Freeze",
    "Intervention",
    "LayerChange",
    "LayerReading",
    "Measurement",
    "Plan",
    "Prune",
    "Reading",
    "Recycle",
    "Regrow",
    "Request",
    "SetNoise",
    "Threshold",
    "Warn",
    "from_dict",
    "plain",
    "to_dict",
    "upgraded",
]
