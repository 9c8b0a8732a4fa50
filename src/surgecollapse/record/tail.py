"""What is new in a run's record since one last looked: for whatever follows a run while it trains."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgecollapse.events import Measurement
from surgecollapse.record.schema import connect, explain
from surgecollapse.record.values import array_from, event_from, from_json, is_point

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from surgecollapse.events import Event


@dataclass(frozen=True, kw_only=True)
class NewRecords:
    """What came since the last look."""

    back: int | None = None
    """The step to which a person rolled the run back meanwhile; what was told of later steps no longer holds."""
    measurements: list[Measurement] = field(default_factory=list)
    """By step."""
    events: list[tuple[int, Event]] = field(default_factory=list)
    """With their steps, in the order in which they came."""
    arrays: list[tuple[int, str, NDArray[Any]]] = field(default_factory=list)
    """Step, name, values."""


class Tail:
    """Reads a run store from its beginning, a piece at a time, through connections that cannot write.

    It holds no connection between two looks, so that the run does not notice it.

    Args:
        path: a ``run.db``.

    Raises:
        FileNotFoundError: if there is no such file.

    >>> import tempfile
    >>> from surgecollapse.record import RunStore
    >>> path = Path(tempfile.mkdtemp()) / "run.db"
    >>> with RunStore(path, mode="w") as store:
    ...     store.measure(1, "loss/train", 0.5)
    ...     store.flush()
    ...     tail = Tail(path)
    ...     first = tail.read().measurements
    ...     store.measure(2, "loss/train", 0.25)
    ...     store.flush()
    ...     [point.value for point in first], [point.value for point in tail.read().measurements]
    ([0.5], [0.25])
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"no run store at {self.path}: expected the run.db of a run directory")
        self._steps: dict[int, int] = {}
        self._arrays: dict[str, int] = {}
        self._events: list[tuple[int, int]] = []
        self._rolled: int | None = None
        self.skipped = 0
        """Damaged rows that were passed over."""

    def read(self) -> NewRecords:
        """Everything that came since the last call.

        Raises:
            RunStoreError: if the file cannot be read just now.
            ValueError: if it is no run store, or of a newer version.
        """
        try:
            with closing(connect(self.path, "r")) as connection:
                connection.execute("BEGIN")  # one moment of the record
                return NewRecords(
                    back=self._went_back(connection),
                    measurements=self._measurements(connection),
                    events=self._new_events(connection),
                    arrays=self._new_arrays(connection),
                )
        except sqlite3.Error as error:
            raise explain(error, self.path) from error

    def _went_back(self, connection: sqlite3.Connection) -> int | None:
        """Forget what was read of the steps that a roll-back undid."""
        if not connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'commands'").fetchone()[0]:
            return None
        query = "SELECT id, body FROM commands WHERE kind = 'roll-back' AND status = 'applied' ORDER BY id"
        rows = connection.execute(query).fetchall()
        before, self._rolled = self._rolled, rows[-1][0] if rows else 0
        steps = [to for id, body in rows if before is not None and id > before and (to := _target(body)) is not None]
        if not steps:
            return None
        to = min(steps)
        self._steps = {series: min(step, to) for series, step in self._steps.items()}
        self._arrays = {name: min(step, to) for name, step in self._arrays.items()}
        while self._events and self._events[-1][1] > to:
            self._events.pop()
        return to

    def _measurements(self, connection: sqlite3.Connection) -> list[Measurement]:
        found: list[Measurement] = []
        query = "SELECT step, value FROM measurements WHERE series = ? AND step > ? ORDER BY step"
        known = "SELECT id, name, layer FROM series WHERE typeof(id) = 'integer' ORDER BY id"
        for series, name, layer in connection.execute(known).fetchall():
            there = connection.execute(query, (series, self._steps.get(series, -1))).fetchall()
            rows = [row for row in there if is_point(*row)]
            self.skipped += len(there) - len(rows)
            for step, value in rows:
                number = float("nan") if value is None else value
                found.append(Measurement(step=step, name=name, value=number, layer=layer or None))
            if rows:
                self._steps[series] = rows[-1][0]
        return sorted(found, key=lambda point: point.step)

    def _new_events(self, connection: sqlite3.Connection) -> list[tuple[int, Event]]:
        last = self._events[-1][0] if self._events else 0
        query = "SELECT id, step, kind, version, body FROM events WHERE id > ? ORDER BY id"
        found = []
        for id, step, kind, version, body in connection.execute(query, (last,)):
            self._events.append((id, step if type(step) is int else -1))
            try:
                event = event_from(kind, version, body)
            except ValueError:
                self.skipped += 1
            else:
                found.append((self._events[-1][1], event))
        return found

    def _new_arrays(self, connection: sqlite3.Connection) -> list[tuple[int, str, NDArray[Any]]]:
        found = []
        query = "SELECT step, dtype, shape, data FROM arrays WHERE name = ? AND step > ? AND typeof(step) = 'integer' "
        query += "ORDER BY step"
        for (name,) in connection.execute("SELECT DISTINCT name FROM arrays ORDER BY name").fetchall():
            for step, dtype, shape, data in connection.execute(query, (name, self._arrays.get(name, -1))):
                self._arrays[name] = step
                try:
                    found.append((step, name, array_from(dtype, shape, data)))
                except ValueError:
                    self.skipped += 1
        return found


def _target(body: Any) -> int | None:
    """The step that a roll-back goes to."""
    try:
        step = from_json(body)["step"]
    except (ValueError, KeyError, TypeError):
        return None
    return step if type(step) is int else None
