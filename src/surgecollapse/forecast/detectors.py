"""Detectors that read a run's measurements one by one and raise one alarm; causal, host numbers only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from surgecollapse.events import Alarm, Measurement


@runtime_checkable
class Detector(Protocol):
    """Raises at most one alarm in a run, from what it has seen so far alone.

    The ``forecast`` of its alarm is ``generalizes`` or ``does not generalize``.
    """

    def update(self, measurement: Measurement) -> Alarm | None:
        """Take the next measurement, in the order of their steps."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        ...
