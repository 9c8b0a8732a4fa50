"""What the page shows of a run, read through one read-only connection."""

from __future__ import annotations

import json
import math
import sqlite3
import time
from typing import Any

from surgecollapse.events import Measurement, Reading, from_dict
from surgecollapse.training_status import REMEMBERED, StatusReader

SILENT = 60.0
"""Seconds without a write after which a run that never said that it ended is called silent."""
BUCKETS = 800
"""Most buckets of one series that are sent."""
_ACTS = 500
"""Interventions among which the last of a kind is looked for, five times a second."""
_STATUS = {"running": "live", "complete": "finished"}
_SHOWN = ("Reading", "Decision", "Intervention", "Request", "Alarm")


def meta(connection: sqlite3.Connection, key: str, default: Any = None) -> Any:
    """A run-level value."""
    row = connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    return default if row is None else json.loads(row[0])


def status_of(connection: sqlite3.Connection, changed: float) -> dict[str, Any]:
    """``live | finished | diverged | failed | interrupted | silent``, and whether a person has changed the run."""
    said = meta(connection, "status")
    status = _STATUS.get(str(said), str(said or "silent"))
    if status == "live" and time.time() - changed > SILENT and not _switched(connection, "pause", "continue"):
        status = "silent"
    return {"status": status, "touched": bool(meta(connection, "touched", False))}


def state(connection: sqlite3.Connection, changed: float) -> dict[str, Any]:
    """The state strip: state and phase, why, where the run is and when its policy may act next.

    Returns:
        JSON-ready values; ``None`` for what the run has not recorded.
    """
    found = status_of(connection, changed)
    config = meta(connection, "config", {})
    reader = state_reader(connection, config.get("every"))
    reading = _last(connection, "Reading")
    decision = _last(connection, "Decision") or {}
    act = _last(connection, "Intervention")
    alarm = _last(connection, "Alarm")
    step = connection.execute("SELECT max(step) FROM events").fetchone()[0] or 0
    for (series,) in connection.execute("SELECT id FROM series WHERE name IN ('loss/train', 'sparsity')").fetchall():
        last = connection.execute("SELECT max(step) FROM measurements WHERE series = ?", (series,)).fetchone()[0]
        step = max(step, last or 0)
    return found | {
        "step": step,
        "total": config.get("steps"),
        "name": reader.state.name,
        "cause": reader.state.why,
        "phase": decision.get("phase") or (act or {}).get("phase") or ("dense" if reading else None),
        "why": decision.get("reason") or (act or {}).get("reason"),
        "last": None if act is None else {key: act[key] for key in ("step", "kind", "reason")},
        "alarm": alarm,
        "next": reader.next_step if found["status"] == "live" else None,
        "sparsity": act["sparsity_after"] if act else reading["sparsity"] if reading else None,
        "entropy": reading["entropy"] if reading else None,
        "loss": reading["loss"] if reading else None,
        "held": _switched(connection, "hold", "resume"),
        "paused": _switched(connection, "pause", "continue"),
        "checkpoints": meta(connection, "checkpoints", []),
    }


def state_reader(connection: sqlite3.Connection, every: int | None) -> StatusReader:
    """The state of a run as far as its record goes, of what the state is judged by alone."""
    reader = StatusReader(every)
    rows = connection.execute(
        "SELECT step, json_extract(body, '$.entropy'), json_extract(body, '$.finite') FROM events "
        "WHERE kind = 'Reading' ORDER BY step DESC LIMIT ?",
        (REMEMBERED,),
    ).fetchall()
    for step, entropy, sound in rows[::-1]:
        reader.take(Reading(step=step, entropy=entropy, finite=bool(sound)))
    acts = f"(SELECT * FROM events WHERE kind = 'Intervention' ORDER BY step DESC, id DESC LIMIT {_ACTS})"
    for kinds in ("('collapse', 'surge')", "('pump')", "('freeze')"):
        _give(reader, connection, f"{acts} WHERE json_extract(body, '$.kind') IN {kinds}")
    for kind in ("Alarm", "Decision"):
        _give(reader, connection, f"events WHERE kind = '{kind}'")
    query = "SELECT step, value FROM measurements WHERE series = (SELECT id FROM series WHERE name = 'loss/train' "
    row = connection.execute(query + "AND layer = '') ORDER BY step DESC LIMIT 1").fetchone()
    if row is not None:
        reader.take(Measurement(step=row[0], name="loss/train", value=float("nan") if row[1] is None else row[1]))
    return reader


