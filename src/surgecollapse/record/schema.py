"""The tables of a run store, how its file is opened, and what its errors mean.

Schema versions (``PRAGMA user_version``): 1 had no ``commands``; opening a file of version 1 to write adds them.
"""

from __future__ import annotations

import os
import sqlite3
import stat
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

from surgecollapse.record.filesystem import is_network
from surgecollapse.record.values import LARGEST

SCHEMA_VERSION = 2
"""Version of the tables."""
APPLICATION_ID = 0x53436F6C
"""SQLite application id that marks a run store (the letters ``SCol``)."""
COMMANDS = """
CREATE TABLE commands (id INTEGER PRIMARY KEY, token TEXT NOT NULL UNIQUE, created REAL NOT NULL, source TEXT NOT NULL,
    kind TEXT NOT NULL, body TEXT NOT NULL, status TEXT NOT NULL, step INTEGER, reason TEXT, settled REAL);
CREATE INDEX commands_by_status ON commands (status, id);
"""
TABLES = (
    """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE series (id INTEGER PRIMARY KEY, name TEXT NOT NULL, layer TEXT NOT NULL, UNIQUE (name, layer));
CREATE TABLE measurements (series INTEGER NOT NULL REFERENCES series (id), step INTEGER NOT NULL, value REAL,
    PRIMARY KEY (series, step)) WITHOUT ROWID;
CREATE TABLE events (id INTEGER PRIMARY KEY, step INTEGER NOT NULL, kind TEXT NOT NULL,
    version INTEGER NOT NULL, body TEXT NOT NULL);
CREATE INDEX events_by_kind ON events (kind, step);
CREATE TABLE arrays (step INTEGER NOT NULL, name TEXT NOT NULL, dtype TEXT NOT NULL, shape TEXT NOT NULL,
    data BLOB NOT NULL, PRIMARY KEY (name, step)) WITHOUT ROWID;
"""
    + COMMANDS
)
GET = "SELECT value FROM meta WHERE +key = ?"
"""One run-level value, looked for from the first to the last: a search would read every large value on its way."""
_SCHEMA = "SELECT type, name, tbl_name, sql FROM sqlite_master"
_BESIDE = ("-wal", "-shm", "-journal")


class RunStoreError(OSError):
    """The run store cannot be opened or written, with what to do about it."""


class Connection(sqlite3.Connection):
    """A connection that counts the damaged rows that its readers passed over."""

    skipped = 0


def create(connection: sqlite3.Connection) -> None:
    """Make all tables in an empty file."""
    marks = f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {SCHEMA_VERSION};"
    connection.executescript(f"BEGIN; {marks} {TABLES} COMMIT;")


def check(connection: sqlite3.Connection, path: Path) -> int:
    """The schema version of a file whose tables are exactly those that this library makes.

    Views, triggers, generated columns and indexes by expression run code of the file's author, hence the comparison.

    Raises:
        ValueError: if it is not a run store, or one of a newer version.
    """
    mark = connection.execute("PRAGMA application_id").fetchone()[0]
    if mark != APPLICATION_ID:
        raise ValueError(f"{path} is no surgecollapse run store: expected the run.db of a run directory")
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version > SCHEMA_VERSION:
        raise ValueError(
            f"{path} has schema version {version}, this library reads up to {SCHEMA_VERSION}: "
            "update surgecollapse to read it"
        )
    _check_tables(connection, path, version)
    return version


def _check_tables(connection: sqlite3.Connection, path: Path, version: int) -> None:
    expected = _made_by(version)
    found = {(kind, name): (table, made) for kind, name, table, made in connection.execute(_SCHEMA)}
    wrong = [name for (kind, name), made in expected.items() if found.get((kind, name), ("", ""))[1] != made]
    ours = {name for kind, name in expected if kind == "table"}
    for (kind, name), (table, made) in found.items():
        foreign_index = kind == "index" and table in ours and made and (kind, name) not in expected
        if kind in ("trigger", "view") or foreign_index:
            wrong.append(name)
    if wrong:
        shown = ", ".join(ascii(name)[:40] for name in wrong[:5])
        raise ValueError(f"{path} is damaged or no run store: its schema differs in {shown}")


