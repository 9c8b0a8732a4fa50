"""The tables of a run store, how its file is opened, and what its errors mean.

Schema versions (``PRAGMA user_version``): 1 had no ``commands``; opening a file of version 1 to write adds them.
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

from surgecollapse.record.filesystem import is_network

if TYPE_CHECKING:
    from pathlib import Path

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


class RunStoreError(OSError):
    """The run store cannot be opened or written, with what to do about it."""


def create(connection: sqlite3.Connection) -> None:
    """Make all tables in an empty file."""
    marks = f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {SCHEMA_VERSION};"
    connection.executescript(f"BEGIN; {marks} {TABLES} COMMIT;")


def check(connection: sqlite3.Connection, path: Path) -> int:
    """The schema version of a file.

    Raises:
        ValueError: if it is no run store, or one of a newer version.
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
    return version


def migrate(connection: sqlite3.Connection, version: int) -> None:
    """Bring the tables of an older version up to date; what is recorded stays as it is."""
    if version < 2:
        connection.executescript(f"BEGIN IMMEDIATE; {COMMANDS} PRAGMA user_version = 2; COMMIT;")


def connect(path: Path, mode: str) -> sqlite3.Connection:
    """Open with autocommit (transactions are explicit) and the journal that the place allows."""
    flags = {"r": "mode=ro", "a": "mode=rw", "w": "mode=rwc"}[mode]
    uri = f"{path.resolve().as_uri()}?{flags}"
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=10.0)
    try:
        if mode == "r":
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        else:
            # NORMAL: commits survive a killed process; only a power cut can lose the newest.
            connection.execute(f"PRAGMA journal_mode = {'DELETE' if is_network(path) else 'WAL'}")
            connection.execute("PRAGMA synchronous = NORMAL")
    except sqlite3.OperationalError:
        connection.close()
        if mode != "r":
            raise
        # A read-only folder has no room for the log's index; nobody can be writing there either.
        connection = sqlite3.connect(f"{uri}&immutable=1", uri=True, isolation_level=None)
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def explain(error: sqlite3.Error, path: Path) -> Exception:
    """Say in one line what SQLite's error means for the user."""
    text = str(error)
    if "not a database" in text or "malformed" in text:
        return ValueError(f"{path} is damaged or no run store ({text}): expected the run.db of a run directory")
    if "full" in text or "I/O" in text:
        return RunStoreError(f"cannot write {path} ({text}): free disk space or choose another place, then resume")
    if "locked" in text:
        return RunStoreError(f"cannot write {path} ({text}): another process writes this run; wait or stop it")
    if "readonly" in text or "unable to open" in text:
        return RunStoreError(f"cannot write {path} ({text}): choose a folder that you may write to")
    return RunStoreError(f"run store {path}: {text}")
