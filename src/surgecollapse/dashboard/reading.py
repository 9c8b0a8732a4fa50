"""What the page shows of a run, read through one read-only connection; damaged rows are skipped and counted."""

from __future__ import annotations

import math
import sqlite3
from typing import TYPE_CHECKING, Any, TypeVar

from surgecollapse.events import to_dict
from surgecollapse.record import heartbeat
from surgecollapse.record.commands import asked_from
from surgecollapse.record.schema import GET, Connection, connect
from surgecollapse.record.values import array_from, event_from, from_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

Found = TypeVar("Found")
BUCKETS = 800
"""Most buckets of one series that are sent."""
LARGEST = 2**24
"""Bytes of one value that are read for a page (16 MiB)."""
_SECONDS = 5.0
_WAIT = 1.0
_SHOWN = ("Reading", "Decision", "Intervention", "Request", "Alarm")
_SERIES = 10_000
_HARDEST = "samples/hardest"
_OF_SAMPLES = ("sample", "loss", "label", "predicted")
"""Columns of that array, as the command ``rank-samples`` records it."""
SOUND = "typeof(step) = 'integer' AND typeof(value) IN ('real', 'integer', 'null')"
"""Condition of measurements that are of the right types."""


def look(path: Path, seconds: float = _SECONDS) -> Connection:
    """Open a run to read a little of it, with limits on time and memory.

    Raises:
        ValueError: if it is not a run store, or one of a newer version.
        OSError: if it cannot be read.
        sqlite3.Error: likewise.
    """
    return connect(path, "r", seconds=seconds, largest=LARGEST, wait=_WAIT)


def sound(connection: Connection, rows: Iterable[tuple[Any, ...]], read: Callable[..., Found]) -> Iterator[Found]:
    """What the rows say; those that are damaged are skipped and counted."""
    for row in rows:
        try:
            yield read(*row)
        except ValueError:
            connection.skipped += 1


def meta(connection: Connection, key: str, kind: type[Found], default: Found) -> Found:
    """A run-level value of a type; the default where there is none, or another."""
    row = connection.execute(GET, (key,)).fetchone()
    for value in sound(connection, [] if row is None else [row], from_json):
        if isinstance(value, kind):
            return value
        connection.skipped += 1
    return default


def metas(connection: Connection, keys: tuple[str, ...]) -> dict[str, Any]:
    """Several run-level values in one look; without those that are missing or damaged."""
    marks = ", ".join("?" * len(keys))
    rows = connection.execute(f"SELECT key, value FROM meta WHERE +key IN ({marks})", keys)
    return dict(sound(connection, rows, lambda key, value: (key, from_json(value))))


def series_of(connection: Connection) -> list[dict[str, Any]]:
    """Every series with its id."""
    rows = connection.execute(
        "SELECT id, name, layer FROM series WHERE typeof(id) = 'integer' AND typeof(name) = 'text' "
        f"AND typeof(layer) = 'text' ORDER BY name, layer LIMIT {_SERIES}"
    )
    return [{"id": number, "name": name, "layer": layer} for number, name, layer in rows]


def points(connection: Connection, series: int, *, first: int | None = None, last: int | None = None,
           buckets: int = BUCKETS) -> dict[str, list[Any]]:  # fmt: skip
    """One series, thinned to the least and the greatest value of equal ranges of steps.

    Args:
        connection: of a run store.
        series: its id.
        first: first step.
        last: last step.
        buckets: how many ranges; a series of at most twice as many points is sent whole.

    Returns:
        ``x``, steps, and ``y``, values, ``None`` where one is not finite.

    >>> connection = Connection(":memory:")
    >>> _ = connection.execute("CREATE TABLE measurements (series, step, value)")
    >>> _ = connection.executemany("INSERT INTO measurements VALUES (1, ?, ?)", [(i, i % 10) for i in range(100)])
    >>> points(connection, 1, buckets=2)
    {'x': [0, 49, 50, 99], 'y': [0, 9, 0, 9]}
    """
    ends = f"SELECT (SELECT min(step) FROM measurements WHERE series = ?1 AND {SOUND}), "
    ends += f"(SELECT max(step) FROM measurements WHERE series = ?1 AND {SOUND})"
    low, high = connection.execute(ends, (series,)).fetchone()
    if low is None:
        return {"x": [], "y": []}
    low, high = max(low, first if first is not None else low), min(high, last if last is not None else high)
    rows = connection.execute(
        f"SELECT step, value FROM measurements WHERE series = ? AND step BETWEEN ? AND ? AND {SOUND} "
        "ORDER BY step LIMIT ?",
        (series, low, high, 2 * buckets + 1),
    ).fetchall()
    if len(rows) > 2 * buckets:
        span = high - low + 1
        ranges = connection.execute(
            f"SELECT min(step), min(value), max(step), max(value) FROM measurements WHERE series = ? "
            f"AND step BETWEEN ? AND ? AND {SOUND} GROUP BY CAST((step - ?) * ? / ? AS INTEGER) ORDER BY 1",
            (series, low, high, low, buckets, span if span < 2**40 else float(span)),
        )
        rows = []
        for start, least, end, most in ranges:
            rows.append((start, least))
            if end > start:
                rows.append((end, most))
    return {"x": [step for step, _ in rows], "y": [finite(value) for _, value in rows]}


def since(connection: Connection, series: int, step: int) -> dict[str, list[Any]]:
    """What came after a step, the newest thousand at most."""
    rows = connection.execute(
        f"SELECT step, value FROM measurements WHERE series = ? AND step > ? AND {SOUND} ORDER BY step DESC LIMIT 1000",
        (series, step),
    ).fetchall()[::-1]
    return {"x": [row[0] for row in rows], "y": [finite(row[1]) for row in rows]}


