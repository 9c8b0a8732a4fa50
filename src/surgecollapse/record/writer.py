"""The thread that writes a run's record, so that training never waits for a disk."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections import deque
from contextlib import suppress
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from surgecollapse.record.heartbeat import BEAT_SECONDS, DROP_BEAT, SET_BEAT, beat
from surgecollapse.record.schema import RunStoreError, connect, explain

if TYPE_CHECKING:
    from pathlib import Path

COMMIT_SECONDS = 0.1
"""Least time between two commits that no caller waits for."""
ROOM = 100_000
"""Rows that may wait before live points are dropped."""
PATIENCE = 120.0
"""Seconds without a commit after which a wait ends."""
_ROW_FAULTS = (OverflowError, TypeError, ValueError, sqlite3.DataError, sqlite3.IntegrityError,
               sqlite3.InterfaceError, sqlite3.ProgrammingError)  # fmt: skip
"""What is wrong with one row rather than with the file."""
_Row = tuple[str, tuple[Any, ...]]


class Writer:
    """Commits rows to one file in the order in which they were put, at most ten times a second.

    One thread puts and flushes. While the disk is slow, rows wait in memory: live points (measurements) are dropped and
    counted once :data:`ROOM` rows wait, all others never. Where a commit fails, nothing of it is lost: :meth:`put`
    raises from then on, and :meth:`flush` tries again. A row that can never be written is left out, and said once.
    While it runs, the thread notes every few seconds that the process lives (:mod:`surgecollapse.record.heartbeat`).

    Args:
        path: a run store that is there already.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows: deque[_Row] = deque()
        self._batch: list[_Row] = []
        self._state = threading.Condition()
        self._put = self._done = self._wanted = 0
        self._error: Exception | None = None
        self._left_out: Exception | None = None
        self._closing = self._running = False
        self._thread: threading.Thread | None = None
        self._identity = (0, 0)
        self._beat_due = 0.0
        self._process = os.getpid()
        self.dropped = 0
        """Live points that found no room."""

    def put(self, statement: str, row: tuple[Any, ...], *, live: bool = False) -> None:
        """Write this soon; ``live`` rows may be dropped.

        Raises:
            RunStoreError: if the last commit failed.
        """
        self._check_process()
        self._complain()
        if self._error is not None:
            raise self._error
        if live and len(self._rows) >= ROOM:
            self.dropped += 1
            return
        self._rows.append((statement, row))
        self._put += 1
        if not self._running:
            with self._state:
                self._start()

    def flush(self) -> None:
        """Wait until everything put so far is committed.

        Raises:
            RunStoreError: if it cannot be written, for instance on a full disk; what was put is kept for another try.
        """
        self._check_process()
        if self._done < self._put or self._error is not None:
            self._wait_for_all()
        self._complain()

    @property
    def forked(self) -> bool:
        """Whether this is a copy in a forked process, where nothing writes."""
        return os.getpid() != self._process

    def _check_process(self) -> None:
        if self.forked:
            raise RunStoreError(
                f"{self._path} is written by process {self._process}, of which this one was forked: record there, or "
                "start processes by 'spawn' or 'forkserver'"
            )

    def _wait_for_all(self) -> None:
        with self._state:
            self._wanted, self._error = self._put, None
            self._start()
            self._state.notify_all()
            reached, since = self._done, time.monotonic()
            while self._done < self._wanted and self._error is None:
                if not self._running:
                    self._error = RunStoreError(f"cannot write {self._path}: the thread that writes it ended")
                    break
                self._state.wait(1.0)
                if self._done > reached:
                    reached, since = self._done, time.monotonic()
                elif time.monotonic() - since > PATIENCE:
                    self._error = RunStoreError(
                        f"cannot write {self._path}: nothing was written in {PATIENCE:g} s, check the disk"
                    )
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """End the thread; what is not committed by then is tried once more, in silence. Closing twice is allowed."""
        if self._thread is None or self.forked:
            return
        with self._state:
            self._closing = True
            self._state.notify_all()
        self._thread.join(PATIENCE)
        self._thread = None

    def _start(self) -> None:
        """Have a thread that writes; one that could not open the file is replaced."""
        if self._running:
            return
        self._thread = threading.Thread(target=self._work, name=f"record {self._path.name}", daemon=True)
        self._running = True
        try:
            self._thread.start()
        except RuntimeError as error:  # no more threads
            self._running, self._thread = False, None
            raise RunStoreError(f"cannot write {self._path}: {error}") from error

    def _complain(self) -> None:
        """Say once that a row was left out."""
        if self._left_out is not None:
            error, self._left_out = self._left_out, None
            raise error

    def _work(self) -> None:
        failure: Exception | None = RunStoreError(f"cannot write {self._path}: the thread that writes it ended")
        try:
            connection = connect(self._path, "a")
            try:
                self._identity = self._on_disk()
                self._beat(connection)
                while self._wait():
                    self._commit(connection)
                    self._beat(connection)
                self._commit(connection)
                with suppress(sqlite3.Error):
                    connection.execute(DROP_BEAT)
            finally:
                connection.close()
            failure = None
        except (sqlite3.Error, OSError, ValueError) as error:
            explained = explain(error, self._path)
            explained.__cause__ = error
            failure = explained
        finally:  # after an exception that is not caught here, too
            with self._state:
                if failure is not None:  # at once with the end, or a flush between the two would forget the reason
                    self._error = failure
                self._running = False
                self._state.notify_all()

    def _wait(self) -> bool:
        """Until the next commit or heartbeat is due, or a caller waits; false at the end."""
        with self._state:
            due = time.monotonic() + COMMIT_SECONDS
            while not self._closing and (self._error is not None or self._wanted <= self._done):
                now = time.monotonic()
                if self._error is None and ((now >= due and self._rows) or now >= self._beat_due):
                    break
                self._state.wait(max(due - now, 0.0) or COMMIT_SECONDS)
            return not self._closing

    def _commit(self, connection: sqlite3.Connection) -> None:
        for _ in range(len(self._rows)):
            self._batch.append(self._rows.popleft())
        if not self._batch:
            return
        count = len(self._batch)
        try:
            if self._on_disk() != self._identity:
                raise FileNotFoundError("it was deleted or replaced while the run wrote it")
            try:
                self._write(connection)
            except _ROW_FAULTS:
                _roll_back(connection)
                self._write_each(connection)
        except (sqlite3.Error, OSError, MemoryError) as error:
            _roll_back(connection)
            self._fail(error)
            return
        with self._state:
            self._done += count
            self._batch.clear()
            self._state.notify_all()

    def _write(self, connection: sqlite3.Connection) -> None:
        connection.execute("BEGIN IMMEDIATE")
        for statement, rows in groupby(self._batch, key=itemgetter(0)):
            connection.executemany(statement, [row for _, row in rows])
        connection.execute("COMMIT")

    def _write_each(self, connection: sqlite3.Connection) -> None:
        """Write all rows but those that cannot be written."""
        connection.execute("BEGIN IMMEDIATE")
        for statement, row in self._batch:
            try:
                connection.execute(statement, row)
            except _ROW_FAULTS as error:
                self._left_out = RunStoreError(
                    f"{self._path}: a row was left out, as it cannot be written ({error}): {ascii(row)[:100]}"
                )
        connection.execute("COMMIT")

    def _beat(self, connection: sqlite3.Connection) -> None:
        """Note that this process lives; a file that is busy just now is told the next time."""
        if time.monotonic() >= self._beat_due:
            self._beat_due = time.monotonic() + BEAT_SECONDS
            with suppress(sqlite3.Error):
                connection.execute(SET_BEAT, (json.dumps(beat()),))

    def _on_disk(self) -> tuple[int, int]:
        """Which file now has the name."""
        facts = os.stat(self._path)
        return facts.st_dev, facts.st_ino

    def _fail(self, error: Exception) -> None:
        with self._state:
            self._error = explain(error, self._path)
            self._error.__cause__ = error
            self._state.notify_all()


def _roll_back(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
