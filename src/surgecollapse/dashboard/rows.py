"""What the list of runs says of one run: its figures, its settings, and what people noted about it."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from surgecollapse.dashboard.reading import metas
from surgecollapse.dashboard.run_state import last_event, state_reader, status_of, step_of
from surgecollapse.record.outcome import number

if TYPE_CHECKING:
    from pathlib import Path

    from surgecollapse.record.schema import Connection

_SEEDS = frozenset({"run.seed", "seed", "run.split_seed", "split_seed"})
_PLACES = frozenset({"data.data_dir", "run.device", "run.threads", "run.checkpoint_every", "run.keep_checkpoints"})
"""Settings that do not make another experiment."""
_BESIDE = _SEEDS | _PLACES
_MOST_SETTINGS = 400
_LONGEST = 80


def row_of(connection: Connection, path: Path, changed: float) -> dict[str, Any]:
    """The figures of a run, as its record has them; ``None`` for what it lacks.

    Args:
        connection: of the run store.
        path: the ``run.db``.
        changed: when something was last written, in seconds since 1970.
    """
    row = status_of(connection, changed)
    said = metas(connection, ("config", "summary", "policy", "started"))
    config, summary = (said[name] if isinstance(said.get(name), dict) else {} for name in ("config", "summary"))
    flat = settings_of(config)
    started = _started(said.get("started"), path)
    seconds = number(summary.get("seconds"))
    accuracy, part = _best_known(connection, summary, "accuracy")
    loss, _ = _best_known(connection, summary, "loss")
    if row["status"] == "live":
        row["state"] = state_reader(connection, None).state.name
    return row | {
        "task": _text(summary.get("task") or flat.get("data.task") or flat.get("task")),
        "policy": _text(flat.get("method.policy") or flat.get("policy") or said.get("policy")),
        "target": number(flat.get("method.sparsity", flat.get("sparsity"))),
        "sparsity": _sparsity(connection, summary),
        "accuracy": accuracy,
        "part": part,
        "loss": loss,
        "step": step_of(connection),
        "total": number(flat.get("run.steps", flat.get("steps"))),
        "seed": number(flat.get("run.seed", flat.get("seed"))),
        "started": started,
        "duration": seconds if seconds is not None else None if started is None else max(0.0, changed - started),
        "size": number(summary.get("bytes_sparse")),
        "group": group_of(flat),
        "settings": flat,
    }


def settings_of(config: dict[str, Any]) -> dict[str, Any]:
    """The settings of a run as ``section.key`` → number, switch or short text.

    >>> settings_of({"run": {"seed": 0, "goal": None}, "model": {"widths": [8, 8]}})
    {'run.seed': 0, 'run.goal': None, 'model.widths': '[8, 8]'}
    """
    found: dict[str, Any] = {}
    for section, values in config.items():
        for name, value in (values if isinstance(values, dict) else {"": values}).items():
            if value is not None and type(value) not in (bool, int, float):
                value = (value if isinstance(value, str) else json.dumps(value))[:_LONGEST]
            found[f"{section}.{name}" if name else section] = value
            if len(found) >= _MOST_SETTINGS:
                return found
    return found


def group_of(settings: dict[str, Any]) -> str | None:
    """The same for runs that differ in their seeds and in nothing that makes another experiment.

    >>> group_of({"run.seed": 1, "run.lr": 0.1}) == group_of({"run.seed": 2, "run.lr": 0.1})
    True
    """
    if not settings:
        return None
    kept = {name: value for name, value in settings.items() if name not in _BESIDE}
    return hashlib.sha256(repr(sorted(kept.items())).encode(errors="surrogateescape")).hexdigest()[:12]


def varying(rows: list[dict[str, Any]]) -> list[str]:
    """Settings in which the runs of a list differ, seeds aside."""
    seen: dict[str, Any] = {}
    different: set[str] = set()
    tables = [row["settings"] for row in rows if row.get("settings")]
    for table in tables:
        for name, value in table.items():
            if name in different or name in _BESIDE:
                continue
            if name not in seen:
                seen[name] = value
            elif seen[name] != value:
                different.add(name)
    return sorted(different)


def _text(value: Any) -> str | None:
    return value[:_LONGEST] if isinstance(value, str) and value else None


def _best_known(connection: Connection, summary: dict[str, Any], what: str) -> tuple[float | None, str | None]:
    """The figure on test data, or the newest on validation data, and of which it is."""
    found = number(summary.get(what))
    if found is not None:
        return found, "test"
    found = newest(connection, f"{what}/validation")
    return found, None if found is None else "validation"


def _sparsity(connection: Connection, summary: dict[str, Any]) -> float | None:
    found = number(summary.get("sparsity"))
    found = newest(connection, "sparsity") if found is None else found
    if found is None and (reading := last_event(connection, "Reading")) is not None:  # of a loop of one's own
        found = number(reading.sparsity)
    return found


def newest(connection: Connection, name: str) -> float | None:
    """The newest value of a series without a layer."""
    query = "SELECT value FROM measurements WHERE series = (SELECT id FROM series WHERE name = ? AND layer = '') "
    query += "AND typeof(step) = 'integer' ORDER BY step DESC LIMIT 1"
    row = connection.execute(query, (name,)).fetchone()
    return None if row is None else number(row[0])


def _started(said: Any, path: Path) -> float | None:
    """When the run began, in seconds since 1970; of older records, when its environment was noted."""
    if number(said) is not None:
        return number(said)
    try:
        return path.with_name("env.json").stat().st_mtime
    except OSError:
        return None
