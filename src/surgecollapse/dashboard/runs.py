"""Which runs lie under a folder; browsers know them by an id that is no path."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from surgecollapse.dashboard.reading import lineage, look, sparkline, state_reader, status_of

_DEEPEST = 4
_BUDGET = 5.0
"""Seconds after which a list is answered; what was not read by then comes with the next."""
_SECONDS = 2.0
_MOST = 500
_REMEMBER = 2.0


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
        self._found: dict[str, Path] = {}
        self._looked = 0.0
        self._rows: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {}

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

    def listing(self) -> list[dict[str, Any]]:
        """One row per run: id, name, status and a sparkline; damaged files say so."""
        self._look()
        end = time.monotonic() + _BUDGET
        rows = [self._row(run, path, end) for run, path in list(self._found.items())]
        return sorted(rows, key=lambda row: -float(row["changed"]))

    def _look(self) -> None:
        if time.monotonic() - self._looked < _REMEMBER and self._found:
            return
        found: dict[str, Path] = {}
        for folder, below, files in os.walk(self.root):
            place = Path(folder)
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
            return row | {"status": "unread", "modified_by_user": False, "why": "not read yet", "line": []}
        try:
            self._refuse_outside(path)
            with closing(look(path, _SECONDS)) as connection:
                row |= status_of(connection, row["changed"]) | {"line": sparkline(connection)}
                row |= self._branch_of(path, lineage(connection))
                if row["status"] == "live":
                    row["state"] = state_reader(connection, None).state.name
        except (sqlite3.Error, ValueError, OSError) as error:
            row |= {"status": "unreadable", "modified_by_user": False, "why": str(error), "line": []}
        self._rows[run] = mark, row
        return row

    def _refuse_outside(self, path: Path) -> None:
        """Refuse a link that leads out of the folder: whoever can write a run could show any file.

        Raises:
            ValueError: if it does, or leads nowhere.
        """
        try:
            inside = path.resolve(strict=True).is_relative_to(self.root.resolve())
        except (OSError, RuntimeError) as error:
            raise ValueError(f"{path.name} is a link that leads nowhere: {error}") from error
        if not inside:
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
