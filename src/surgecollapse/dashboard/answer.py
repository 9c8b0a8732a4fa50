"""What the page's server answers with: JSON that every browser reads, whatever a record holds."""

from __future__ import annotations

import json
import math
from typing import Any

from starlette.responses import JSONResponse

_LARGEST_WHOLE = 2**63
_LEVELS = 64


class Answer(JSONResponse):
    """JSON, with ``null`` in place of numbers that it lacks."""

    def render(self, content: Any) -> bytes:
        """The body."""
        return as_json(content).encode()


def as_json(value: Any) -> str:
    """A value as strict JSON: NaN, infinities, numbers of more than 64 bits and what is nested too deep are ``null``.

    >>> as_json({"a": [float("inf"), 1.5], 3: 10**400})
    '{"a":[null,1.5],"3":null}'
    """
    # As ASCII, in which a lone surrogate is six harmless letters.
    return json.dumps(servable(value), separators=(",", ":"), allow_nan=False)


def servable(value: Any, levels: int = _LEVELS) -> Any:
    """The same with ``None`` for what JSON lacks, at any depth."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, int):
        return value if abs(value) < _LARGEST_WHOLE else None
    if isinstance(value, dict) and levels:
        return {str(key): servable(part, levels - 1) for key, part in value.items()}
    if isinstance(value, list | tuple) and levels:
        return [servable(part, levels - 1) for part in value]
    return None
