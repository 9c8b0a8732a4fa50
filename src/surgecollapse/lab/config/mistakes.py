"""Mistakes in a configuration, in one line each: which key, what was expected, what came."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from surgecollapse.lab.config.experiments import EXPERIMENTS
from surgecollapse.lab.config.run_config import RunConfig

if TYPE_CHECKING:
    from pydantic import ValidationError


class ConfigError(ValueError):
    """A configuration that cannot be used, in one line: which key, what was expected, what came."""

    __module__ = "surgecollapse.lab.config"  # as tracebacks name it: where everyone imports it from


def nearest(word: str, valid: list[str]) -> str:
    """Say which valid word is nearest, as the middle of a sentence; empty if none is near.

    >>> nearest("digit", ["digits", "mnist"])
    " did you mean 'digits'?"
    """
    close = difflib.get_close_matches(word.lower(), valid, n=1, cutoff=0.5)
    return f" did you mean {close[0]!r}?" if close else ""


def unknown(what: str, word: Any, valid: list[str], *, plural: str) -> str:
    """Say that a word is none of the valid ones, and which of them is nearest."""
    return f"unknown {what} {word!r}:{nearest(str(word), valid)} Valid {plural}: {', '.join(valid)}"


def explain(error: ValidationError) -> str:
    """The first mistake that pydantic found, in one line."""
    first = error.errors()[0]
    key = str(first["loc"][0]) if first["loc"] else ""
    if first["type"] == "literal_error":
        valid = _choices(RunConfig.model_fields[key].annotation) + (list(EXPERIMENTS) if key == "task" else [])
        plural = "policies" if key == "policy" else f"{key} values" if key.endswith("s") else f"{key}s"
        return unknown(key, first["input"], valid, plural=plural)
    message = first["msg"].removeprefix("Value error, ")
    if not key:
        return message
    return f"{key} = {first['input']!r}: {message[0].lower()}{message[1:]}"


def _choices(annotation: Any) -> list[str]:
    """The words of a ``Literal``, or of the one inside ``Literal | None``."""
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    return [word for part in get_args(annotation) for word in _choices(part)]