@cache
def _made_by(version: int) -> dict[tuple[str, str], str]:
    """Kind and name → the statement that made it, of a file of this version."""
    connection = sqlite3.connect(":memory:")
    connection.executescript(TABLES if version >= 2 else TABLES.replace(COMMANDS, ""))
    found = {(kind, name): made for kind, name, _, made in connection.execute(_SCHEMA) if made}
    connection.close()
    return found


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the tables of an older version up to date; what is recorded stays as it is."""
    if connection.execute("PRAGMA user_version").fetchone()[0] < 2:
        connection.executescript(f"BEGIN IMMEDIATE; {COMMANDS} PRAGMA user_version = 2; COMMIT;")


def connect(
    path: Path, mode: str, *, seconds: float | None = None, largest: int = LARGEST, wait: float = 10.0
) -> Connection:
    """Open with autocommit (transactions are explicit) and the journal that the place allows.

    A file that is there is checked before anything is read from it or written to it, and nothing in it can run code.

    Args:
        path: the file.
        mode: ``r`` reads, ``a`` writes a file that is there, ``w`` makes one.
        seconds: after which queries are cut off; by default they may take as long as they need.
        largest: bytes of one value; larger ones are errors.
        wait: seconds to wait for a lock.

    Raises:
        ValueError: if it is not a run store, or one of a newer version.
        RunStoreError: if it cannot be read without what lies beside it.
        sqlite3.Error: if it cannot be opened.
    """
    if mode != "w":
        return _connected(path, mode, seconds, largest, wait)
    _make_file(path)
    try:
        return _connected(path, mode, seconds, largest, wait)
    except BaseException:
        # The log first: beside another file of this name it would be taken for its own.
        for place in (*(path.with_name(path.name + end) for end in _BESIDE), path):
            with suppress(OSError):  # the reason is what counts
                place.unlink(missing_ok=True)
        raise


def _connected(path: Path, mode: str, seconds: float | None, largest: int, wait: float) -> Connection:
    _refuse_odd(path)
    flags = {"r": "mode=ro", "a": "mode=rw", "w": "mode=rwc"}[mode]
    uri = f"{path.absolute().as_uri()}?{flags}"
    connection = _open(uri, seconds, largest, wait)
    try:
        try:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except sqlite3.OperationalError as error:
            if mode != "r" or not _is_sealed(error, path):
                raise
            connection.close()
            connection = _open(f"{uri}&immutable=1", seconds, largest, wait)
        if mode == "w":
            create(connection)
        else:
            check(connection, path)
        connection.text_factory = _lenient
        if mode != "r":
            # NORMAL: commits survive a killed process; only a power cut can lose the newest.
            _set_journal(connection, "DELETE" if is_network(path) else "WAL", wait)
            connection.execute("PRAGMA synchronous = NORMAL")
    except BaseException:
        connection.close()
        raise
    return connection


def _make_file(path: Path) -> None:
    """Claim the name: of two who make one file, one is told that it is there."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666))
    except FileExistsError as error:
        raise FileExistsError(f"{path} already holds a run: choose another place, or resume it") from error
    except OSError as error:
        reason = f"cannot write {path} ({error.strerror}): choose a folder that you may write to"
        raise RunStoreError(reason) from error


def _open(uri: str, seconds: float | None, largest: int, wait: float) -> Connection:
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=wait, factory=Connection)
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, largest)
    connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
    if seconds is not None:
        end = time.monotonic() + seconds
        connection.set_progress_handler(lambda: time.monotonic() > end, 10_000)
    # https://www.sqlite.org/security.html, "untrusted SQLite database files"
    for pragma in ("trusted_schema = OFF", "cell_size_check = ON", "mmap_size = 0"):
        connection.execute(f"PRAGMA {pragma}")
    return connection


def _set_journal(connection: sqlite3.Connection, mode: str, wait: float) -> None:
    """Change the journal; here SQLite itself does not wait for another process that writes or does the same."""
    end = time.monotonic() + wait
    while True:
        try:
            connection.execute(f"PRAGMA journal_mode = {mode}")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                raise
        time.sleep(0.01)


def _refuse_odd(path: Path) -> None:
    """Refuse what would hang or lead elsewhere: devices, pipes, and links in place of SQLite's own files."""
    for place, follow in [(path, True), *((path.with_name(path.name + end), False) for end in _BESIDE)]:
        try:
            facts = os.stat(place, follow_symlinks=follow)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise RunStoreError(f"cannot read {place} ({error.strerror}): expected the run.db of a run") from error
        if not stat.S_ISREG(facts.st_mode):
            raise ValueError(f"{place} is damaged or no run store: expected a plain file")


def _is_sealed(error: sqlite3.Error, path: Path) -> bool:
    """Whether a file that SQLite cannot open for want of a place for its index can be read as it is.

    A read-only folder has no room for the index of the log. Where there is no log and no journal, no process writes,
    and the file holds everything.

    Raises:
        RunStoreError: if there is a log or a journal, without which the file is not what was recorded.
    """
    if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
        return False
    for end in ("-wal", "-journal"):
        beside = path.with_name(path.name + end)
        if beside.exists() and beside.stat().st_size:
            raise RunStoreError(
                f"{path} cannot be read: {beside.name} holds changes that belong to it and cannot be applied here "
                f"({error}); copy the whole folder to a place that you may write to, and resume the run there or open "
                "it there with RunStore(path, mode='a')"
            ) from error
    return path.exists()


def _lenient(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def explain(error: Exception, path: Path) -> Exception:
    """Say in one line what an error of SQLite or the system means for the user."""
    text = str(error)
    if isinstance(error, RunStoreError | ValueError):
        return error
    if isinstance(error, FileNotFoundError):
        return RunStoreError(f"cannot write {path} ({text}): leave the run's folder alone while it trains")
    if "not a database" in text or "malformed" in text:
        return ValueError(f"{path} is damaged or no run store ({text}): expected the run.db of a run directory")
    if "too big" in text:
        return ValueError(f"{path} is damaged or no run store: it holds a value of more than {LARGEST} bytes")
    if "interrupted" in text:
        return RunStoreError(f"{path} takes too long to read: it is damaged, or the disk is slow")
    if "full" in text or "I/O" in text:
        return RunStoreError(f"cannot write {path} ({text}): free disk space or choose another place, then resume")
    if "locked" in text:
        return RunStoreError(f"cannot write {path} ({text}): another process writes this run; wait or stop it")
    if "readonly" in text or "unable to open" in text:
        return RunStoreError(f"cannot write {path} ({text}): choose a folder that you may write to")
    return RunStoreError(f"run store {path}: {text}")
