"""The thread that writes a run's record, so that training never waits for a disk."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import deque
from contextlib import suppress
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from surgecollapse.record.schema import connect, explain

if TYPE_CHECKING:
    from pathlib import Path

COMMIT_SECONDS = 0.1
"""Least time between two commits that nobody waits for."""
ROOM = 100_000
"""Rows that may wait before live points are dropped."""


class Writer:
    """Commits rows to one file in the order in which they were put, at most ten times a second.

    One thread puts and flushes. While the disk is slow, rows wait in memory: live points (measurements) are dropped and
    counted once :data:`ROOM` rows wait, all others never. Where a commit fails, nothing of it is lost: :meth:`put`
    raises from then on, and :meth:`flush` tries again.

    Args:
        path: a run store that is there already.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows: deque[tuple[str, tuple[Any, ...]]] = deque()
        self._batch: list[tuple[str, tuple[Any, ...]]] = []
        self._state = threading.Condition()
        self._put = self._done = self._wanted = 0
        self._error: Exception | None = None
        self._closing = False
        self._thread: threading.Thread | None = None
        self.dropped = 0
        """Live points that found no room."""

    def put(self, statement: str, row: tuple[Any, ...], *, live: bool = False) -> None:
        """Write this soon; ``live`` rows may be dropped.

        Raises:
            RunStoreError: if the last commit failed.
        """
        if self._error is not None:
            raise self._error
        if live and len(self._rows) >= ROOM:
            self.dropped += 1
            return
        self._rows.append((statement, row))
        self._put += 1
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=f"record {self._path.name}", daemon=True)
            self._thread.start()

    def flush(self) -> None:
        """Wait until everything put so far is committed.

        Raises:
            RunStoreError: if it cannot be written, for instance on a full disk; what was put is kept for another try.
        """
        if self._done == self._put:
            return
        with self._state:
            self._wanted, self._error = self._put, None
            self._state.notify_all()
            self._state.wait_for(lambda: self._done >= self._wanted or self._error is not None)
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """End the thread; what is not committed by then is tried once more, in silence. Closing twice is allowed."""
        if self._thread is None:
            return
        with self._state:
            self._closing = True
            self._state.notify_all()
        self._thread.join()
        self._thread = None

    def _work(self) -> None:
        try:
            connection = connect(self._path, "a")
        except sqlite3.Error as error:
            self._fail(error)
            return
        with suppress(sqlite3.Error):
            while self._wait():
                self._commit(connection)
            self._commit(connection)
        connection.close()

    def _wait(self) -> bool:
        """Until the next commit is due, or somebody waits for it; false at the end."""
        with self._state:
            due = time.monotonic() + COMMIT_SECONDS
            while not self._closing and (self._error is not None or self._wanted <= self._done):
                left = due - time.monotonic()
                if left <= 0 and self._error is None and self._rows:
                    break
                self._state.wait(left if left > 0 else COMMIT_SECONDS)
            return not self._closing

    def _commit(self, connection: sqlite3.Connection) -> None:
        for _ in range(len(self._rows)):
            self._batch.append(self._rows.popleft())
        if not self._batch:
            return
        try:
            connection.execute("BEGIN IMMEDIATE")
            for statement, rows in groupby(self._batch, key=itemgetter(0)):
                connection.executemany(statement, [row for _, row in rows])
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            self._fail(error)
            return
        with self._state:
            self._done += len(self._batch)
            self._batch.clear()
            self._state.notify_all()

    def _fail(self, error: sqlite3.Error) -> None:
        with self._state:
            self._error = explain(error, self._path)
            self._error.__cause__ = error
            self._state.notify_all()
