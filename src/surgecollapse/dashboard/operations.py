"""How many floating-point operations a run has cost by each step, from what it recorded."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from surgecollapse.dashboard.reading import meta

if TYPE_CHECKING:
    import sqlite3


def operations(connection: sqlite3.Connection) -> dict[str, list[float]]:
    """Floating-point operations of training up to each change of the mask, and to the last reading or change.

    Σ_t 2·B·Σ_l c_l·(2·d_l(t) + g_l(t)): B samples in a step, c_l multiplications by layer l for one sample (each with
    its addition, hence the 2), d_l(t) its density, g_l(t) that of its gradient. The run records B, c_l and how many
    steps before a reading take a dense gradient; densities are those of its interventions. It is what an engine that
    skips zeros needs, with the same things left out as in :mod:`surgecollapse.lab.training.flops`: no measure of this hardware.

    Args:
        connection: of a run store.

    Returns:
        ``x``, steps from 0 on, and ``y``, operations up to each; between them they grow evenly. Empty where the run did
        not record what a step costs.
    """
    costs = meta(connection, "costs")
    if not costs:
        return {"x": [], "y": []}
    counts, rows = costs["multiplications"], costs["rows"]
    shares: dict[str, float] = {}
    x, y = [0.0], [0.0]
    dense = _dense_gradients(connection, costs["window"])
    for step, layers in _changes(connection):
        length = step - x[-1]
        if length > 0:
            taken = _common(dense, x[-1], step)
            each = (c * (3 * length * (d := shares.get(name, 1.0)) + taken * (1 - d)) for name, c in counts.items())
            x.append(step)
            y.append(y[-1] + 2 * rows * sum(each))
        shares.update(layers)
    return {"x": x, "y": y}


def _changes(connection: sqlite3.Connection) -> list[tuple[float, dict[str, float]]]:
    """Step and new densities of every intervention that changed a mask; then the last step known, with none."""
    found = []
    for step, body in connection.execute("SELECT step, body FROM events WHERE kind = 'Intervention' ORDER BY id"):
        layers = json.loads(body)["layers"]
        if layers:
            found.append((float(step), {layer["name"]: layer["live"] / layer["size"] for layer in layers}))
    steps = "SELECT max(step) FROM events UNION ALL SELECT max(step) FROM measurements WHERE series = "
    steps += "(SELECT id FROM series WHERE name = 'loss/train' AND layer = '')"
    last = max((row[0] for row in connection.execute(steps) if row[0] is not None), default=0)
    return [*found, (float(last), {})]


def _dense_gradients(connection: sqlite3.Connection, window: int) -> list[tuple[float, float]]:
    """Ranges (after, to) of steps with a dense gradient: the last before each reading, until the mask is final."""
    query = "SELECT min(step) FROM events WHERE kind = 'Intervention' AND json_extract(body, '$.kind') = 'freeze'"
    (end,) = connection.execute(query).fetchone()
    ranges: list[tuple[float, float]] = []
    for (step,) in connection.execute("SELECT step FROM events WHERE kind = 'Reading' ORDER BY step"):
        after, to = max(0, step - window, ranges[-1][1] if ranges else 0), step if end is None else min(step, end)
        if to > after:
            ranges.append((after, to))
    return ranges


def _common(ranges: list[tuple[float, float]], after: float, to: float) -> float:
    """How many steps of (after, to] lie in the ranges."""
    return sum(max(0.0, min(to, end) - max(after, start)) for start, end in ranges)
