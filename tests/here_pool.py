"""A pool of workers that is no pool: one job after another, in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any


class HerePool:
    """What searches and comparisons ask of a pool; ``feed`` is for the test to write."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.running: dict[int, Any] = {}

    def __enter__(self) -> HerePool:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def run(self, cells: Any, stop: Callable[[], bool], look: Callable[[], None]) -> Iterator[Any]:
        """Do these jobs."""
        waiting = list(cells)
        return self.feed(lambda: waiting.pop(0) if waiting else None, stop, look)

    def feed(self, take: Any, stop: Any, look: Any, hear: Any = lambda job, step, value: False) -> Iterator[Any]:
        """Do jobs as they are taken."""
        raise NotImplementedError
