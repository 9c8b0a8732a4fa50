"""The state of a run as the page shows it: status, phase, why, and where it comes from."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from surgecollapse.dashboard.reading import SOUND, Found, meta, metas, sound, takes_commands
from surgecollapse.events import Measurement, Reading, to_dict
from surgecollapse.record import heartbeat
from surgecollapse.record.values import event_from, from_json
from surgecollapse.training_status import REMEMBERED, StatusReader

if TYPE_CHECKING:
    from collections.abc import Iterator

    from surgecollapse.record.schema import Connection

SILENT = 60.0
"""Seconds without a write after which a run that never said that it ended is called silent."""
_ACTS = 500
"""Interventions among which the last of a kind is looked for, five times a second."""
_TRIES = 20
"""Damaged events that are passed over to find a sound one."""
_STATUS = {"running": "live", "complete": "finished"}


def status_of(connection: Connection, changed: float) -> dict[str, Any]:
    """``live | finished | diverged | failed | interrupted | silent``, and whether a user has changed the run."""
    found = metas(connection, ("status", "heartbeat", "modified_by_user", "touched"))

    def of(key: str, kind: type[Found], default: Found) -> Found:
        value = found.get(key, default)
        connection.skipped += not isinstance(value, kind)
        return value if isinstance(value, kind) else default

    said = of("status", str, "")[:40]
    status, why, alive = _STATUS.get(said, said or "silent"), None, of("heartbeat", dict, {})
    if status == "live" or (alive and not said):  # a loop of its own need not say that it runs
        status, why = "live", heartbeat.gone(alive)
        quiet = time.time() - changed > SILENT and not _switched(connection, ("pause",), ("continue",))
        status = "silent" if why or quiet else "live"
    modified = of("modified_by_user", bool, of("touched", bool, False))  # as 0.1 wrote it
    return {"status": status, "modified_by_user": modified} | ({"why": why} if why else {})


def lineage(connection: Connection) -> dict[str, Any]:
    """Of a branch, where it comes from: ``parent`` (the way there from its own folder), ``at``, ``by``, ``changes``.

    ``by`` is ``fork``, ``roll-back`` (what a roll-back left) or ``twin``. Empty where a run is not a branch.
    """
    parent = meta(connection, "parent", str, "")
    if not parent:
        return {}
    return {
        "parent": parent,
        "at": meta(connection, "forked_at", int, 0),
        "by": meta(connection, "forked_by", str, "fork"),
        "changes": meta(connection, "fork_changes", dict, {}),
    }


def state(connection: Connection, changed: float) -> dict[str, Any]:
    """The state strip: state and phase, why, where the run is and when its policy may act next.

    Returns:
        JSON-ready values; ``None`` for what the run has not recorded.
    """
    found = status_of(connection, changed)
    found.pop("why", None)
    config: dict[str, Any] = meta(connection, "config", dict, {})
    method, run = (_part(config, section) for section in ("method", "run"))
    reader = state_reader(connection, _whole(method.get("every")))
    reading, act = last_event(connection, "Reading"), last_event(connection, "Intervention")
    decision, alarm = last_event(connection, "Decision"), last_event(connection, "Alarm")
    latest = decision or act
    return found | {
        "step": step_of(connection),
        "total": _whole(run.get("steps")),
        "name": reader.state.name,
        "cause": reader.state.why,
        "phase": latest.phase if latest else "dense" if reading else None,
        "why": latest.reason if latest else None,
        "last": None if act is None else {"step": act.step, "kind": act.kind, "reason": act.reason},
        "alarm": None if alarm is None else to_dict(alarm)["event"],
        "next": reader.next_step if found["status"] == "live" else None,
        "sparsity": act.sparsity_after if act else reading.sparsity if reading else None,
        "target": _target(method.get("sparsity")),
        "entropy": reading.entropy if reading else None,
        "loss": reading.loss if reading else None,
        "held": _switched(connection, ("pause-policy", "hold"), ("resume-policy", "resume")),
        "paused": _switched(connection, ("pause",), ("continue",)),
        "checkpoints": meta(connection, "checkpoints", list, []),
        "kept": meta(connection, "kept_checkpoints", list, []),
        "skipped": connection.skipped,
    }


def step_of(connection: Connection) -> int:
    """The last step that the record knows of."""
    steps = "SELECT max(step) FROM {} WHERE typeof(step) = 'integer'"
    step = connection.execute(steps.format("events")).fetchone()[0] or 0
    for (series,) in connection.execute("SELECT id FROM series WHERE name IN ('loss/train', 'sparsity')").fetchall():
        last = connection.execute(f"{steps.format('measurements')} AND series = ?", (series,)).fetchone()[0]
        step = max(step, last or 0)
    return int(step)


def state_reader(connection: Connection, every: int | None) -> StatusReader:
    """The state of a run as far as its record goes, of what the state is judged by alone."""
    reader = StatusReader(every)
    rows = connection.execute(
        "SELECT step, body FROM events WHERE kind = 'Reading' AND typeof(step) = 'integer' ORDER BY step DESC LIMIT ?",
        (REMEMBERED,),
    ).fetchall()
    for reading in sound(connection, rows[::-1], _judged):
        reader.take(reading)
    acts = f"(SELECT * FROM events WHERE kind = 'Intervention' ORDER BY step DESC, id DESC LIMIT {_ACTS})"
    for kinds in (("collapse", "surge"), ("pump",), ("freeze",)):
        # Looked for as text, since few of many are wanted.
        marked = " OR ".join(f"""instr(body, '"kind":"{kind}"')""" for kind in kinds)
        _give(reader, connection, f"{acts} WHERE {marked}")
    for kind in ("Alarm", "Decision"):
        _give(reader, connection, f"events WHERE kind = '{kind}'")
    query = "SELECT step, value FROM measurements WHERE series = (SELECT id FROM series WHERE name = 'loss/train' "
    row = connection.execute(query + f"AND layer = '') AND {SOUND} ORDER BY step DESC LIMIT 1").fetchone()
    if row is not None:
        reader.take(Measurement(step=row[0], name="loss/train", value=float("nan") if row[1] is None else row[1]))
    return reader


def _judged(step: int, body: Any) -> Reading:
    """A reading without what the state is not judged by: its layers are many."""
    said = from_json(body)
    entropy = said.get("entropy") if isinstance(said, dict) else ""
    if not isinstance(entropy, float | int | None):
        raise ValueError("a reading of other types")
    return Reading(step=step, entropy=entropy, finite=bool(said.get("finite", True)))


def _give(reader: StatusReader, connection: Connection, of: str) -> None:
    """Tell the newest sound event of some."""
    for event in _newest(connection, of):
        reader.take(event)


def _newest(connection: Connection, of: str) -> Iterator[Any]:
    """The newest sound event of some, if there is one."""
    query = f"SELECT kind, version, body FROM {of} ORDER BY step DESC, id DESC LIMIT {_TRIES}"
    for event in sound(connection, connection.execute(query), event_from):
        yield event
        return


def last_event(connection: Connection, kind: str) -> Any:
    """The newest sound event of a class."""
    return next(_newest(connection, f"events WHERE kind = '{kind}'"), None)


def _switched(connection: Connection, on: tuple[str, ...], off: tuple[str, ...]) -> bool:
    """Whether the last request that was carried out, of those that switch something, switched it on."""
    if not takes_commands(connection):
        return False
    marks = ", ".join("?" for _ in (*on, *off))
    query = f"SELECT kind FROM commands WHERE status = 'applied' AND kind IN ({marks}) ORDER BY id DESC LIMIT 1"
    row = connection.execute(query, (*on, *off)).fetchone()
    return row is not None and row[0] in on


def _part(config: dict[str, Any], section: str) -> dict[str, Any]:
    """A section of the configuration; one that version 0.1 recorded is flat."""
    part = config.get(section, config)
    return part if isinstance(part, dict) else {}


def _target(value: Any) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1 else None


def _whole(value: Any) -> int | None:
    return value if type(value) is int and 0 < value < 2**63 else None
