"""What may be written into a record, and what is believed of what is read from one.

A record may be damaged, written by another program, or hostile. Everything that is read is checked for its type, its
depth and its size. It raises :class:`ValueError` where it does not fit, so that readers can skip that row alone.
"""

from __future__ import annotations

import json
import math
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import numpy as np

from surgecollapse.events import from_dict, plain

if TYPE_CHECKING:
    from numpy.typing import NDArray

LARGEST = 2**26
"""Bytes of one value (64 MiB): of an array, of an event, of a run-level value."""
DEEPEST = 64
"""Levels of nesting of a value."""
_END = 2**63
_SHOWN = 60
_DTYPE_KINDS = "biufc"
_OF_NUMPY = ("torch.float64", "torch.float32", "torch.float16")


def whole(value: Any, what: str = "step") -> int:
    """The whole number that a value stands for: an int, or a NumPy or torch scalar.

    Raises:
        ValueError: if it is not one, or does not fit into 64 bits.

    >>> whole(np.float32(3.0)), whole(np.array(4))
    (3, 4)
    """
    number = value if type(value) is int else _scalar(value, what)
    found: int | None = None
    if isinstance(number, Integral):
        found = int(number)
    elif isinstance(number, Real) and math.isfinite(number) and number % 1 == 0:
        found = int(float(number))
    if found is None:
        raise ValueError(f"{what} must be a whole number, got {_shown(value)}")
    if not -_END <= found < _END:
        raise ValueError(f"{what} must lie between -2**63 and 2**63 - 1, got {_shown(value)}")
    return found


def real(value: Any, what: str = "value") -> float:
    """The number that a value stands for: an int or float, or a NumPy or torch scalar; NaN and infinities are numbers.

    Raises:
        ValueError: if it is not one.

    >>> real(np.array(0.5)), real(3)
    (0.5, 3.0)
    """
    if type(value) is float:
        return value
    number = _scalar(value, what)
    try:
        if isinstance(number, str | bytes):
            raise TypeError
        return float(number)
    except OverflowError as error:
        raise ValueError(f"{what} must fit into a float, got {_shown(value)}") from error
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what} must be one real number, got {_shown(value)}") from error


def as_array(value: Any, name: str) -> NDArray[Any]:
    """The array that a value is: one of NumPy or a list, or a tensor, also with a gradient, sparse, or on a GPU.

    Raises:
        ValueError: if its entries are no numbers.

    >>> import torch
    >>> as_array(torch.ones(2, dtype=torch.bfloat16, requires_grad=True), "a")
    array([1., 1.], dtype=float32)
    """
    if hasattr(value, "detach"):
        value = value.detach().cpu().to_dense()
        if value.is_floating_point() and str(value.dtype) not in _OF_NUMPY:
            value = value.float()
        value = value.resolve_conj().resolve_neg()
    array = np.asarray(value)
    if array.dtype.kind not in _DTYPE_KINDS:
        raise ValueError(f"array {name!r} holds objects: expected a numeric dtype, got {array.dtype}")
    return array


def text(value: Any, what: str) -> str:
    """The text that a value is, if it can be stored.

    Raises:
        ValueError: if it is not text, or holds a lone surrogate, which UTF-8 cannot hold.
    """
    if not isinstance(value, str):
        raise ValueError(f"{what} must be text, got {_shown(value)}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{what} must be text without lone surrogates, got {_shown(value[error.start :])}") from error
    return value


def to_json(value: Any, what: str) -> str:
    """A value as JSON, in which Python's ``NaN`` and ``Infinity`` may occur.

    Raises:
        ValueError: if JSON cannot hold it, or it is nested too deep or too large.
    """
    found = text(json.dumps(plain(value), separators=(",", ":"), ensure_ascii=False), what)
    if len(found) > LARGEST // 2:
        raise ValueError(f"{what} takes {len(found)} bytes: expected at most {LARGEST // 2}")
    return found


def from_json(body: Any) -> Any:
    """What JSON in a record says.

    Raises:
        ValueError: if it is not JSON, or nested too deep.
    """
    if not isinstance(body, str):
        raise ValueError(f"expected JSON text, got {type(body).__name__}")
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"damaged JSON: {error}") from error
    if body.count("[") + body.count("{") > DEEPEST and depth(found) > DEEPEST:
        raise ValueError(f"JSON that is nested more than {DEEPEST} deep")
    return found


def event_from(kind: Any, version: Any, body: Any) -> Any:
    """The event of one row.

    Raises:
        ValueError: if the row is damaged, of an unknown kind or a newer version.
    """
    return from_dict({"kind": kind, "version": version, "event": from_json(body)})


def array_from(dtype: Any, shape: Any, data: Any) -> NDArray[Any]:
    """The array of one row, as a new writable one.

    Raises:
        ValueError: if its dtype is not numeric, or dtype, shape and bytes do not belong together.
    """
    lengths = from_json(shape)
    if not isinstance(dtype, str) or len(dtype) > 8 or not isinstance(data, bytes) or not isinstance(lengths, list):
        raise ValueError("expected a dtype, a shape and bytes")
    if not all(type(length) is int and 0 <= length < _END for length in lengths) or len(lengths) > 32:
        raise ValueError(f"damaged shape {_shown(lengths)}")
    try:
        kind = np.dtype(dtype)
    except (TypeError, ValueError, SyntaxError) as error:
        raise ValueError(f"unknown dtype {_shown(dtype)}") from error
    if kind.kind not in _DTYPE_KINDS or math.prod(lengths) * kind.itemsize != len(data):
        raise ValueError(f"{len(data)} bytes are no array of dtype {kind} and shape {_shown(lengths)}")
    return np.frombuffer(data, dtype=kind).reshape(lengths).copy()


def is_point(step: Any, value: Any) -> bool:
    """Whether these are a step and a number of a measurement; ``None`` stands for NaN."""
    return type(step) is int and (value is None or type(value) in (int, float))


def depth(value: Any) -> int:
    """How deep tables and lists are nested.

    >>> depth(1), depth([1, [2]]), depth({"a": {}})
    (0, 2, 2)
    """
    level, deepest = [(value, 0)], 0
    while level:
        part, at = level.pop()
        if isinstance(part, dict | list):
            deepest = max(deepest, at + 1)
            level += [(below, at + 1) for below in (part.values() if isinstance(part, dict) else part)]
    return deepest


def _scalar(value: Any, what: str) -> Any:
    """What a NumPy or torch scalar holds; anything else as it is."""
    if not hasattr(value, "item"):
        return value
    try:
        return value.item()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{what} must be one number, got an array of shape {tuple(value.shape)}") from error


def _shown(value: Any) -> str:
    """A value in a message, of whatever size it is."""
    if isinstance(value, int) and abs(value) >= 2**200:
        return f"a number of {value.bit_length()} bits"
    shown = ascii(value)
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}…"
