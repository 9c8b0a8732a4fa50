"""What is new in a run, read once for all the pages that look at it."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

from surgecollapse.dashboard import reading, run_state
from surgecollapse.dashboard.answer import as_json
from surgecollapse.dashboard.runs import changed, signature

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from surgecollapse.record.schema import Connection

PERIOD = 0.2
"""Seconds between two looks: at most five messages a second."""
HEARTBEAT = 5.0
"""Seconds after which a message comes at the latest, so that a page knows that its server lives."""
_WAITING = 20


class Cursor:
    """Remembers what of one run was read, and reads what came after.

    Args:
        path: a ``run.db``.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._mark: tuple[int, ...] | None = None
        self._steps: dict[int, int] = {}
        self._event = 0
        self._rolled: tuple[Any, ...] = ()
        self._started = False

    def read(self) -> dict[str, Any] | None:
        """What is new, or ``None``; the first call only notes where the run is."""
        mark = signature(self._path)
        if mark == self._mark:
            return None
        try:
            with closing(reading.look(self._path)) as connection:
                message = self._read(connection)
        except (sqlite3.Error, OSError, ValueError):
            return None  # locked for a moment, or gone: the next look tells
        self._mark = mark
        return message

    def _read(self, connection: Connection) -> dict[str, Any] | None:
        there = reading.series_of(connection)
        ends = {
            row["id"]: connection.execute(
                "SELECT max(step) FROM measurements WHERE series = ? AND typeof(step) = 'integer'", (row["id"],)
            ).fetchone()[0]
            for row in there
        }
        newest = connection.execute("SELECT max(id) FROM events").fetchone()[0] or 0
        asked = reading.commands(connection)
        rolled = tuple(a["id"] for a in asked if a["kind"] == "roll-back" and a["status"] == "applied")
        back = newest < self._event or any((ends.get(id) or 0) < step for id, step in self._steps.items())
        message: dict[str, Any] = {"state": run_state.state(connection, changed(self._path)), "commands": asked}
        if self._started and (back or rolled != self._rolled):
            message["reset"] = True
        elif self._started:
            message["events"] = reading.events(connection, after=self._event)
            message["points"] = {
                id: reading.since(connection, id, self._steps.get(id, -1))
                for id, end in ends.items()
                if end is not None and end > self._steps.get(id, -1)
            }
            if any(id not in self._steps for id in ends):
                message["series"] = there
        first, self._started = not self._started, True
        self._steps = {id: -1 if end is None else end for id, end in ends.items()}
        self._event, self._rolled = newest, rolled
        return None if first else message


class Feed:
    """One cursor for many readers; it looks only while there are any.

    Args:
        path: a ``run.db``.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._readers: set[asyncio.Queue[str | None]] = set()
        self._task: asyncio.Task[None] | None = None

    async def listen(self) -> AsyncIterator[str]:
        """Server-sent events until the reader goes away; one that is too slow is told to load anew."""
        queue: asyncio.Queue[str | None] = asyncio.Queue(_WAITING)
        self._readers.add(queue)
        try:
            if self._task is None or self._task.done():
                cursor = Cursor(self._path)
                await asyncio.to_thread(cursor.read)
                if self._task is None or self._task.done():
                    self._task = asyncio.create_task(self._look(cursor))
            yield "data: {}\n\n"
            while True:
                try:
                    line = await asyncio.wait_for(queue.get(), HEARTBEAT)
                except TimeoutError:
                    line = "data: {}\n\n"
                if line is None:
                    return
                yield line
        finally:
            self._readers.discard(queue)

    def close(self) -> None:
        """End all streams, so that the server can stop."""
        for queue in self._readers:
            _empty(queue)
            queue.put_nowait(None)

    async def _look(self, cursor: Cursor) -> None:
        while self._readers:
            await asyncio.sleep(PERIOD)
            message = await asyncio.to_thread(cursor.read)
            if message is None:
                continue
            line = f"data: {as_json(message)}\n\n"
            for queue in self._readers:
                late = queue.full()
                if late:
                    _empty(queue)
                queue.put_nowait('data: {"reset":true}\n\n' if late else line)


class Feeds:
    """The feeds of all runs, with room for so many readers.

    Args:
        room: streams that may be open at once.
    """

    def __init__(self, room: int) -> None:
        self.room = room
        self._open = 0
        self._feeds: dict[str, Feed] = {}

    def enter(self) -> bool:
        """Take one place before anything is answered; false if there is none. :meth:`leave` gives it back."""
        if self._open >= self.room:
            return False
        self._open += 1
        return True

    def leave(self) -> None:
        """Give a place back."""
        self._open -= 1

    def listen(self, run: str, path: Path) -> AsyncIterator[str]:
        """The stream of one run."""
        return self._feeds.setdefault(run, Feed(path)).listen()

    def close(self) -> None:
        """End all streams."""
        for feed in self._feeds.values():
            feed.close()


def _empty(queue: asyncio.Queue[str | None]) -> None:
    while not queue.empty():
        queue.get_nowait()
