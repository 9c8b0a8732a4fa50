"""The one wire format of events: plain JSON-ready values with a kind and a version (run store, checkpoints, pages)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from functools import cache, partial
from numbers import Integral, Real
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from surgecollapse.events.actions import (
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

EVENT_VERSION = 2
"""Version of the wire format; written beside every event."""
_KINDS: dict[str, type] = {
    cls.__name__: cls
    for cls in (Plan, LayerReading, Reading, Decision, LayerChange, Intervention, Measurement, Request, Alarm)
}
_ACTIONS: dict[str, type] = {
    "prune": Prune,
    "exchange": Exchange,
    "regrow": Regrow,
    "recycle": Recycle,
    "threshold": Threshold,
    "set_noise": SetNoise,
    "aim": Aim,
    "warn": Warn,
    "freeze": Freeze,
}
"""By type, as decisions name them."""
_TAGS = {cls: tag for tag, cls in _ACTIONS.items()}


def plain(value: Any, *, levels: int = 64) -> Any:
    """The same as JSON can hold it: NumPy and torch values, tuples, tables and dataclasses become plain ones.

    Args:
        value: numbers, text, and containers of these.
        levels: how deep it may be nested.

    Raises:
        ValueError: if it is nested deeper, or holds what JSON cannot.

    >>> plain({"widths": (8, 8), 3: None})
    {'widths': [8, 8], '3': None}
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    if levels == 0:
        raise ValueError("cannot be recorded: expected values that are nested at most 64 deep")
    if isinstance(value, Mapping):
        return {str(key): plain(part, levels=levels - 1) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part, levels=levels - 1) for part in value]
    if is_dataclass(value) and not isinstance(value, type):
        tag = {"type": _TAGS[type(value)]} if type(value) in _TAGS else {}
        return tag | {part.name: plain(getattr(value, part.name), levels=levels - 1) for part in fields(value)}
    if hasattr(value, "tolist"):
        return plain(value.tolist(), levels=levels - 1)
    raise ValueError(f"cannot be recorded: expected numbers, text, lists and tables, got {type(value).__name__}")


def to_dict(event: Any) -> dict[str, Any]:
    """Turn an event into plain JSON-ready values, with its kind and version; actions carry their type.

    Raises:
        ValueError: if it holds what JSON cannot.

    >>> to_dict(Measurement(step=3, name="loss/train", value=0.5))["kind"]
    'Measurement'
    >>> to_dict(Decision(phase="frozen", reason="the end", actions=(Freeze(),)))["event"]["actions"]
    [{'type': 'freeze'}]
    """
    return {"kind": type(event).__name__, "version": EVENT_VERSION, "event": plain(event)}


def from_dict(data: Mapping[str, Any]) -> Any:
    """Rebuild the event that :func:`to_dict` wrote, in this version or an earlier one.

    Fields that this version does not know are dropped, so that an older reader can open a newer record.

    Raises:
        ValueError: if the kind is unknown, the version is newer than this library's, or a value is of another type.

    >>> event = Measurement(step=3, name="loss/train", value=0.5)
    >>> from_dict(to_dict(event)) == event
    True
    """
    kind, version, body = data.get("kind"), data.get("version", 0), data.get("event")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise ValueError(f"unknown event kind {kind!r}: expected one of {', '.join(_KINDS)}")
    if not isinstance(version, int) or not isinstance(body, Mapping):
        raise ValueError(f"damaged event of kind {kind}: expected a version and a table of values")
    if version > EVENT_VERSION:
        raise ValueError(f"event version {version} is newer than {EVENT_VERSION}: update surgecollapse to read it")
    return _build(_KINDS[kind], upgraded(kind, version, body))


def _build(cls: type, body: Mapping[str, Any]) -> Any:
    """One record of a class, each value of the type that the class says."""
    if not isinstance(body, Mapping):
        raise ValueError(f"damaged {cls.__name__}: expected a table of values, got {type(body).__name__}")
    hints, values = _hints(cls), {}
    for name, hint in hints.items():
        if name not in body:
            continue
        value = body[name]
        if isinstance(value, list | tuple):
            build = _NESTED.get((cls.__name__, name), _itself)
            value = tuple(map(build, value))
        if not _fits(value, hint):
            raise ValueError(f"damaged {cls.__name__}: {name} is {str(value)[:60]!r}, expected {hint}")
        values[name] = value
    try:
        return cls(**values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"damaged {cls.__name__}: {error}") from error


def _itself(value: Any) -> Any:
    return value


