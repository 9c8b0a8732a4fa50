"""The readings and interventions of a run as lines: they are in the record as events, at a cadence of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from surgecollapse.dashboard.reading import finite, sound
from surgecollapse.record.values import from_json

if TYPE_CHECKING:
    from surgecollapse.record.schema import Connection

MOST = 800
"""Readings of a run that are sent; of more, evenly many."""
_LAYERS = {
    "entropy": "entropy/activation",
    "on_off": "entropy/on_off",
    "energy": "energy/activation",
    "dead": "units/dead",
}
"""Values of a layer → name of the line."""
_WHOLE = {
    "entropy": ("entropy/activation", "mean of layers"),
    "target_entropy": ("entropy/target", ""),
    "prediction_confidence": ("confidence/prediction", ""),
}
"""Values of the net → name of the line, and of its part."""


def reading_lines(connection: Connection, *, after: int = -1) -> list[dict[str, Any]]:
    """Every line that the readings hold, and the sparsity as the interventions set it.

    Args:
        connection: of a run store.
        after: only what came after this step.

    Returns:
        ``name``, ``layer``, ``x`` (steps), ``y`` (values, ``None`` where not finite), and ``kind``: ``reading``, or
        ``steps`` of what holds until it changes.
    """
    lines: dict[tuple[str, str], dict[str, Any]] = {}

    def add(step: int, name: str, layer: str, value: Any) -> None:
        if value is None or isinstance(value, bool) or not isinstance(value, int | float):
            return
        line = lines.setdefault((name, layer), {"name": name, "layer": layer, "kind": "reading", "x": [], "y": []})
        line["x"].append(step)
        line["y"].append(finite(value))

    for step, said in _readings(connection, after):
        layers = [layer for layer in said.get("layers") or [] if isinstance(layer, dict)]
        for key, (name, part) in _WHOLE.items():
            if part and len(layers) < 2:
                continue  # its one layer is the net's
            add(step, name, part, said.get(key))
        for layer in layers:
            for key, name in _LAYERS.items():
                add(step, name, str(layer.get("layer"))[:200], layer.get(key))
    found = list(lines.values())
    changes = _sparsities(connection, after)
    if changes["x"]:
        found.append({"name": "sparsity", "layer": "", "kind": "steps", **changes})
    return found


def _readings(connection: Connection, after: int) -> list[tuple[int, dict[str, Any]]]:
    """Steps and values of readings, evenly many of them, in order."""
    where = "FROM events WHERE kind = 'Reading' AND typeof(step) = 'integer' AND step > ?"
    ids = [row[0] for row in connection.execute(f"SELECT id {where} ORDER BY step, id", (after,))]
    if len(ids) > MOST:
        ids = [ids[part * (len(ids) - 1) // (MOST - 1)] for part in range(MOST)]
    rows = (connection.execute("SELECT step, body FROM events WHERE id = ?", (id,)).fetchone() for id in ids)

    def read(step: int, body: Any) -> tuple[int, dict[str, Any]]:
        said = from_json(body)
        if not isinstance(said, dict) or not isinstance(said.get("layers") or [], list):
            raise ValueError("a reading that is no table")
        return step, said

    return list(sound(connection, (row for row in rows if row is not None), read))


def _sparsities(connection: Connection, after: int) -> dict[str, list[Any]]:
    """Steps at which the sparsity changed, and what it was from then on."""
    query = "SELECT step, body FROM events WHERE kind = 'Intervention' AND typeof(step) = 'integer' AND step > ? "
    rows = connection.execute(query + "ORDER BY step, id LIMIT 20000", (after,))
    x: list[int] = []
    y: list[Any] = []

    def read(step: int, body: Any) -> tuple[int, Any, Any]:
        said = from_json(body)
        if not isinstance(said, dict):
            raise ValueError("an intervention that is no table")
        return step, said.get("sparsity_before"), said.get("sparsity_after")

    for step, before, now in sound(connection, rows, read):
        if not isinstance(now, int | float) or before == now:
            continue
        if not x and after < 0:
            x, y = [0], [finite(before)]
        if x and x[-1] == step:
            y[-1] = finite(now)
        else:
            x.append(step)
            y.append(finite(now))
    return {"x": x, "y": y}
