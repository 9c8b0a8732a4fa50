"""A recorder that keeps every event in a list."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from surgecollapse.events import Event

Kind = TypeVar("Kind")


class MemoryRecorder:
    """Keeps every event, in order, for notebooks and tests.

    >>> from surgecollapse.events import Measurement, Reading
    >>> recorder = MemoryRecorder()
    >>> recorder.record(Reading(step=50))
    >>> recorder.record(Measurement(step=50, name="loss/train", value=0.5))
    >>> [event.value for event in recorder.of(Measurement)]
    [0.5]
    """

    def __init__(self) -> None:
        self.events: list[Event] = []

    def record(self, event: Event) -> None:
        """Append one event."""
        self.events.append(event)

    def of(self, kind: type[Kind]) -> list[Kind]:
        """All events of one class, in the order in which they came."""
        return [event for event in self.events if isinstance(event, kind)]
