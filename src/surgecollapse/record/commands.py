"""What people ask of a run, in its own file: put there by a page or a terminal, settled by the run."""

from __future__ import annotations

import secrets
import sqlite3
import time
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgecollapse.commands import READ_ONLY, Command, command_from
from surgecollapse.record import heartbeat
from surgecollapse.record.schema import GET, RunStoreError, connect, explain
from surgecollapse.record.values import from_json, text, to_json, whole

if TYPE_CHECKING:
    from collections.abc import Sequence

_COLUMNS = "id, token, created, source, kind, body, status, step, reason, settled"
_MOST_PENDING = 100
_SOURCE = 100


@dataclass(frozen=True, kw_only=True)
class QueuedCommand:
    """One command, and what became of it."""

    id: int
    """Ascending in the order in which they were asked, which is the order in which they are settled."""
    token: str
    created: float
    """Seconds since 1970."""
    source: str
    """Who asked: ``page``, ``terminal``, ``python``, ``replay`` …"""
    kind: str
    body: dict[str, Any]
    status: str
    """``queued | applied | rejected``."""
    step: int | None
    """Completed steps when it was settled."""
    reason: str | None
    """Why it was rejected, or what was done."""
    settled: float | None

    @property
    def command(self) -> Command:
        """The typed command.

        Raises:
            ValueError: if another version of the library wrote one that this one does not know.
        """
        return command_from(self.kind, self.body)


class CommandQueue:
    """The commands of one run, in its ``run.db``.

    Any process may put commands there while the run trains; the run takes them in order at its step boundaries, each
    one once. An object belongs to one thread.

    Args:
        path: the run's ``run.db``.

    Raises:
        FileNotFoundError: if there is no such file.

    >>> import tempfile
    >>> from surgecollapse.commands import Pump
    >>> from surgecollapse.record import RunStore
    >>> path = Path(tempfile.mkdtemp()) / "run.db"
    >>> store = RunStore(path, mode="w")
    >>> store.set("status", "running")
    >>> queue = CommandQueue(path)
    >>> first = queue.put(Pump(noise_std=0.1), source="terminal", token="a")
    >>> queue.put(Pump(noise_std=0.1), source="terminal", token="a") == first  # the same click twice
    True
    >>> [asked.kind for asked in queue.pending()]
    ['pump']
    >>> queue.settle(first, "applied", step=40, reason="input noise of 0.1")
    >>> queue.pending(), queue.all()[0].status
    ([], 'applied')
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"no run store at {self.path}: expected the run.db of a run directory")
        self._connection: sqlite3.Connection | None = None
        self._seen = -1
        self._there = False
        self._damaged: list[int] = []
        self.skipped = 0
        """Damaged rows that were passed over."""

    def put(self, command: Command, *, source: str, token: str | None = None) -> int:
        """Ask for something; a run that does not train rejects it at once.

        Args:
            command: what.
            source: who asks.
            token: names this very request; the same one again changes nothing. Drawn at random by default.

        Returns:
            The id of the request.

        Raises:
            ValueError: if too many requests wait already, or the token names another request.
            RunStoreError: if it cannot be written.
        """
        token = text(token or secrets.token_hex(16), "token")
        now, body = time.time(), to_json(command.body, command.kind)
        with closing(self._open_to_write()) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
                query = "SELECT id, kind, body FROM commands WHERE token = ?"
                there = connection.execute(query, (token,)).fetchone()
                if there is not None and there[1:] != (command.kind, body):
                    raise ValueError(f"token {token!r} was used for another command: draw a new one")
                if there is None:
                    waiting = connection.execute("SELECT count(*) FROM commands WHERE status = 'queued'").fetchone()[0]
                    if waiting >= _MOST_PENDING:
                        raise ValueError(f"{waiting} commands wait already: wait until the run has taken them")
                    late = _too_late(connection)
                    status = "rejected" if late else "queued"
                    connection.execute(
                        "INSERT INTO commands (token, created, source, kind, body, status, reason, settled) "
                        "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                        (
                            token,
                            now,
                            text(source, "source")[:_SOURCE],
                            command.kind,
                            body,
                            status,
                            late,
                            now if late else None,
                        ),
                    )
                    there = connection.execute(query, (token,)).fetchone()
                connection.execute("COMMIT")
            except sqlite3.Error as error:
                raise explain(error, self.path) from error
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
        return int(there[0])

    def pending(self) -> list[QueuedCommand]:
        """What waits, oldest first; a row that no command can be read from is rejected here."""
        waiting = self._select("WHERE status = 'queued' ORDER BY id")
        for id in self._damaged:
            with suppress(ValueError):  # another process was faster
                self.settle(id, "rejected", step=None, reason="it cannot be read: expected a command and its values")
        return waiting

    def expire(self, id: int) -> QueuedCommand | None:
        """Reject a request that no process will take any more, as the run was killed; return what became of it."""
        with closing(self._open_to_write()) as connection:
            late = _too_late(connection)
        if late:
            with suppress(ValueError):
                self.settle(id, "rejected", step=None, reason=late)
        return self.get(id)

    def changed(self) -> bool:
        """Whether another connection has written since the last call (or it is the first): cheap, no table is read."""
        version = self._reader().execute("PRAGMA data_version").fetchone()[0]
        before, self._seen = self._seen, version
        return bool(version != before)

    def settle(self, id: int, status: str, *, step: int | None, reason: str) -> None:
        """Note what became of a request; it is on the disk when this returns.

        Raises:
            ValueError: if the status is unknown or the request does not wait.
        """
        if status not in ("applied", "rejected"):
            raise ValueError(f"status must be 'applied' or 'rejected', got {status!r}")
        step = None if step is None else whole(step)
        with closing(self._open_to_write()) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
                done = connection.execute(
                    "UPDATE commands SET status = ?, step = ?, reason = ?, settled = ? "
                    "WHERE id = ? AND status = 'queued'",
                    (status, step, reason, time.time(), id),
                ).rowcount
                if done and status == "applied":
                    mark_modified(connection)
                connection.execute("COMMIT")
            except sqlite3.Error as error:
                raise explain(error, self.path) from error
        if not done:
            raise ValueError(f"request {id} of {self.path} does not wait: it was settled, or never asked")

    def adopt(self, applied: Sequence[QueuedCommand]) -> None:
        """Take over what was applied in another run, for this one to carry out again after the same steps."""
        with closing(self._open_to_write()) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
                connection.executemany(
                    "INSERT INTO commands (token, created, source, kind, body, status, step, reason, settled) "
                    "VALUES (?, ?, 'replay', ?, ?, 'applied', ?, ?, ?)",
                    [
                        (a.token, a.created, a.kind, to_json(a.body, a.kind), a.step, a.reason, a.settled)
                        for a in applied
                    ],
                )
                mark_modified(connection)
                connection.execute("COMMIT")
            except sqlite3.Error as error:
                raise explain(error, self.path) from error

    def all(self) -> list[QueuedCommand]:
        """Every request, oldest first."""
        return self._select("ORDER BY id")

    def applied(self, *, after: int = 0) -> list[QueuedCommand]:
        """What was carried out, in order, of the requests whose id is greater than ``after``."""
        return self._select("WHERE status = 'applied' AND id > ? ORDER BY id", (after,))

    def get(self, id: int) -> QueuedCommand | None:
        """One request."""
        found = self._select("WHERE id = ?", (id,))
        return found[0] if found else None

    def close(self) -> None:
        """Close the connection that reads; a later call opens it again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _open_to_write(self) -> sqlite3.Connection:
        try:
            connection = connect(self.path, "a")
        except sqlite3.Error as error:
            raise explain(error, self.path) from error
        try:
            if not _has_table(connection):
                raise RunStoreError(
                    f"{self.path} was written before runs took commands: only runs begun or resumed by this version do"
                )
        except BaseException:
            connection.close()
            raise
        return connection

    def _reader(self) -> sqlite3.Connection:
        if self._connection is None:
            try:
                self._connection = connect(self.path, "r")
            except sqlite3.Error as error:
                raise explain(error, self.path) from error
        return self._connection

    def _select(self, where: str, values: Sequence[Any] = ()) -> list[QueuedCommand]:
        connection = self._reader()
        try:
            self._there = self._there or _has_table(connection)  # looked for ten times a second
            if not self._there:
                return []
            rows = connection.execute(f"SELECT {_COLUMNS} FROM commands {where}", tuple(values)).fetchall()
        except sqlite3.Error as error:
            raise explain(error, self.path) from error
        found, self._damaged = [], []
        for row in rows:
            try:
                found.append(asked_from(*row))
            except ValueError:
                self.skipped += 1
                self._damaged += [row[0]] if type(row[0]) is int else []
        return found


