"""What a person sees while a run trains: a state strip and a bar on a terminal, plain lines elsewhere, or nothing."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TextIO

from surgecollapse.errors import redraws

if TYPE_CHECKING:
    from rich.live import Live
    from rich.progress import Progress as RichBar
    from rich.progress import TaskID
    from rich.text import Text

    from surgecollapse.training_status import TrainingStatus

STYLES = {
    "stable": "black on green",
    "collapse": "white on blue",
    "surge": "black on yellow",
    "pump": "white on magenta",
    "plateau": "black on cyan",
    "alarm": "bold white on red",
}
"""How the terminal shows a state; written out, so that the color is not needed."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Where a run is."""

    step: int
    phase: str
    sparsity: float
    entropy: float | None
    loss: float
    accuracy: float | None
    """Validation accuracy at the last evaluation, in [0, 1]."""
    validation_loss: float | None = None
    """Validation loss at the last evaluation."""
    evaluated_at: int | None = None
    """Step of the last evaluation."""
    state: TrainingStatus | None = None
    """The state, in one word and why."""
    next_step: int | None = None
    """First step at which the policy may act again."""


class Progress(Protocol):
    """Shows how a run goes on."""

    def start(self, title: str, total: int, done: int) -> None:
        """A run begins, or goes on after ``done`` of ``total`` steps."""
        ...

    def update(self, snapshot: Snapshot) -> None:
        """The run went on."""
        ...

    def note(self, line: str) -> None:
        """Something that the person should know."""
        ...

    def stop(self) -> None:
        """The run is over; allowed without a start, and twice."""
        ...


class Silent:
    """Shows nothing."""

    def start(self, title: str, total: int, done: int) -> None:
        """Ignore it."""

    def update(self, snapshot: Snapshot) -> None:
        """Ignore it."""

    def note(self, line: str) -> None:
        """Ignore it."""

    def stop(self) -> None:
        """Ignore it."""


class Lines:
    """One plain line every few seconds, for logs and pipes.

    Args:
        stream: where to; standard error by default.
        seconds: least time between two lines.
    """

    def __init__(self, stream: TextIO | None = None, seconds: float = 5.0) -> None:
        self._stream = stream or sys.stderr
        self._seconds = seconds
        self._last = 0.0
        self._total = 0
        self._title = ""

    def start(self, title: str, total: int, done: int) -> None:
        """Say what begins, once it has made a step: a run that cannot begin ends in one line, its error."""
        self._total = total
        self._last = time.monotonic()
        self._title = f"{title}: {total} steps" + (f", going on after {done}" if done else "")

    def update(self, snapshot: Snapshot) -> None:
        """Write a line if it is time, or the run is over."""
        if self._title:
            title, self._title = self._title, ""
            self.note(title)
        now = time.monotonic()
        if now - self._last >= self._seconds or snapshot.step == self._total:
            self._last = now
            self.note(f"step {snapshot.step}/{self._total}  {describe(snapshot)}")

    def note(self, line: str) -> None:
        """Write the line."""
        self._stream.write(line + "\n")
        self._stream.flush()

    def stop(self) -> None:
        """Nothing to clear away."""


class Bar:
    """The state strip over a live bar, on standard error.

    One line says the state, why it is so, and when the policy may act next. One says phase, sparsity, entropy, loss and
    validation accuracy. The bar says how far the run is.
    """

    def __init__(self) -> None:
        self._live: Live | None = None
        self._bar: RichBar | None = None
        self._task: TaskID | None = None

    def start(self, title: str, total: int, done: int) -> None:
        """Open it."""
        from rich.console import Console
        from rich.live import Live
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        self.stop()
        console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=18),
            TextColumn("{task.completed}/{task.total}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
        )
        self._task = self._bar.add_task(title, total=total, completed=done)
        self._live = Live(self._bar, console=console, refresh_per_second=5)
        self._live.start()

    def update(self, snapshot: Snapshot) -> None:
        """Show where the run is."""
        from rich.console import Group
        from rich.text import Text

        if self._live is None or self._bar is None or self._task is None:
            return
        self._bar.update(self._task, completed=snapshot.step)
        lines = [] if snapshot.state is None else [strip(snapshot.state, snapshot.next_step)]
        lines.append(Text(describe(snapshot), no_wrap=True, overflow="ellipsis"))
        self._live.update(Group(*lines, self._bar))

    def note(self, line: str) -> None:
        """Write the line above it."""
        if self._live is None:
            sys.stderr.write(line + "\n")
        else:
            self._live.console.print(line, markup=False, highlight=False)

    def stop(self) -> None:
        """Close it; what it last said stays on the screen."""
        if self._live is not None:
            self._live.stop()
            self._live = None


def strip(state: TrainingStatus, next_step: int | None) -> Text:
    """The state in one line that fits the terminal.

    >>> from surgecollapse.training_status import TrainingStatus
    >>> strip(TrainingStatus(name="collapse", why="step 50: high entropy"), 100).plain
    ' COLLAPSE  next decision: step 100 · step 50: high entropy'
    """
    from rich.text import Text

    line = Text(no_wrap=True, overflow="ellipsis")
    line.append(f" {state.name.upper()} ", style=STYLES[state.name])
    line.append(" " + (f"next decision: step {next_step} · " if next_step is not None else "") + state.why)
    return line


def describe(snapshot: Snapshot) -> str:
    """The state in a few words.

    >>> describe(Snapshot(step=1, phase="sparse", sparsity=0.9, entropy=0.5, loss=0.25, accuracy=None))
    'sparse  sparsity 90.0%  entropy 0.500  loss 0.250'
    """
    parts = [snapshot.phase, f"sparsity {snapshot.sparsity:.1%}"]
    if snapshot.entropy is not None:
        parts.append(f"entropy {snapshot.entropy:.3f}")
    parts.append(f"loss {snapshot.loss:.3f}")
    if snapshot.accuracy is not None:
        parts.append(f"accuracy {snapshot.accuracy:.1%}")
    return "  ".join(parts)


def for_terminal() -> Progress:
    """A bar if standard error is a terminal that can draw it, else plain lines."""
    return Bar() if redraws(sys.stderr) else Lines()
