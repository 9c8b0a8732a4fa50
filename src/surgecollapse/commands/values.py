"""What values commands take: each check says what it expects, as a sentence and as a JSON schema."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol, cast

LONGEST = 200
"""Characters of a name, and names in a list."""
MOST_ROWS = 10_000
"""Samples that one command may name."""


class Check(Protocol):
    """Returns a value as it is kept, or raises ``ValueError`` with what was expected."""

    schema: dict[str, Any]
    """The same as a JSON schema."""

    def __call__(self, value: Any) -> Any:
        """Check."""
        ...


def _check(schema: Mapping[str, Any]) -> Callable[[Callable[[Any], Any]], Check]:
    def with_schema(check: Callable[[Any], Any]) -> Check:
        check.schema = dict(schema)  # type: ignore[attr-defined]
        return cast("Check", check)

    return with_schema


def number(least: float, most: float, *, below: bool = False) -> Check:
    """A finite number in [least, most], or under ``most``."""
    schema: dict[str, Any] = {"type": "number"}
    if math.isfinite(least):
        schema["minimum"] = least
    if math.isfinite(most):
        schema["exclusiveMaximum" if below else "maximum"] = most

    @_check(schema)
    def check(value: Any) -> float:
        good = isinstance(value, int | float) and not isinstance(value, bool)
        good = good and (abs(value) < 2**63 if isinstance(value, int) else math.isfinite(value))
        if not good or value < least or value > most or (below and value == most):
            end = f"{most:g})" if below or math.isinf(most) else f"{most:g}]"
            raise ValueError(f"a number in [{least:g}, {end}")
        return float(value)

    return check


@_check({"type": "number", "exclusiveMinimum": 0, "maximum": 1})
def share(value: Any) -> float:
    """A share in (0, 1]."""
    try:
        found = float(number(0.0, 1.0)(value))
    except ValueError:
        found = 0.0
    if not found:
        raise ValueError("a number in (0, 1]")
    return found


def whole(least: int) -> Check:
    """A whole number of at least ``least``."""

    @_check({"type": "integer", "minimum": least, "exclusiveMaximum": 2**63})
    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**63:
            raise ValueError(f"a whole number of at least {least}")
        return value

    return check


@_check({"type": "array", "items": {"type": "string", "minLength": 1, "maxLength": LONGEST}, "maxItems": LONGEST})
def names(value: Any) -> tuple[str, ...]:
    """Names of parameters, possibly with the wildcards of :mod:`fnmatch`; none for all."""
    wanted = f"a list of names of at most {LONGEST} characters"
    if isinstance(value, str) or not isinstance(value, list | tuple):
        raise ValueError(wanted)
    if not all(map(is_name, value)) or len(value) > LONGEST:
        raise ValueError(wanted)
    return tuple(value)


@_check({**names.schema, "minItems": 1})
def some_names(value: Any) -> tuple[str, ...]:
    """At least one name."""
    found: tuple[str, ...] = names(value)
    if not found:
        raise ValueError("a list of at least one name")
    return found


@_check({"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1, "maxItems": MOST_ROWS})
def rows(value: Any) -> tuple[int, ...]:
    """Numbers of training samples, from 0."""
    wanted = f"a list of 1 to {MOST_ROWS} whole numbers of at least 0"
    if not isinstance(value, list | tuple) or not 0 < len(value) <= MOST_ROWS:
        raise ValueError(wanted)
    if not all(type(row) is int and 0 <= row < 2**62 for row in value):
        raise ValueError(wanted)
    return tuple(value)


@_check({**rows.schema, "minItems": 0})
def units(value: Any) -> tuple[int, ...]:
    """Numbers of units of a layer, from 0; none for all."""
    return () if isinstance(value, list | tuple) and not value else rows(value)


@_check({"type": "object", "additionalProperties": {"type": "number"}, "minProperties": 1, "maxProperties": LONGEST})
def numbers(value: Any) -> dict[str, float]:
    """Option → number."""
    wanted = "a table of names and numbers"
    if not isinstance(value, Mapping) or not value or len(value) > LONGEST:
        raise ValueError(wanted)
    if not all(map(is_name, value)):
        raise ValueError(wanted)
    try:
        return {name: number(-math.inf, math.inf)(part) for name, part in value.items()}
    except ValueError:
        raise ValueError(wanted) from None


@_check({**numbers.schema, "additionalProperties": {"type": "number", "minimum": 0, "maximum": 100}})
def weights(value: Any) -> dict[str, float]:
    """Name → weight."""
    found: dict[str, float] = numbers(value)
    if any(not 0 <= part <= 100 for part in found.values()):
        raise ValueError("a table of names and numbers in [0, 100]")
    return found


@_check({"type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_]*$", "maxLength": LONGEST})
def option(value: Any) -> str:
    """The name of an option."""
    if not is_name(value) or not value.isidentifier() or not value.isascii():
        raise ValueError("the name of an option")
    return str(value)


@_check({"anyOf": [{"type": "number"}, {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 3}]})
def number_or_numbers(value: Any) -> float | tuple[float, ...]:
    """A finite number, or two or three of them."""
    finite = number(-math.inf, math.inf)
    try:
        if isinstance(value, list | tuple) and 2 <= len(value) <= 3:
            return tuple(finite(part) for part in value)
        return float(finite(value))
    except ValueError:
        raise ValueError("a number, or a list of two or three") from None


def one_of(*words: str) -> Check:
    """One of some words."""

    @_check({"enum": list(words)})
    def check(value: Any) -> str:
        if not isinstance(value, str) or value not in words:
            raise ValueError(f"one of {', '.join(words)}")
        return value

    return check


def or_none(check: Check) -> Check:
    """The same, or nothing."""

    @_check({"anyOf": [check.schema, {"type": "null"}]})
    def checked(value: Any) -> Any:
        return None if value is None else check(value)

    return checked


def is_name(value: Any) -> bool:
    """Whether it is a name of a few characters, none of them a lone surrogate."""
    return isinstance(value, str) and 0 < len(value) <= LONGEST and not any(0xD800 <= ord(c) < 0xE000 for c in value)


def shown(value: Any) -> str:
    """A value in a message."""
    if isinstance(value, int) and abs(value) >= 2**200:
        return f"a number of {value.bit_length()} bits"
    return repr(value)[:LONGEST]
