"""What a tracker must take; each one is one file, and a thin one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Tracker(Protocol):
    """One run in some tracker. Made with the run's name, its configuration and a folder for its files, or ``None``.

    Its class may have ``package``, the importable package that it needs, and ``place(run)``, the folder of its files by
    default.
    """

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of one step, by name (``group/name``, a layer after another slash); not all are finite."""
        ...

    def text(self, step: int, title: str, text: str) -> None:
        """What was done, asked for or foreseen at a step."""
        ...

    def histogram(self, step: int, name: str, edges: NDArray[Any], counts: NDArray[Any]) -> None:
        """How often values lie in each range: n + 1 edges, n counts."""
        ...

    def picture(self, step: int, name: str, path: Path) -> None:
        """A PNG; the file may go away afterwards."""
        ...

    def back(self, step: int) -> None:
        """A person rolled the run back: what was told of later steps no longer holds."""
        ...

    def finish(self, summary: Mapping[str, Any]) -> str:
        """The end, with the run's final numbers (none of a run that did not end).

        Returns:
            How to look at it, for the person.
        """
        ...


def plain(values: Mapping[str, Any]) -> dict[str, bool | int | float | str]:
    """Values that every tracker takes as a setting: anything but numbers and words becomes its text.

    >>> plain({"lr": 0.1, "widths": (8, 8), "clip": None})
    {'lr': 0.1, 'widths': '(8, 8)', 'clip': 'None'}
    """
    return {
        name: value if isinstance(value, bool | int | float | str) else str(value) for name, value in values.items()
    }


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """The numbers among final values.

    >>> numbers({"accuracy": 0.5, "task": "digits", "diverged": False})
    {'accuracy': 0.5}
    """
    return {
        name: float(value)
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
