"""What every result of an analysis has."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any


class PlainValues:
    """A dataclass that JSON can hold."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)  # type: ignore[call-overload, no-any-return]