def _action(body: Mapping[str, Any]) -> Any:
    """One action, of the class that its type names."""
    tag = body.get("type") if isinstance(body, Mapping) else None
    if not isinstance(tag, str) or tag not in _ACTIONS:
        raise ValueError(f"damaged Decision: an action is {str(body)[:60]}, expected a type of {', '.join(_ACTIONS)}")
    return _build(_ACTIONS[tag], {name: value for name, value in body.items() if name != "type"})


_NESTED: dict[tuple[str, str], Callable[[Any], Any]] = {
    ("Reading", "layers"): partial(_build, LayerReading),
    ("Intervention", "layers"): partial(_build, LayerChange),
    ("Decision", "actions"): _action,
}
"""What builds the entries of a list."""


@cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value read from JSON is of a field's type."""
    origin, parts = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is tuple:
        same = parts[1:] == (...,)
        wanted = parts[:1] * len(value) if same and isinstance(value, tuple) else parts
        return isinstance(value, tuple) and len(value) == len(wanted) and all(map(_fits, value, wanted))
    if origin is not None:
        return isinstance(value, origin)
    if isinstance(value, bool):
        return hint is bool
    if hint is int:
        return isinstance(value, int) and -(2**63) <= value < 2**63
    return isinstance(value, int | float if hint is float else hint)


# ---- what version 1 (of surgecollapse 0.1) wrote ---------------------------------------------------------------

_EARLIER_KINDS = {"rewire": "exchange"}
"""Kinds of interventions that were renamed."""
_EARLIER_DETAILS = {"sigma": "noise_std", "rho": "energy_fraction", "tau": "dormancy", "share": "fraction"}
"""Details of interventions that were renamed."""
_REGROWTH = {"growth": "growth", "initial": "regrow_init", "rho": "noise_energy_budget"}
"""Field of a decision in version 1 → field of an action."""
_EARLIER_FORECASTS = {  # as version 0.1 spelled them
    "generalises": "generalizes",  # version 0.1
    "does not generalise": "does not generalize",  # version 0.1
}


def upgraded(kind: str, version: int, body: Mapping[str, Any]) -> dict[str, Any]:
    """The body of an event as this version writes it.

    >>> upgraded("Intervention", 1, {"kind": "rewire", "details": {"rho": 0.1}})
    {'kind': 'exchange', 'details': {'energy_fraction': 0.1}}
    >>> upgraded("Decision", 1, {"phase": "open", "reason": "r", "surge": 0.5})["actions"][0]["fraction"]
    0.5
    """
    body = dict(body)
    if version >= EVENT_VERSION:
        return body
    if kind == "Intervention":
        if "kind" in body:
            body["kind"] = _EARLIER_KINDS.get(body["kind"], body["kind"])
        if isinstance(body.get("details"), Mapping):
            body["details"] = {_EARLIER_DETAILS.get(name, name): value for name, value in body["details"].items()}
    if kind == "Alarm" and "forecast" in body:
        body["forecast"] = _EARLIER_FORECASTS.get(body["forecast"], body["forecast"])
    if kind == "Decision":
        body["actions"] = _first_actions(body)
    return body


def _first_actions(old: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The actions of a decision of version 1, which had a field for each part of each."""
    measure = old.get("measure", "on_off")
    prune = {
        "measure": "prediction_confidence" if measure == "certainty" else measure,
        "allocation": old.get("distribution"),
        "keep_mask": old.get("held", True),
        "keep_values": old.get("initial") == "last",
        **{name: old[name] for name in ("floor", "saliency", "layers", "scope") if name in old},
    }
    regrowth = {new: old.get(name) for name, new in _REGROWTH.items()}
    regrow = {
        "source": old.get("reopen", "pruned"),
        "noise_std": old.get("sigma"),
        **{name: old[name] for name in ("layers", "scope") if name in old},
    }
    found: list[tuple[str, str, Any, dict[str, Any]]] = [
        ("prune", "sparsity", old.get("depth"), prune),
        ("exchange", "fraction", old.get("rewire"), {"saliency": old.get("saliency"), **regrowth}),
        ("regrow", "fraction", old.get("surge"), {**regrow, **regrowth}),
        ("recycle", "dormancy", old.get("recycle"), {}),
        ("set_noise", "std", old.get("pump"), {}),
    ]
    actions = [{"type": tag, name: value, **rest} for tag, name, value, rest in found if value is not None]
    return [*actions, {"type": "freeze"}] if old.get("freeze") else actions