def asked_from(*row: Any) -> QueuedCommand:
    """One row of the table, checked.

    Raises:
        ValueError: if it is damaged.
    """
    values = dict(zip(_COLUMNS.split(", "), row, strict=True))
    values["body"] = from_json(values["body"])
    asked = QueuedCommand(**values)
    texts = (asked.token, asked.source, asked.kind, asked.status)
    typed = all(isinstance(part, str) for part in texts) and isinstance(asked.body, dict)
    number = type(asked.id) is int and (asked.step is None or type(asked.step) is int)
    timed = all(when is None or isinstance(when, int | float) for when in (asked.created, asked.settled))
    said = isinstance(asked.reason, str | None)
    if not (typed and number and timed and said):
        raise ValueError("a row of commands with values of other types")
    return asked


def _has_table(connection: sqlite3.Connection) -> bool:
    return bool(connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'commands'").fetchone()[0])


def mark_modified(connection: sqlite3.Connection) -> None:
    """Mark a run as modified by a user, if any command that was applied changed what it computes."""
    marks = ", ".join(f"'{kind}'" for kind in READ_ONLY)
    connection.execute(
        "INSERT OR REPLACE INTO meta SELECT 'modified_by_user', 'true' WHERE EXISTS "
        f"(SELECT 1 FROM commands WHERE status = 'applied' AND kind NOT IN ({marks}))"
    )


def _too_late(connection: sqlite3.Connection) -> str | None:
    """Why a run takes no commands, or ``None`` where it does."""
    status = _meta(connection, "status")
    if status not in ("running", None):
        return f"the run is {str(status)[:_SOURCE]}: nothing can be changed"
    away = heartbeat.gone(_meta(connection, "heartbeat"))
    return None if away is None else f"the run does not train: {away}"


def _meta(connection: sqlite3.Connection, key: str) -> Any:
    row = connection.execute(GET, (key,)).fetchone()
    try:
        return None if row is None else from_json(row[0])
    except ValueError:
        return None
