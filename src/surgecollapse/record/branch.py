"""A copy of a run's record up to a step, for a run that branches off from it."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

from surgecollapse.record.commands import mark_modified
from surgecollapse.record.schema import connect, explain, migrate

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_OF_ONE_PROCESS = ("heartbeat", "summary", "modified_by_user", "touched", "replay_of")
"""Values of ``meta`` that hold for the run that wrote them alone."""
_FROM_ON = ("measurements", "events", "arrays")


def copy_record(source: Path, target: Path, *, step: int, commands: Iterable[int]) -> None:
    """Copy a record as it is at this moment, while its run trains or not, without what came after a step.

    Args:
        source: a ``run.db``.
        target: the copy; it must not exist.
        step: the last step that is copied.
        commands: ids of the commands that belong to the copy; the others are left out.

    Raises:
        FileExistsError: if the target is there.
        RunStoreError: if it cannot be read or written.
        ValueError: if the source is damaged or of a newer version.
    """
    os.close(os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666))
    try:
        with closing(connect(source, "r")) as there, closing(sqlite3.connect(target)) as here:
            there.backup(here)
        with closing(connect(target, "a")) as copy:
            migrate(copy)
            copy.execute("BEGIN IMMEDIATE")
            for table in _FROM_ON:
                copy.execute(f"DELETE FROM {table} WHERE step > ?", (step,))
            copy.execute("CREATE TEMP TABLE kept (id INTEGER)")
            copy.executemany("INSERT INTO kept VALUES (?)", [(number,) for number in commands])
            copy.execute("DELETE FROM commands WHERE id NOT IN (SELECT id FROM temp.kept)")
            marks = ", ".join("?" * len(_OF_ONE_PROCESS))
            copy.execute(f"DELETE FROM meta WHERE key IN ({marks})", _OF_ONE_PROCESS)
            mark_modified(copy)
            copy.execute("COMMIT")
    except sqlite3.Error as error:
        target.unlink(missing_ok=True)
        raise explain(error, source) from error
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def last_step(path: Path) -> int:
    """The last step of which a record holds anything; 0 if it is empty.

    Raises:
        RunStoreError: if it cannot be read.
        ValueError: if it is damaged.
    """
    whole = "WHERE typeof(step) = 'integer'"
    try:
        with closing(connect(path, "r")) as connection:
            found = [connection.execute(f"SELECT max(step) FROM {table} {whole}").fetchone()[0] for table in _FROM_ON]
    except sqlite3.Error as error:
        raise explain(error, path) from error
    return max((step for step in found if step is not None), default=0)
