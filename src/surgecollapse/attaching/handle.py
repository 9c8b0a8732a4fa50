"""What everything that attaches in one line returns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self


class Handle(ABC):
    """A context manager that takes its hooks off on exit."""

    @abstractmethod
    def remove(self) -> None:
        """Take the hooks off."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()
