"""Which runs lie under a folder; browsers know them by an id that is no path."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from surgecollapse.dashboard.notes import TRASH, read_notes, throw_away, write_notes
from surgecollapse.dashboard.reading import look, sparkline
from surgecollapse.dashboard.rows import row_of, varying
from surgecollapse.dashboard.run_state import lineage

_DEEPEST = 4
_BUDGET = 5.0
"""Seconds after which a list is answered; what was not read by then comes with the next."""
_SECONDS = 2.0
_MOST = 2000
_REMEMBER = 2.0
_MOST_VARYING = 24
"""Settings of each run that a list carries."""


class Runs:
    """The runs under one folder, found anew every two seconds at most.

    Args:
        root: a folder of run directories, or one run directory.

    Raises:
        FileNotFoundError: if there is no such folder.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise FileNotFoundError(f"no folder {self.root}: expected one that holds run directories")
        self._inside = ""
        self._found: dict[str, Path] = {}
        self._looked = 0.0
        self._rows: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {}
        self._lines: dict[str, tuple[tuple[int, ...], list[float | None]]] = {}

    def path(self, run: str) -> Path:
        """The ``run.db`` of an id.

        Raises:
            KeyError: if no run has it.
            ValueError: if it is a link that leads out of the folder.
        """
        if run not in self._found:
            self._look()
        found = self._found[run]
        self._refuse_outside(found)
        return found

    def rows(self) -> list[dict[str, Any]]:
        """One row per run with its figures and settings, the newest first; damaged files say so."""
        self._look()
        end = time.monotonic() + _BUDGET
        rows = [self._row(run, path, end) | read_notes(path.parent) for run, path in list(self._found.items())]
        return sorted(rows, key=lambda row: -float(row["changed"]))

    def listing(self) -> dict[str, Any]:
        """The rows as the page shows them: of the settings, only those in which the runs differ.

        Returns:
            ``runs``, and ``varying``: the names of these settings.
        """
        rows = self.rows()
        different = varying(rows)
        kept = set(different[:_MOST_VARYING])
        shown = [
            row | {"settings": {name: value for name, value in row.get("settings", {}).items() if name in kept}}
            for row in rows
        ]
        return {"runs": shown, "varying": different}

    def sparklines(self, runs: list[str]) -> dict[str, list[float | None]]:
        """The training loss of some runs in a few numbers; without those that cannot be read."""
        found: dict[str, list[float | None]] = {}
        end = time.monotonic() + _BUDGET
        for run in runs:
            if time.monotonic() > end:
                break
            try:
                path = self.path(run)
                mark = signature(path)
                if self._lines.get(run, ((), []))[0] != mark:
                    with closing(look(path, _SECONDS)) as connection:
                        self._lines[run] = mark, sparkline(connection)
            except (KeyError, sqlite3.Error, ValueError, OSError):
                continue
            found[run] = self._lines[run][1]
        return found

    def note(self, run: str, given: dict[str, Any]) -> dict[str, Any]:
        """Change the notes of a run and return all of them.

        Raises:
            KeyError: if no run has this id.
            ValueError: if they cannot be kept.
            OSError: if the folder cannot be written.
        """
        return write_notes(self.path(run).parent, given)

    def throw_away(self, run: str) -> str:
        """Move a run that nobody trains to the trash folder; returns where it is, from the folder of runs on.

        Raises:
            KeyError: if no run has this id.
            ValueError: if it trains, or may not be moved.
            OSError: if it cannot be moved.
        """
        path = self.path(run)
        row = self._row(run, path, time.monotonic() + _BUDGET)
        if row["status"] == "live":
            raise ValueError(f"{row['name']} still trains: stop it first")
        place = throw_away(path.parent, self.root)
        for kept in (self._found, self._rows, self._lines):
            kept.pop(run, None)
        return str(place.relative_to(self.root))

    def _look(self) -> None:
        if time.monotonic() - self._looked < _REMEMBER and self._found:
            return
        self._inside = os.path.realpath(self.root)
        found: dict[str, Path] = {}
        for folder, below, files in os.walk(self.root):
            place = Path(folder)
            if TRASH in below and place == self.root:
                below.remove(TRASH)
            if "run.db" in files:
                name = str(place.relative_to(self.root))
                found[hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()[:12]] = place / "run.db"
                below.clear()
            if len(place.relative_to(self.root).parts) >= _DEEPEST or len(found) >= _MOST:
                below.clear()
        self._found, self._looked = found, time.monotonic()

    def _branch_of(self, path: Path, said: dict[str, Any]) -> dict[str, Any]:
        """Of a branch, ``branch``: the id of the run that it leaves (``None`` if that is not here), where and why."""
        if not said:
            return {}
        place = Path(os.path.normpath(path.parent / said["parent"]))
        there = [run for run, found in self._found.items() if found.parent == place]
        return {"branch": said | {"parent": there[0] if there else None, "name": place.name}}

    def _row(self, run: str, path: Path, end: float) -> dict[str, Any]:
        mark = signature(path)
        before = self._rows.get(run)
        if before is not None and before[0] == mark and before[1]["status"] != "live":
            return before[1]
        name = str(path.parent.relative_to(self.root))
        name = Path(os.path.abspath(path.parent)).name if name == "." else name
        row: dict[str, Any] = {"id": run, "name": name.encode(errors="replace").decode(), "changed": changed(path)}
        if time.monotonic() > end:
            return row | {"status": "unread", "modified_by_user": False, "why": "not read yet"}
        try:
            self._refuse_outside(path)
            with closing(look(path, _SECONDS)) as connection:
                row |= row_of(connection, path, row["changed"]) | self._branch_of(path, lineage(connection))
        except (sqlite3.Error, ValueError, OSError) as error:
            row |= {"status": "unreadable", "modified_by_user": False, "why": str(error)}
        self._rows[run] = mark, row
        return row

    def _refuse_outside(self, path: Path) -> None:
        """Refuse a link that leads out of the folder: whoever can write a run could show any file.

        Raises:
            ValueError: if it does, or leads nowhere.
        """
        try:
            place = os.path.realpath(path, strict=True)
        except (OSError, RuntimeError) as error:
            raise ValueError(f"{path.name} is a link that leads nowhere: {error}") from error
        if os.path.commonpath((place, self._inside)) != self._inside:
            raise ValueError(f"{path.name} is a link to a file outside of this folder: put the run itself here")


def signature(path: Path) -> tuple[int, ...]:
    """Changes whenever something was written."""
    marks: list[int] = []
    for file in (path, path.with_name(path.name + "-wal")):
        try:
            facts = file.stat()
        except OSError:
            marks += [0, 0]
        else:
            marks += [facts.st_mtime_ns, facts.st_size]
    return tuple(marks)


def changed(path: Path) -> float:
    """When something was last written, in seconds since 1970."""
    marks = signature(path)
    return max(marks[0], marks[2]) / 1e9
