"""Takes what people ask of a run at its step boundaries, has it carried out, and says what became of it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from surgecollapse.commands import READ_ONLY
from surgecollapse.events import Request
from surgecollapse.torch_utils.distributed import Ranks

if TYPE_CHECKING:
    from surgecollapse.commands import Command
    from surgecollapse.record import CommandQueue, QueuedCommand

Handler = Callable[[Any], str]
"""Carries a command out and says what was done; raises ``ValueError`` with the reason why it cannot be."""

_SECONDS = 0.1
_WAIT = 0.02
TOGETHER = 10
"""Steps between two exchanges of commands where several processes train one model."""


@dataclass(frozen=True, slots=True)
class _Taken:
    """One command on its way to being carried out."""

    command: Command | None
    """``None``: it could not be read."""
    source: str
    id: int | None = None
    """In the queue; ``None`` where it did not come from one."""
    fault: str = ""


class CommandLoop:
    """The commands of one run: asked for anywhere, settled in order and once, between two optimizer steps.

    Looking whether there are any costs a comparison of clocks, and ten times a second one pragma of SQLite.

    Where several processes train one model (``DistributedDataParallel``), rank 0 alone takes commands. Every
    :data:`TOGETHER` steps they go to all ranks, which carry them out at the same boundary. Every rank must call
    :meth:`boundary` for the same steps.

    Args:
        record: takes a :class:`~surgecollapse.events.Request` for every command that is settled.
        ranks: the processes that train the model.

    Attributes:
        handlers: kind of command → what carries it out; a loop may add its own.
        by_hand: whether the loop calls :meth:`boundary` itself.
        paused: whether training waits.
        lenient: whether what cannot be repeated is passed over, as in a run that differs on purpose.
        stopping: whether the loop is asked to end.
        step: completed steps at the last boundary; a roll-back sets it.
        last: id of the newest command that was settled, as a checkpoint must know it.
        interrupted: says whether a pause must end at once, as on Ctrl-C.

    >>> from surgecollapse.commands import Pump
    >>> requests = []
    >>> command_loop = CommandLoop(requests.append)
    >>> command_loop.handlers["pump"] = lambda command: f"input noise of {command.noise_std:g}"
    >>> command_loop.request(Pump(noise_std=0.1))
    >>> command_loop.boundary(7)
    True
    >>> requests[0].step, requests[0].status, requests[0].reason
    (7, 'applied', 'input noise of 0.1')
    """

    def __init__(self, record: Callable[[Request], None], ranks: Ranks | None = None) -> None:
        self._record, self._ranks = record, Ranks() if ranks is None else ranks
        self.handlers: dict[str, Handler] = {}
        self.by_hand = self.paused = self.stopping = self.lenient = False
        self.step = self.last = 0
        self.interrupted: Callable[[], bool] = lambda: False
        self._queue: CommandQueue | None = None
        self._asked: deque[tuple[Command, str]] = deque()
        self._again: deque[QueuedCommand] = deque()
        self._next = 0.0

    def open(self, queue: CommandQueue) -> None:
        """Take commands from a queue too; what waits in it is taken at the next boundary."""
        self._queue, self._next = queue, 0.0

    def request(self, command: Command, *, source: str = "python") -> None:
        """Ask for something at the next step boundary; from any thread.

        Raises:
            ValueError: if too many requests wait in the queue, or on a rank other than 0.
        """
        if not self._ranks.first:
            raise ValueError(
                f"commands are taken by rank 0 and sent to all: expected rank 0, got rank {self._ranks.rank}"
            )
        if self._queue is None:
            self._asked.append((command, source))
        else:
            self._queue.put(command, source=source)
            self._next = 0.0

    def order(self, command: Command, *, source: str) -> None:
        """Have something done at the next boundary that the run itself decided, as by a rule: it is not queued.

        A replay and a resume do not repeat it, as the run decides it again.
        """
        self._asked.append((command, source))

    def replay(self, applied: Iterable[QueuedCommand]) -> None:
        """Carry these out again, each after the step after which it was carried out then."""
        self._again = deque(asked for asked in applied if asked.kind not in READ_ONLY)

    @property
    def to_repeat(self) -> list[int]:
        """Ids of what :meth:`replay` was given and is still to come, as a checkpoint must know them."""
        return [asked.id for asked in self._again]

    def roll_back(self, step: int) -> None:
        """Note that the run went back: it repeats nothing of what it had still to repeat."""
        self.step = step
        self._again.clear()

    def boundary(self, step: int) -> bool:
        """Carry out what waits, and wait while training is paused.

        Args:
            step: completed optimizer steps.

        Returns:
            Whether anything was applied.
        """
        self.step = step
        applied = self._repeat()
        if self._ranks.alone or step % TOGETHER == 0:
            applied |= self._take()
        while self.paused and not self.stopping and not self._ranks.from_first(self.interrupted()):
            time.sleep(_WAIT)
            applied |= self._take()
        return applied

    def reject_all(self, reason: str) -> None:
        """Settle whatever waits as rejected: at the end of a run."""
        for asked in self._queue.pending() if self._queue is not None else ():
            self._settle(asked.id, self.step, "rejected", reason)

    def close(self) -> None:
        """Close the queue."""
        if self._queue is not None:
            self._queue.close()
            self._queue = None

    def _repeat(self) -> bool:
        repeated = False
        while self._again and (self._again[0].step or 0) <= self.step:
            asked = self._again.popleft()
            if asked.step != self.step:
                raise ValueError(f"cannot repeat {asked.kind} of step {asked.step}: the run is at step {self.step}")
            status, reason = self._carry_out(asked.command)
            if status == "rejected" and not self.lenient:
                raise ValueError(f"cannot repeat {asked.kind} at step {self.step}, the runs differ: {reason}")
            self._tell(asked.command, "replay", status, reason)
            self.last, repeated = max(self.last, asked.id), True
        return repeated

    def _take(self) -> bool:
        applied = False
        for taken in self._ranks.from_first(self._waiting()):
            step = self.step  # a roll-back changes it
            status, reason = ("rejected", taken.fault) if taken.command is None else self._carry_out(taken.command)
            if taken.command is not None:
                self._tell(taken.command, taken.source, status, reason)
            if taken.id is not None:
                self._settle(taken.id, step, status, reason)
            applied |= status == "applied"
        return applied

    def _waiting(self) -> list[_Taken]:
        """What was asked for since the last look; nothing on a rank other than 0."""
        found: list[_Taken] = []
        if not self._ranks.first:
            return found
        while self._asked:
            found.append(_Taken(*self._asked.popleft()))
        if self._queue is not None and time.monotonic() >= self._next:
            self._next = time.monotonic() + _SECONDS
            found += map(_read, self._queue.pending() if self._queue.changed() else ())
        return found

    def _carry_out(self, command: Command) -> tuple[str, str]:
        handler = self.handlers.get(command.kind)
        if handler is None:
            return "rejected", f"this loop cannot {command.kind.replace('-', ' ')}: it takes {', '.join(self.handlers)}"
        try:
            return "applied", handler(command)
        except ValueError as error:
            return "rejected", str(error)

    def _settle(self, asked: int, step: int, status: str, reason: str) -> None:
        if self._queue is not None and self._ranks.first:
            self._queue.settle(asked, status, step=step, reason=reason)
        self.last = max(self.last, asked)

    def _tell(self, command: Command, source: str, status: str, reason: str) -> None:
        self._record(
            Request(step=self.step, kind=command.kind, body=command.body, source=source, status=status, reason=reason)
        )


def _read(asked: QueuedCommand) -> _Taken:
    try:
        return _Taken(asked.command, asked.source, asked.id)
    except ValueError as error:
        return _Taken(None, asked.source, asked.id, str(error))


def effective(applied: Sequence[QueuedCommand]) -> list[QueuedCommand]:
    """What made the run what it is in the end: without what a later roll-back undid, and the roll-backs themselves.

    A checkpoint holds every command that was applied at its own step. So a roll-back to step m undoes those of later
    steps and no other.

    Args:
        applied: the applied commands of a run, in order.
    """
    kept: list[QueuedCommand] = []
    for asked in applied:
        if asked.kind == "roll-back":
            kept = [earlier for earlier in kept if (earlier.step or 0) <= asked.body["step"]]
        else:
            kept.append(asked)
    return sorted(kept, key=lambda asked: asked.step or 0)
