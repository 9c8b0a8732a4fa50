"""Commands as people write them: a kind and words, in a terminal and in rules."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from surgecollapse.commands.kinds import COMMANDS, Command, command_from

_SETTINGS = {
    "dropout": ("set-dropout", "rate"),
    "schedule": ("replace-schedule", "shape"),
    "augmentation": ("set-augmentation", "share"),
    "batch_size": ("set-batch-size", "size"),
    "sparsity": ("set-sparsity", "sparsity"),
    "noise_std": ("pump", "noise_std"),
    "pace": ("pace", "factor"),
    "loss.label_smoothing": ("set-loss", "label_smoothing"),
    "loss.class_weights": ("set-loss", "class_weights"),
}
"""What ``set`` can set beside options of the optimizer and of the policy → kind and value."""
_FORM = f"optimizer.OPTION, optimizer.GROUP.OPTION, policy.OPTION, mixture.SOURCE, {', '.join(_SETTINGS)}"


def command_from_text(text: str) -> Command:
    """Read a command from one line.

    Raises:
        ValueError: if it is not a command, with what was expected.

    >>> command_from_text("collapse fraction=0.3 layers=body.*,head")
    Collapse(fraction=0.3, layers=('body.*', 'head'))
    >>> command_from_text("set optimizer.0.weight_decay 0.1")
    SetOptimizer(option='weight_decay', value=0.1, group=0)
    """
    try:
        kind, *words = shlex.split(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is not a command ({error}): expected a kind and KEY=VALUE words") from None
    return command_from(*body_of(kind, words))


def body_of(kind: str, words: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """The kind and the values of a command from its words: ``KEY=VALUE``, or a name and a value after ``set``.

    >>> body_of("set", ["dropout", "0.2"])
    ('set-dropout', {'rate': 0.2})
    """
    if kind == "set":
        if len(words) != 2:
            raise ValueError(f"set takes a name and a value, got {len(words)} words: expected one of {_FORM}")
        return _setting(*words)
    found: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        key = key.replace("-", "_")
        if not equals or key in found:
            hint = f"; for a value alone: set {kind} {word}" if f"set-{kind}" in COMMANDS and not equals else ""
            raise ValueError(f"{kind}: expected KEY=VALUE once for each key, got {word!r}{hint}")
        found[key] = _value(kind, key, value)
    return kind, found


def _setting(name: str, text: str) -> tuple[str, dict[str, Any]]:
    """What ``set NAME VALUE`` asks for."""
    first, _, rest = name.partition(".")
    if first == "optimizer" and rest:
        group, dot, option = rest.partition(".")
        body = {"option": option if dot else group, "value": _plain(text)}
        if dot and group != "*":
            if not group.isdecimal():
                raise ValueError(f"set {name}: expected the number of a group, or *, got {group!r}")
            body["group"] = int(group)
        return "set-optimizer", body
    if first == "policy" and rest:
        return "set-thresholds", {"values": {rest: _plain(text)}}
    if first == "mixture" and rest:
        return "mix-sources", {"weights": {rest: _plain(text)}}
    if name not in _SETTINGS:
        raise ValueError(f"unknown setting {name!r}: expected one of {_FORM}")
    kind, key = _SETTINGS[name]
    return kind, {key: _plain(text)}


def _value(kind: str, key: str, text: str) -> Any:
    """A value of a command; words between commas where it takes a list."""
    cls = COMMANDS.get(kind.replace("_", "-"))
    part = next((part for part in fields(cls) if part.name == key), None) if cls is not None else None
    takes = part.metadata["check"].schema.get("type") if part is not None else None
    if takes == "array" and not text.startswith("["):
        items = [item.strip() for item in text.split(",") if item.strip()]
        return [_plain(item) for item in items] if key in ("rows", "units") else items
    return _plain(text)


def _plain(text: str) -> Any:
    """A number, a list of numbers, or else a word."""
    try:
        return json.loads(f"[{text}]" if "," in text and not text.startswith(("[", "{")) else text)
    except (json.JSONDecodeError, RecursionError):
        return text
