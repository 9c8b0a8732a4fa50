"""One run in one SQLite file, written while it trains and readable meanwhile by other processes.

Tables (schema version in ``PRAGMA user_version``, this library's mark in ``PRAGMA application_id``):

- ``meta(key, value)``: run-level JSON: configuration, environment, status, summary.
- ``series(id, name, layer)`` and ``measurements(series, step, value)``: one number per series and step.
  ``NULL`` stands for NaN.
- ``events(id, step, kind, version, body)``: readings, decisions and interventions as the JSON of
  :func:`surgecollapse.events.to_dict`; Python's ``NaN`` and ``Infinity`` may occur in it. A decision without a
  step takes that of the event before it.
- ``arrays(step, name, dtype, shape, data)``: small arrays, C order, little-endian.
- ``commands(id, token, created, source, kind, body, status, step, reason, settled)``: what people asked of the run,
  see :class:`~surgecollapse.record.commands.CommandQueue`.

The file is in write-ahead-log mode (a rollback journal on network file systems). Readers never block the writer. A
process that is killed leaves a readable store that lacks at most the last tenth of a second.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import weakref
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from surgecollapse.events import Alarm, Decision, Intervention, Measurement, Reading, Request, to_dict
from surgecollapse.record import heartbeat
from surgecollapse.record.schema import GET, RunStoreError, connect, explain, migrate
from surgecollapse.record.values import (
    LARGEST,
    array_from,
    as_array,
    event_from,
    from_json,
    is_point,
    real,
    text,
    to_json,
    whole,
)
from surgecollapse.record.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType

    from numpy.typing import NDArray

    from surgecollapse.events import Event

_SET = "INSERT OR REPLACE INTO meta VALUES (?, ?)"
_NO_LAYER = ""


logger = logging.getLogger(__name__)
Row = TypeVar("Row")


@dataclass(frozen=True, eq=False)
class Series:
    """One measured quantity over the run; its length is the number of points, and it unpacks into steps and values.

    >>> series = Series(np.array([1, 2, 3]), np.array([0.5, 0.25, 0.125]))
    >>> steps, values = series
    >>> len(series), steps.tolist()
    (3, [1, 2, 3])
    """

    steps: NDArray[np.int64]
    values: NDArray[np.float64]

    def __len__(self) -> int:
        """How many points."""
        return len(self.steps)

    def __iter__(self) -> Iterator[NDArray[Any]]:
        """Steps, then values."""
        yield self.steps
        yield self.values


class RunStore:
    """The record of one run in one SQLite file; a :class:`~surgecollapse.protocols.Recorder`.

    A thread of its own writes (:class:`~surgecollapse.record.writer.Writer`): rows are committed at most about ten
    times a second. They are also committed at :meth:`flush`, :meth:`set` and :meth:`close`, which wait for it. On a
    disk that cannot keep up, measurements are dropped and counted (``dropped`` in ``meta``), events never. Reading from
    the object that writes flushes first, so that it always sees all it wrote. One object belongs to one thread; other
    threads and processes open the file themselves with ``mode="r"``.

    Args:
        path: the file, by convention ``run.db`` in the run directory.
        mode: ``"r"`` reads, ``"w"`` makes a new file and never replaces one, ``"a"`` continues an existing
            one.

    Raises:
        FileExistsError: for ``"w"``, if the file is there.
        FileNotFoundError: for ``"r"`` and ``"a"``, if it is not.
        RunStoreError: if the place cannot be read or written, or another process writes there now.
        ValueError: if the file is no run store, or is written by a newer version.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "run.db"
    >>> with RunStore(path, mode="w") as store:
    ...     store.record(Measurement(step=1, name="loss/train", value=0.25))
    >>> with RunStore(path) as store:
    ...     store.measurements("loss/train").values.tolist()
    [0.25]
    """

    def __init__(self, path: str | Path, *, mode: Literal["r", "w", "a"] = "r") -> None:
        if mode not in ("r", "w", "a"):
            raise ValueError(f"mode must be 'r', 'w' or 'a', got {mode!r}")
        self.path = Path(path)
        self.mode = mode
        self._series: dict[tuple[str, str], int] = {}
        self._last_step = 0
        self._writer: Writer | None = None
        self._dropped = self._noted = 0
        self._connection: sqlite3.Connection | None = None
        self.skipped = 0
        """Damaged rows that were passed over while reading."""
        if mode != "w" and not self.path.is_file():
            raise FileNotFoundError(f"no run store at {self.path}: expected a file that a run wrote (run.db)")
        try:
            self._connection = connect(self.path, mode)
            if mode == "a":
                migrate(self._connection)
                self._refuse_second(self._connection)
            if mode != "r":
                self._start_writing(self._connection)
        except sqlite3.Error as error:
            self._abandon()
            raise explain(error, self.path) from error
        except (ValueError, RunStoreError):
            self._abandon()
            raise

    def _refuse_second(self, connection: sqlite3.Connection) -> None:
        """Refuse to write where another process writes: the record would be that of two runs in one."""
        said = connection.execute(GET, ("heartbeat",)).fetchone()
        process = None
        with suppress(ValueError):
            process = heartbeat.other_process(from_json(said[0])) if said else None
        if process is not None:
            raise RunStoreError(
                f"process {process} writes {self.path}: wait until it ends, stop it, or choose another folder"
            )

    def _start_writing(self, connection: sqlite3.Connection) -> None:
        self._writer = Writer(self.path)
        # If the store is never closed, the thread writes the last rows when the process ends.
        weakref.finalize(self, self._writer.close)
        last = connection.execute("SELECT max(step) FROM events WHERE typeof(step) = 'integer'").fetchone()[0]
        self._last_step = last or 0
        rows = connection.execute("SELECT name, layer, id FROM series WHERE typeof(id) = 'integer'").fetchall()
        self._series = {(name, layer): number for name, layer, number in rows}
        noted = self.get("dropped", 0)
        self._dropped = self._noted = noted if isinstance(noted, int) else 0

    @property
    def dropped(self) -> int:
        """Measurements that were dropped because the disk could not keep up."""
        return self._dropped + (0 if self._writer is None else self._writer.dropped)

    def __enter__(self) -> RunStore:
        """Open already; returns itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write what is buffered and close."""
        self.close()

    # writing

    def record(self, event: Event) -> None:
        """Take one event; a decision without a step is filed under that of the event before it.

        Raises:
            ValueError: if its step is not a whole number of 64 bits, or it holds what JSON cannot.
        """
        if isinstance(event, Measurement):
            self._put_measurement(event)
            return
        filed_before = isinstance(event, Decision) and event.step is None
        step = self._last_step if filed_before else whole(event.step)
        wire = to_dict(event)
        if not filed_before:
            self._last_step = wire["event"]["step"] = step
        row = (self._last_step, wire["kind"], wire["version"], to_json(wire["event"], wire["kind"]))
        self._queue("INSERT INTO events (step, kind, version, body) VALUES (?, ?, ?, ?)", row)

    def measure(self, step: int, name: str, value: float, layer: str | None = None) -> None:
        """Record one number; short for ``record(Measurement(...))``."""
        self.record(Measurement(step=step, name=name, value=value, layer=layer))

    def put_array(self, step: int, name: str, array: Any) -> None:
        """Keep a copy of a small array or tensor under a step and a name; the same step and name replace it.

        Raises:
            ValueError: for an array of objects or text, which has no portable bytes, and for one of more than 32 MiB.
        """
        array = as_array(array, name)
        if array.nbytes > LARGEST // 2:
            raise ValueError(f"array {name!r} takes {array.nbytes} bytes: expected at most {LARGEST // 2}")
        portable = array.astype(array.dtype.newbyteorder("<"), order="C", copy=False)
        shape, data = json.dumps(array.shape), portable.tobytes(order="C")
        row = (whole(step), text(name, "the name of an array"), portable.dtype.str, shape, data)
        self._queue("INSERT OR REPLACE INTO arrays (step, name, dtype, shape, data) VALUES (?, ?, ?, ?, ?)", row)

    def set(self, key: str, value: Any) -> None:
        """Write one run-level value (anything that JSON can hold) at once."""
        self._queue(_SET, (text(key, "the key of a value"), to_json(value, key)))
        self.flush()

    def truncate_after(self, step: int) -> None:
        """Drop all measurements, events and arrays after ``step``: what a resumed run will pass again."""
        step = whole(step)
        self.flush()
        for table in ("measurements", "events", "arrays"):
            self._queue(f"DELETE FROM {table} WHERE step > ?", (step,))
        self._last_step = min(self._last_step, step)
        self.flush()

    def flush(self) -> None:
        """Commit what is buffered.

        Raises:
            RunStoreError: if it cannot be written, for instance on a full disk. What was committed before
                stays.
        """
        if self._writer is None or self._connection is None:
            return
        if self.dropped > self._noted:
            self._noted = self.dropped
            self._writer.put(_SET, ("dropped", json.dumps(self._noted)))
        self._writer.flush()

    def close(self) -> None:
        """Commit and close; closing twice is allowed. The connection is closed even if the commit fails."""
        if self._connection is None:
            return
        if self._writer is not None and self._writer.forked:
            self._connection = None  # the lock and the log of the file are those of the process that writes
            return
        try:
            self.flush()
            if self._writer is not None:
                self._writer.close()
            if self.mode != "r":
                # Without a log, a finished run is one file, and can be read from a read-only place. With a
                # reader still there the log stays, which is harmless. All is committed: no fault here loses anything.
                with suppress(sqlite3.Error):
                    self._connection.execute("PRAGMA journal_mode = DELETE")
        finally:
            self._abandon()

    # reading

    def get(self, key: str, default: Any = None) -> Any:
        """The run-level value under ``key``, or ``default``.

        Raises:
            ValueError: if what stands there is damaged.
        """
        rows = self._select(GET, (key,))
        try:
            return from_json(rows[0][0]) if rows else default
        except ValueError as error:
            raise ValueError(f"{self.path}: the value {key!r} is damaged: {error}") from error

    @property
    def modified_by_user(self) -> bool:
        """Whether a user changed the run while it trained."""
        return bool(self.get("modified_by_user", self.get("touched", False)))  # the key in version 0.1

    def meta(self) -> dict[str, Any]:
        """All run-level values; damaged ones are skipped."""
        rows = self._select("SELECT key, value FROM meta ORDER BY key")
        return dict(self._sound(rows, lambda key, value: (key, from_json(value))))

    def names(self) -> list[tuple[str, str | None]]:
        """Every measured series as (name, layer), sorted."""
        rows = self._select("SELECT name, layer FROM series ORDER BY name, layer")
        return [(name, layer or None) for name, layer in self._sound(rows, lambda *row: _texts(row))]

    def measurements(self, name: str, layer: str | None = None) -> Series:
        """Steps and values of one series, in the order of the steps; empty if it was never measured."""
        rows = self._select(
            "SELECT step, value FROM measurements JOIN series ON series.id = measurements.series "
            "WHERE name = ? AND layer = ? ORDER BY step",
            (name, layer or _NO_LAYER),
        )
        sound = [row for row in rows if is_point(*row)]
        self._skip(len(rows) - len(sound))
        steps = np.array([step for step, _ in sound], dtype=np.int64)
        values = np.array([np.nan if value is None else value for _, value in sound], dtype=np.float64)
        return Series(steps, values)

    def readings(self) -> list[Reading]:
        """All readings, in the order in which they came."""
        return [event for _, event in self._events("Reading")]

    def decisions(self) -> list[tuple[int, Decision]]:
        """All recorded decisions with the step of the reading that each followed."""
        return list(self._events("Decision"))

    def interventions(self) -> list[Intervention]:
        """All interventions, in the order in which they came."""
        return [event for _, event in self._events("Intervention")]

    def requests(self) -> list[Request]:
        """What people asked for and what became of it, in the order in which it was settled."""
        return [event for _, event in self._events("Request")]

    def alarms(self) -> list[Alarm]:
        """What detectors said, in the order in which it came."""
        return [event for _, event in self._events("Alarm")]

    def arrays(self, name: str) -> list[tuple[int, NDArray[Any]]]:
        """All arrays of one name with their steps, in the order of the steps; each a new, writable copy."""
        rows = self._select("SELECT step, dtype, shape, data FROM arrays WHERE name = ? ORDER BY step", (name,))
        return list(self._sound(rows, lambda step, *parts: (_stored(step), array_from(*parts))))

    # inside

    def _events(self, kind: str) -> Iterator[tuple[int, Any]]:
        rows = self._select("SELECT step, version, body FROM events WHERE kind = ? ORDER BY id", (kind,))
        return self._sound(rows, lambda step, version, body: (_stored(step), event_from(kind, version, body)))

    def _sound(self, rows: Iterable[tuple[Any, ...]], read: Callable[..., Row]) -> Iterator[Row]:
        """What the rows say; those that are damaged are skipped and counted."""
        for row in rows:
            try:
                yield read(*row)
            except ValueError as error:
                self._skip(1, str(error))

    def _skip(self, count: int, why: str = "not a number") -> None:
        if count and not self.skipped:
            logger.warning("%s: rows that are damaged are skipped, the first: %s", self.path, why)
        self.skipped += count

    def _put_measurement(self, event: Measurement) -> None:
        step, value = whole(event.step), real(event.value)
        key = (event.name, event.layer or _NO_LAYER)
        series = self._series.get(key)
        if series is None:
            name, layer = text(event.name, "the name of a series"), text(key[1], "the layer of a series")
            series = self._series[key] = 1 + max(self._series.values(), default=0)
            self._queue("INSERT INTO series (id, name, layer) VALUES (?, ?, ?)", (series, name, layer))
        self._queue("INSERT OR REPLACE INTO measurements VALUES (?, ?, ?)", (series, step, value), live=True)

    def _queue(self, statement: str, row: tuple[Any, ...], *, live: bool = False) -> None:
        if self.mode == "r":
            raise RunStoreError(f"{self.path} was opened to read: open it with mode 'a' to write")
        self._open()
        assert self._writer is not None
        self._writer.put(statement, row, live=live)

    def _select(self, statement: str, row: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        self.flush()
        try:
            return self._open().execute(statement, row).fetchall()
        except sqlite3.Error as error:
            raise explain(error, self.path) from error

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            raise RunStoreError(f"the run store {self.path} is closed: open it again")
        return self._connection

    def _abandon(self) -> None:
        if self._writer is not None:
            self._writer.close()
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _stored(step: Any) -> int:
    if type(step) is not int:
        raise ValueError(f"a step that is {type(step).__name__}")
    return step


def _texts(row: tuple[Any, ...]) -> tuple[str, str]:
    name, layer = row
    if not isinstance(name, str) or not isinstance(layer, str):
        raise ValueError("a name that is not text")
    return name, layer
