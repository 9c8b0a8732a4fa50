"""What is new in a run's record since one last looked: for whatever follows a run while it trains."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from surgecollapse.events import Measurement, from_dict
from surgecollapse.record.schema import check, connect, explain

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from surgecollapse.events import Event


@dataclass(frozen=True, kw_only=True)
class News:
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

    def read(self) -> News:
        """Everything that came since the last call.

        Raises:
            RunStoreError: if the file cannot be read just now.
            ValueError: if it is no run store, or of a newer version.
        """
        try:
            with closing(connect(self.path, "r")) as connection:
                check(connection, self.path)
                connection.execute("BEGIN")  # one moment of the record
                return News(
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
        steps = [json.loads(body)["step"] for id, body in rows if before is not None and id > before]
        if not steps:
            return None
        to = int(min(steps))
        self._steps = {series: min(step, to) for series, step in self._steps.items()}
        self._arrays = {name: min(step, to) for name, step in self._arrays.items()}
        while self._events and self._events[-1][1] > to:
            self._events.pop()
        return to

    def _measurements(self, connection: sqlite3.Connection) -> list[Measurement]:
        found: list[Measurement] = []
        query = "SELECT step, value FROM measurements WHERE series = ? AND step > ? ORDER BY step"
        for series, name, layer in connection.execute("SELECT id, name, layer FROM series ORDER BY id").fetchall():
            rows = connection.execute(query, (series, self._steps.get(series, -1))).fetchall()
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
            self._events.append((id, step))
            found.append((step, from_dict({"kind": kind, "version": version, "event": json.loads(body)})))
        return found

    def _new_arrays(self, connection: sqlite3.Connection) -> list[tuple[int, str, NDArray[Any]]]:
        found = []
        query = "SELECT step, dtype, shape, data FROM arrays WHERE name = ? AND step > ? ORDER BY step"
        for (name,) in connection.execute("SELECT DISTINCT name FROM arrays ORDER BY name").fetchall():
            for step, dtype, shape, data in connection.execute(query, (name, self._arrays.get(name, -1))):
                values = np.frombuffer(data, dtype=np.dtype(dtype)).reshape(json.loads(shape)).copy()
                found.append((step, name, values))
                self._arrays[name] = step
        return found
