"""What a person sees while a comparison runs: a bar with the cells under way, or a line every half minute."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol, TextIO

from surgecollapse.errors import redraws

if TYPE_CHECKING:
    from rich.progress import Progress as RichBar
    from rich.progress import TaskID


class Display(Protocol):
    """Shows how a comparison goes on."""

    def update(self, done: int, total: int, remaining: float | None, running: Sequence[str]) -> None:
        """Runs that are done, of how many; seconds left, if that can be told; names of the runs under way."""
        ...

    def note(self, line: str) -> None:
        """Something that the person should know."""
        ...

    def stop(self) -> None:
        """It is over; allowed twice."""
        ...


class Quiet:
    """Shows nothing."""

    def update(self, done: int, total: int, remaining: float | None, running: Sequence[str]) -> None:
        """Ignore it."""

    def note(self, line: str) -> None:
        """Ignore it."""

    def stop(self) -> None:
        """Ignore it."""


class PlainLines:
    """One line every half minute, for logs and pipes.

    Args:
        stream: where to; standard error by default.
        seconds: least time between two lines.
    """

    def __init__(self, stream: TextIO | None = None, seconds: float = 30.0) -> None:
        self._stream, self._seconds, self._last = stream or sys.stderr, seconds, -1e9

    def update(self, done: int, total: int, remaining: float | None, running: Sequence[str]) -> None:
        """Write a line if it is time."""
        now = time.monotonic()
        if now - self._last >= self._seconds:
            self._last = now
            self.note(f"{done}/{total} runs, {duration(remaining)} left; now: {'; '.join(running) or 'starting'}")

    def note(self, line: str) -> None:
        """Write the line."""
        self._stream.write(line + "\n")
        self._stream.flush()

    def stop(self) -> None:
        """Nothing to clear away."""


class LiveBar:
    """A live bar on standard error."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self._bar: RichBar = Progress(
            BarColumn(bar_width=18),
            TextColumn("{task.completed}/{task.total}"),
            TimeElapsedColumn(),
            TextColumn("left {task.fields[left]}"),
            TextColumn("{task.description}"),
            console=Console(stderr=True),
        )
        self._task: TaskID | None = None

    def update(self, done: int, total: int, remaining: float | None, running: Sequence[str]) -> None:
        """Move the bar."""
        if self._task is None:
            self._bar.start()
            self._task = self._bar.add_task("", total=total, left="?")
        text = "; ".join(running)
        self._bar.update(self._task, completed=done, total=total, left=duration(remaining), description=text)

    def note(self, line: str) -> None:
        """Write the line above the bar."""
        self._bar.console.print(line, markup=False, highlight=False)

    def stop(self) -> None:
        """Close the bar; its last state stays on the screen."""
        self._bar.stop()


class OnceEach:
    """Notes what runs warn of, each text once; texts that differ in numbers alone are the same.

    >>> from io import StringIO
    >>> stream = StringIO()
    >>> once = OnceEach(PlainLines(stream))
    >>> once.note(["90.1% is much", "no GPU"]), once.note(["90.2% is much", "few samples"])
    (None, None)
    >>> stream.getvalue().splitlines()
    ['warning: 90.1% is much', 'warning: no GPU', 'warning: few samples']
    """

    def __init__(self, display: Display) -> None:
        self._display, self._said = display, set[str]()

    def note(self, texts: Iterable[str]) -> None:
        """Note those that are new."""
        for text in texts:
            kind = re.sub(r"\d[\d.,e+-]*", "#", text)
            if kind not in self._said:
                self._said.add(kind)
                self._display.note(f"warning: {text}")


def duration(seconds: float | None) -> str:
    """A time that a person reads at a glance.

    >>> duration(None), duration(42.0), duration(630.0), duration(7_380.0)
    ('?', '42 s', '10 min', '2 h 03 min')
    """
    if seconds is None:
        return "?"
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = int(seconds // 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


def for_terminal() -> Display:
    """A bar if standard error is a terminal, else plain lines."""
    return LiveBar() if redraws(sys.stderr) else PlainLines()
