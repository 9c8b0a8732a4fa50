"""What the page asks for before it sends a command, read off the commands themselves."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any

from surgecollapse.commands import COMMANDS


def command_forms() -> list[dict[str, Any]]:
    """Every command with its values: name, what kind of input it takes, and whether it may be left out.

    >>> next(form for form in command_forms() if form["kind"] == "collapse")["values"]
    [{'name': 'fraction', 'input': 'number', 'optional': False}, {'name': 'layers', 'input': 'names', 'optional': True}]
    """
    return [
        {
            "kind": kind,
            "about": (cls.__doc__ or "").strip().splitlines()[0],
            "values": [
                {
                    "name": part.name,
                    "input": _input(str(part.type)),
                    "optional": part.default is not MISSING or part.default_factory is not MISSING,
                }
                for part in fields(cls)
            ],
        }
        for kind, cls in COMMANDS.items()
    ]


def _input(kind: str) -> str:
    """How a value of a type is typed in.

    >>> [_input(kind) for kind in ("float", "int | None", "tuple[str, ...]", "dict[str, float]", "bool", "str")]
    ['number', 'whole', 'names', 'table', 'switch', 'text']
    """
    if kind.startswith("tuple[int"):
        return "wholes"
    if kind.startswith(("tuple", "list")):
        return "names"
    if kind.startswith(("dict", "Mapping")):
        return "table"
    for start, name in (("float", "number"), ("int", "whole"), ("bool", "switch")):
        if kind.startswith(start):
            return name
    return "text"