def events(connection: Connection, *, after: int = 0, before: int | None = None, kinds: tuple[str, ...] = (),
           most: int = 500) -> list[dict[str, Any]]:  # fmt: skip
    """The newest events, oldest first: interventions, requests, decisions and readings.

    Args:
        connection: of a run store.
        after: only those with a greater id.
        before: only those with a smaller id.
        kinds: classes of :mod:`surgecollapse.events`; interventions, requests and alarms by default.
        most: how many.
    """
    chosen = [kind for kind in (kinds or ("Intervention", "Request", "Alarm")) if kind in _SHOWN]
    marks = ", ".join("?" * len(chosen))
    rows = connection.execute(
        f"SELECT id, step, kind, version, body FROM events WHERE kind IN ({marks}) AND id > ? AND id < ? "
        "AND typeof(step) = 'integer' ORDER BY id DESC LIMIT ?",
        (*chosen, after, 2**62 if before is None else before, most),
    ).fetchall()[::-1]

    def shown(id: int, step: int, kind: str, version: Any, body: Any) -> dict[str, Any]:
        event: dict[str, Any] = to_dict(event_from(kind, version, body))["event"]
        return {"id": id, "step": step, "class": kind, **event}

    return list(sound(connection, rows, shown))


def commands(connection: Connection, most: int = 50) -> list[dict[str, Any]]:
    """The newest requests, newest first; ``stale`` are those that wait for a run that was killed."""
    if not takes_commands(connection):
        return []
    names = ("id", "token", "created", "source", "kind", "body", "status", "step", "reason", "settled")
    rows = connection.execute(f"SELECT {', '.join(names)} FROM commands ORDER BY id DESC LIMIT ?", (most,)).fetchall()
    gone = heartbeat.gone(meta(connection, "heartbeat", dict, {}))
    found = [vars(asked) for asked in sound(connection, rows, asked_from)]
    return [one | {"status": "stale", "reason": gone} if gone and one["status"] == "queued" else one for one in found]


def arrays(connection: Connection) -> list[dict[str, Any]]:
    """Which arrays there are: name, first and last step, how many."""
    rows = connection.execute(
        "SELECT name, min(step), max(step), count(*) FROM arrays WHERE typeof(step) = 'integer' "
        f"AND typeof(name) = 'text' GROUP BY name ORDER BY name LIMIT {_SERIES}"
    )
    return [{"name": name, "first": first, "last": last, "count": count} for name, first, last, count in rows]


def sparkline(connection: Connection, width: int = 40) -> list[float | None]:
    """The training loss in a few numbers."""
    for name in ("loss/train", "loss/validation", "sparsity"):
        row = connection.execute("SELECT id FROM series WHERE name = ? AND layer = ''", (name,)).fetchone()
        if row is None:
            continue
        low, high = connection.execute(
            f"SELECT min(step), max(step) FROM measurements WHERE series = ? AND {SOUND}", row
        ).fetchone()
        if low is None:
            continue
        wanted = sorted({low + (high - low) * part // (width - 1) for part in range(width)})
        query = f"SELECT value FROM measurements WHERE series = ? AND step <= ? AND {SOUND} ORDER BY step DESC LIMIT 1"
        return [finite(connection.execute(query, (row[0], step)).fetchone()[0]) for step in wanted]
    return []


def finite(value: Any) -> Any:
    """The number, or ``None`` where JSON has none."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def array(connection: Connection, name: str) -> dict[str, Any]:
    """The newest array of a name: one of ``histogram/`` as it is, a small matrix as rows, else the values' histogram.

    Returns:
        ``edges`` and ``counts``, of a recorded histogram with ``zeros``, ``bad`` (not finite) and ``total``; or
        ``rows`` for two dimensions of at most 64. For the hardest samples, ``columns`` and ``table``. Empty if there is
        none.

    Raises:
        ValueError: if it is damaged.
    """
    import numpy as np

    row = connection.execute(
        "SELECT step, dtype, shape, data FROM arrays WHERE name = ? AND typeof(step) = 'integer' "
        "ORDER BY step DESC LIMIT 1",
        (name,),
    ).fetchone()
    if row is None:
        return {}
    step, values = row[0], array_from(*row[1:])
    values = np.abs(values) if np.iscomplexobj(values) else values.astype(float)
    if name.startswith("histogram/") and values.ndim == 2 and len(values) == 3 and values.shape[1] > 3:
        zeros, bad, total = values[2, :3].tolist()
        counted = {"edges": values[0].tolist(), "counts": values[1, :-1].tolist()}
        return {"step": step, "zeros": zeros, "bad": bad, "total": total, **counted}
    if name == _HARDEST and values.ndim == 2 and values.shape[1] == len(_OF_SAMPLES):
        return {
            "step": step,
            "columns": _OF_SAMPLES,
            "table": [list(map(finite, row)) for row in values[:200].tolist()],
        }
    if values.ndim == 2 and values.size > 0 and max(values.shape) <= 64:
        return {"step": step, "rows": values.tolist()}
    with np.errstate(over="ignore"):
        counts, edges = np.histogram(values[np.isfinite(values)], bins=40)
    return {"step": step, "counts": counts.tolist(), "edges": edges.tolist()}


def takes_commands(connection: sqlite3.Connection) -> bool:
    """Whether it is of a version that has commands."""
    return bool(connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'commands'").fetchone()[0])
