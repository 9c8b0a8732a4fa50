"""The steps of the readings, found only as far ahead as they are needed."""

from __future__ import annotations

from collections.abc import Callable


class ReadingSchedule:
    """Finds the next step with a reading.

    A policy that adapts may move its readings, so it is never asked about a step that is further ahead than it must be.

    Args:
        falls_on: whether a reading falls on a step; asked about steps in their order.

    >>> timetable = ReadingSchedule(lambda step: step % 10 == 0)
    >>> timetable.look_ahead(1, window=5)
    >>> timetable.next
    0
    >>> timetable.look_ahead(6, window=5)
    >>> timetable.next
    10
    """

    def __init__(self, falls_on: Callable[[int], bool]) -> None:
        self._falls_on = falls_on
        self.restart(0)

    def restart(self, step: int) -> None:
        """Know nothing but that ``step`` steps are over."""
        self.next, self._searched = 0, step

    def look_ahead(self, step: int, window: int) -> None:
        """Find the next reading from ``step`` on, if it is among the next ``window`` steps.

        It is :attr:`next` then, which is less than ``step`` otherwise.
        """
        while self.next < step and self._searched < step + window:
            self._searched += 1
            if self._falls_on(self._searched):
                self.next = self._searched
