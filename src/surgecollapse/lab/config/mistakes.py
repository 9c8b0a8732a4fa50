"""Mistakes in a configuration, in one line each: which key, what was expected, what came."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from surgecollapse.errors import unknown
from surgecollapse.lab.references import FORM

if TYPE_CHECKING:
    from pydantic import ValidationError


def explain(error: ValidationError) -> str:
    """The first mistake that pydantic found, in one line."""
    from surgecollapse.lab.config.keys import FAMILIES, KEYS

    first = error.errors()[0]
    words = [str(part) for part in first["loc"]]
    section = words[0] if words and words[0] in FAMILIES else ""
    key = next((word for word in reversed(words[1:]) if (section and word in KEYS) or word == "name"), section)
    key = words[0] if not section and words else FAMILIES[section].own(key) if section else key
    if first["type"] == "union_tag_invalid":
        family = FAMILIES[section]
        name = family.own(str(family.tag))
        own = f". Your own: {FORM}" if section == "model" else ""
        return unknown(name, first["ctx"]["tag"], list(family.named)) + own
    if first["type"] == "literal_error":
        return unknown(key, str(first["input"]), _choices(KEYS[key][1].annotation))
    message = first["msg"]
    if first["type"] == "value_error":
        return message.removeprefix("Value error, ")
    return f"{key} = {first['input']!r}: {message[0].lower()}{message[1:]}"


def _choices(annotation: Any) -> list[str]:
    """The words of a ``Literal``, or of the one inside ``Literal | None``."""
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    return [word for part in get_args(annotation) for word in _choices(part)]
