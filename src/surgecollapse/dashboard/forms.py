"""What the page asks for before it sends a command, read off the commands themselves."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any

from surgecollapse.commands import COMMANDS

_USUAL = {
    "collapse fraction": "0.3",
    "surge fraction": "0.2",
    "pump noise_std": "0.1",
    "set-sparsity sparsity": "0.9",
    "learning-rate factor": "0.5",
    "cadence every": "100",
    "pace factor": "0.5",
}
"""What stands in a field before anything was typed."""
_EXAMPLES = {
    "layers": "body.*",
    "values": "floor=0.4",
    "option": "weight_decay",
    "value": "0.1",
    "weights": "0=0.5",
    "rows": "3,17",
    "units": "all units",
    "group": "all",
    "label": "0",
    "weight": "0.5",
    "rate": "0.2",
    "share": "0.5",
    "size": "64",
    "step": "500",
    "steps": "rest",
    "label_smoothing": "0.1",
    "count": "50",
}
"""What an empty field shows as an example, or as what it means to leave it empty."""


def command_forms() -> list[dict[str, Any]]:
    """Every command with its values: name, how each is read from a text, and what its field shows.

    >>> next(form for form in command_forms() if form["kind"] == "learning-rate")["values"]
    [{'name': 'factor', 'input': 'number', 'usual': '0.5', 'hint': ''}]
    >>> next(form for form in command_forms() if form["kind"] == "replace-schedule")["values"][0]["choices"]
    ['constant', 'linear', 'cosine']
    """
    return [
        {
            "kind": kind,
            "about": (cls.__doc__ or "").strip().splitlines()[0],
            "values": [_field(kind, part) for part in fields(cls)],
        }
        for kind, cls in COMMANDS.items()
    ]


def _field(kind: str, part: Any) -> dict[str, Any]:
    optional = part.default is not MISSING or part.default_factory is not MISSING
    hint = _EXAMPLES.get(part.name, "")
    if optional and part.name == "layers":
        hint = "all layers"
    elif optional and not hint:
        hint = "optional"
    usual = _USUAL.get(f"{kind} {part.name}", "")
    schema = part.metadata["check"].schema
    choices = next((one["enum"] for one in (schema, *schema.get("anyOf", ())) if "enum" in one), None)
    found = {"name": part.name, "input": _input(str(part.type)), "usual": usual, "hint": "" if usual else hint}
    return found if choices is None else found | {"choices": [""] * optional + choices}


def _input(kind: str) -> str:
    """How a value of a type is read from a text.

    >>> [_input(kind) for kind in ("float", "int | None", "tuple[str, ...]", "dict[str, float]", "str")]
    ['number', 'number', 'names', 'table', 'text']
    >>> [_input(kind) for kind in ("tuple[int, ...]", "float | tuple[float, ...]")]
    ['numbers', 'one or more']
    """
    if kind.startswith("float | tuple"):
        return "one or more"
    if kind.startswith("tuple[int"):
        return "numbers"
    if kind.startswith("tuple"):
        return "names"
    if kind.startswith("dict"):
        return "table"
    return "number" if kind.startswith(("float", "int")) else "text"
