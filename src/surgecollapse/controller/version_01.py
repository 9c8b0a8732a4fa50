"""The state of a controller as checkpoints of version 0.1 hold it. Used only where something that it wrote is read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from surgecollapse.observe.stored import to_plain


def current_state(state: Mapping[str, Any]) -> Mapping[str, Any]:
    """Translate a state of version 0.1; any other stays as it is.

    It named the modules of the output layers, where :class:`~surgecollapse.protocols.Dataflow` has their weights.

    >>> probe = {"known": False, "args": [], "kwargs": {}, "autocast": None}
    >>> old = {"version": 1, "engine": {"heads": ["2"], "frozen": False}, "probe": probe, "pump": 0.1}
    >>> new = current_state(old)
    >>> new["engine"]["dataflow"]["outputs"], new["noise_std"], new["version"]
    (['2.weight'], 0.1, 2)
    """
    if not isinstance(state, Mapping) or state.get("version") != 1 or "heads" not in state.get("engine", {}):
        return state
    components = {key: value for key, value in state["engine"].items() if key != "heads"}
    outputs = [f"{name}.weight" if name else "weight" for name in state["engine"]["heads"] or ()]
    components["dataflow"] = {"outputs": outputs, "selectors": [], "weights": []}
    old = state["probe"]
    probe = {
        "known": old["known"],
        "autocast": old["autocast"],
        "training": False,
        "batch": to_plain((tuple(old["args"]), dict(old["kwargs"]))),
        "settled": True,
    }
    kept = {key: value for key, value in state.items() if key != "pump"}
    # Its checkpoints held tuples where events as JSON have lists.
    events = {key: json.loads(json.dumps(state[key])) for key in ("plan", "decision", "events") if key in state}
    return {**kept, **events, "version": 2, "engine": components, "probe": probe, "noise_std": state["pump"]}