def _give(reader: StatusReader, connection: sqlite3.Connection, of: str) -> None:
    """Tell the newest event of some."""
    query = f"SELECT kind, version, body FROM {of} ORDER BY step DESC, id DESC LIMIT 1"
    row = connection.execute(query).fetchone()
    if row is not None:
        reader.take(from_dict({"kind": row[0], "version": row[1], "event": json.loads(row[2])}))


def series_of(connection: sqlite3.Connection) -> list[dict[str, Any]]:
    """Every series with its id."""
    rows = connection.execute("SELECT id, name, layer FROM series ORDER BY name, layer")
    return [{"id": number, "name": name, "layer": layer} for number, name, layer in rows]


def points(connection: sqlite3.Connection, series: int, *, first: int | None = None, last: int | None = None,
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

    >>> connection = sqlite3.connect(":memory:")
    >>> _ = connection.execute("CREATE TABLE measurements (series, step, value)")
    >>> _ = connection.executemany("INSERT INTO measurements VALUES (1, ?, ?)", [(i, i % 10) for i in range(100)])
    >>> points(connection, 1, buckets=2)
    {'x': [0, 49, 50, 99], 'y': [0, 9, 0, 9]}
    """
    low, high = connection.execute(
        "SELECT (SELECT min(step) FROM measurements WHERE series = ?1), "
        "(SELECT max(step) FROM measurements WHERE series = ?1)",
        (series,),
    ).fetchone()
    if low is None:
        return {"x": [], "y": []}
    low, high = max(low, first if first is not None else low), min(high, last if last is not None else high)
    rows = connection.execute(
        "SELECT step, value FROM measurements WHERE series = ? AND step BETWEEN ? AND ? ORDER BY step LIMIT ?",
        (series, low, high, 2 * buckets + 1),
    ).fetchall()
    if len(rows) > 2 * buckets:
        ranges = connection.execute(
            "SELECT min(step), min(value), max(step), max(value) FROM measurements WHERE series = ? "
            "AND step BETWEEN ? AND ? GROUP BY (step - ?) * ? / ? ORDER BY 1",
            (series, low, high, low, buckets, high - low + 1),
        )
        rows = []
        for start, least, end, most in ranges:
            rows.append((start, least))
            if end > start:
                rows.append((end, most))
    return {"x": [step for step, _ in rows], "y": [finite(value) for _, value in rows]}


def since(connection: sqlite3.Connection, series: int, step: int) -> dict[str, list[Any]]:
    """What came after a step, the newest thousand at most."""
    rows = connection.execute(
        "SELECT step, value FROM measurements WHERE series = ? AND step > ? ORDER BY step DESC LIMIT 1000",
        (series, step),
    ).fetchall()[::-1]
    return {"x": [row[0] for row in rows], "y": [finite(row[1]) for row in rows]}


def events(connection: sqlite3.Connection, *, after: int = 0, before: int | None = None, kinds: tuple[str, ...] = (),
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
        f"SELECT id, step, kind, body FROM events WHERE kind IN ({marks}) AND id > ? AND id < ? "
        "ORDER BY id DESC LIMIT ?",
        (*chosen, after, 2**62 if before is None else before, most),
    ).fetchall()[::-1]
    return [{"id": id, "step": step, "class": kind, **_plain(json.loads(body))} for id, step, kind, body in rows]


def commands(connection: sqlite3.Connection, most: int = 50) -> list[dict[str, Any]]:
    """The newest requests, newest first."""
    if not connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'commands'").fetchone()[0]:
        return []
    names = ("id", "token", "created", "source", "kind", "body", "status", "step", "reason", "settled")
    rows = connection.execute(f"SELECT {', '.join(names)} FROM commands ORDER BY id DESC LIMIT ?", (most,))
    return [dict(zip(names, row, strict=True)) | {"body": json.loads(row[5])} for row in rows]


def arrays(connection: sqlite3.Connection) -> list[dict[str, Any]]:
    """Which arrays there are: name, first and last step, how many."""
    rows = connection.execute("SELECT name, min(step), max(step), count(*) FROM arrays GROUP BY name ORDER BY name")
    return [{"name": name, "first": first, "last": last, "count": count} for name, first, last, count in rows]


def sparkline(connection: sqlite3.Connection, width: int = 40) -> list[float | None]:
    """The training loss in a few numbers."""
    for name in ("loss/train", "loss/validation", "sparsity"):
        row = connection.execute("SELECT id FROM series WHERE name = ? AND layer = ''", (name,)).fetchone()
        if row is not None:
            low, high = connection.execute(
                "SELECT min(step), max(step) FROM measurements WHERE series = ?", row
            ).fetchone()
            if low is None:
                continue
            wanted = sorted({low + (high - low) * part // (width - 1) for part in range(width)})
            query = "SELECT value FROM measurements WHERE series = ? AND step <= ? ORDER BY step DESC LIMIT 1"
            return [finite(connection.execute(query, (row[0], step)).fetchone()[0]) for step in wanted]
    return []


def finite(value: Any) -> Any:
    """The number, or ``None`` where JSON has none."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _plain(value: Any) -> Any:
    """The same with ``None`` for numbers that JSON lacks."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    return finite(value)


def _last(connection: sqlite3.Connection, kind: str) -> dict[str, Any] | None:
    row = connection.execute(
        "SELECT body FROM events WHERE kind = ? ORDER BY step DESC, id DESC LIMIT 1", (kind,)
    ).fetchone()
    return None if row is None else _plain(json.loads(row[0]))


def _switched(connection: sqlite3.Connection, on: str, off: str) -> bool:
    """Whether the last request of two that was carried out is the first."""
    if not connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'commands'").fetchone()[0]:
        return False
    query = "SELECT kind FROM commands WHERE status = 'applied' AND kind IN (?, ?) ORDER BY id DESC LIMIT 1"
    row = connection.execute(query, (on, off)).fetchone()
    return row is not None and row[0] == on


def array(connection: sqlite3.Connection, name: str) -> dict[str, Any]:
    """The newest array of a name: one of ``histogram/`` as it is, a small matrix as rows, else the values' histogram.

    Returns:
        ``edges`` and ``counts``, of a recorded histogram with ``zeros``, ``bad`` (not finite) and ``total``; or
        ``rows`` for two dimensions of at most 64; empty if there is none.
    """
    import numpy as np

    row = connection.execute(
        "SELECT step, dtype, shape, data FROM arrays WHERE name = ? ORDER BY step DESC LIMIT 1", (name,)
    ).fetchone()
    if row is None:
        return {}
    step, dtype, shape, data = row
    values = np.frombuffer(data, dtype=np.dtype(dtype)).reshape(json.loads(shape)).astype(float)
    if name.startswith("histogram/") and values.ndim == 2 and len(values) == 3:
        zeros, bad, total = values[2, :3].tolist()
        counted = {"edges": values[0].tolist(), "counts": values[1, :-1].tolist()}
        return {"step": step, "zeros": zeros, "bad": bad, "total": total, **counted}
    if values.ndim == 2 and max(values.shape) <= 64:
        return {"step": step, "rows": _plain(values.tolist())}
    counts, edges = np.histogram(values[np.isfinite(values)], bins=40)
    return {"step": step, "counts": counts.tolist(), "edges": edges.tolist()}
