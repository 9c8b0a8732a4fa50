"""How many floating-point operations a run has cost by each step, from what it recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from surgecollapse.dashboard.reading import meta, sound
from surgecollapse.record.operations import stretch_operations
from surgecollapse.record.values import event_from

if TYPE_CHECKING:
    from surgecollapse.events import Intervention
    from surgecollapse.record.schema import Connection


def operations(connection: Connection) -> dict[str, list[float]]:
    """Floating-point operations of training up to each change of the mask, and to the last reading or change.

    Σ_t 2·B·Σ_l c_l·(2·d_l(t) + g_l(t)): A step has B samples. Layer l takes c_l multiplications for one sample, each
    with its addition, hence the 2. Its density is d_l(t), that of its gradient g_l(t). The run records B, c_l and how
    many steps before a reading take a dense gradient; densities are those of its interventions. It is what an engine
    that skips zeros needs, with the same things left out as in :mod:`surgecollapse.lab.training.flops`: no measure of
    this hardware.

    Args:
        connection: of a run store.

    Returns:
        ``x``, steps from 0 on, and ``y``, operations up to each; between them they grow evenly. Empty where the run did
        not record what a step costs.
    """
    costs: dict[str, Any] = meta(connection, "costs", dict, {})
    counts: Any = costs.get("multiplications")
    rows: Any = costs.get("rows")
    window: Any = costs.get("window")
    if not isinstance(counts, dict) or not all(map(_is_number, [*counts.values(), rows, window])):
        return {"x": [], "y": []}
    shares: dict[str, float] = {}
    x, y = [0.0], [0.0]
    acts = _acts(connection)
    dense = _dense_gradients(connection, window, acts)
    for step, layers in _changes(connection, acts):
        length = step - x[-1]
        if length > 0:
            taken = _common(dense, x[-1], step)
            x.append(step)
            y.append(y[-1] + 2 * rows * stretch_operations(counts, shares, length, taken))
        shares.update(layers)
    return {"x": x, "y": y}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2.0**63


def _acts(connection: Connection) -> list[tuple[int, Intervention]]:
    """Every intervention, with its step, in the order in which they came."""
    query = (
        "SELECT step, version, body FROM events WHERE kind = 'Intervention' AND typeof(step) = 'integer' ORDER BY id"
    )
    return list(
        sound(
            connection,
            connection.execute(query),
            lambda step, version, body: (step, event_from("Intervention", version, body)),
        )
    )


def _changes(connection: Connection, acts: list[tuple[int, Intervention]]) -> list[tuple[float, dict[str, float]]]:
    """Step and new densities of every intervention that changed a mask; then the last step known, with none."""
    found = [
        (float(step), {layer.name: layer.live / layer.size for layer in act.layers if layer.size})
        for step, act in acts
        if act.layers
    ]
    whole = "AND typeof(step) = 'integer'"
    steps = f"SELECT max(step) FROM events WHERE 1 {whole} UNION ALL SELECT max(step) FROM measurements WHERE series = "
    steps += f"(SELECT id FROM series WHERE name = 'loss/train' AND layer = '') {whole}"
    last = max((row[0] for row in connection.execute(steps) if row[0] is not None), default=0)
    return [*found, (float(last), {})]


def _dense_gradients(
    connection: Connection, window: float, acts: list[tuple[int, Intervention]]
) -> list[tuple[float, float]]:
    """Ranges (after, to) of steps with a dense gradient: the last before each reading, until the mask is final."""
    end = min((step for step, act in acts if act.kind == "freeze"), default=None)
    query = "SELECT step FROM events WHERE kind = 'Reading' AND typeof(step) = 'integer' ORDER BY step"
    ranges: list[tuple[float, float]] = []
    for (step,) in connection.execute(query):
        after, to = max(0, step - window, ranges[-1][1] if ranges else 0), step if end is None else min(step, end)
        if to > after:
            ranges.append((after, to))
    return ranges


def _common(ranges: list[tuple[float, float]], after: float, to: float) -> float:
    """How many steps of (after, to] lie in the ranges."""
    return sum(max(0.0, min(to, end) - max(after, start)) for start, end in ranges)
