"""The agent protocol as a JSON schema, made from the typed commands."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any

from surgecollapse.commands.kinds import COMMANDS, Command

VERSION = 1
"""Of the protocol; it grows when something is taken away or means something else."""
_NUMBER = {"type": ["number", "null"]}
_WORD = {"type": ["string", "null"]}
_STEP = {"type": ["integer", "null"], "minimum": 0}
_STEPS = {"type": "array", "items": {"type": "integer", "minimum": 0}}


def command_schema(cls: type[Command]) -> dict[str, Any]:
    """The schema of one command: its kind and its values.

    >>> from surgecollapse.commands import Pump
    >>> command_schema(Pump)["properties"]["body"]["properties"]
    {'noise_std': {'type': 'number', 'minimum': 0.0, 'maximum': 1000.0}}
    """
    parts = fields(cls)
    return {
        "type": "object",
        "description": (cls.__doc__ or "").strip().splitlines()[0].replace("``", "`"),
        "properties": {
            "kind": {"const": cls.kind},
            "body": {
                "type": "object",
                "properties": {part.name: part.metadata["check"].schema for part in parts},
                "required": [part.name for part in parts if part.default is MISSING],
                "additionalProperties": False,
            },
        },
        "required": ["kind", "body"],
        "additionalProperties": False,
    }


def protocol_schema() -> dict[str, Any]:
    """The whole protocol: what an agent sends (``command``), what became of it (``outcome``) and what it sees."""
    outcome = {
        "id": {"type": "integer"},
        "kind": {"type": "string"},
        "body": {"type": "object"},
        "source": {"type": "string"},
        "status": {"enum": ["queued", "applied", "rejected", "stale"]},
        "step": _STEP,
        "reason": _WORD,
    }
    state = {
        "status": {"enum": ["live", "finished", "diverged", "failed", "interrupted", "silent"]},
        "step": _STEP,
        "total": _STEP,
        "name": {"type": "string"},
        "cause": {"type": "string"},
        "phase": _WORD,
        "why": _WORD,
        "sparsity": _NUMBER,
        "entropy": _NUMBER,
        "held": {"type": "boolean"},
        "paused": {"type": "boolean"},
        "checkpoints": _STEPS,
        "kept": _STEPS,
        "touched": {"type": "boolean"},
        "alarm": {"type": ["object", "null"]},
    }
    curve = {
        "type": "object",
        "properties": {"x": {"type": "array", "items": {"type": "integer"}}, "y": {"type": "array", "items": _NUMBER}},
        "required": ["x", "y"],
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"surgecollapse agent protocol, version {VERSION}",
        "anyOf": [{"$ref": f"#/$defs/{name}"} for name in ("command", "outcome", "state")],
        "$defs": {
            "command": {"oneOf": [command_schema(cls) for cls in COMMANDS.values()]},
            "queued": _table(outcome),
            "outcome": _table({"version": {"const": VERSION}, "command": {"$ref": "#/$defs/queued"}}),
            "state": _table(
                {
                    "version": {"const": VERSION},
                    "run": {"type": "string"},
                    "state": _table(state),
                    "curves": {"type": "object", "additionalProperties": curve},
                    "commands": {"type": "array", "items": {"$ref": "#/$defs/queued"}},
                    "branch": {"type": ["object", "null"]},
                }
            ),
        },
    }


def _table(properties: dict[str, Any]) -> dict[str, Any]:
    """A table that has all of these keys."""
    return {"type": "object", "properties": properties, "required": list(properties)}
