"""Recorded histograms of one name over time, on common edges, so that they can be drawn behind one another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from surgecollapse.dashboard.reading import sound
from surgecollapse.record.values import array_from

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from surgecollapse.record.schema import Connection

MOST = 30
"""Histograms that are sent; of more, evenly many."""
BINS = 60


def ridges(connection: Connection, name: str) -> dict[str, Any]:
    """The histograms of a name, each as a density over the same edges.

    Args:
        connection: of a run store.
        name: of an array that begins with ``histogram/``.

    Returns:
        ``steps``, ``edges`` and ``rows``, one row of densities per step; empty where nothing was recorded.
    """
    import numpy as np

    if not name.startswith("histogram/"):
        return {"steps": [], "edges": [], "rows": []}
    marked = "FROM arrays WHERE name = ? AND typeof(step) = 'integer'"
    steps = [row[0] for row in connection.execute(f"SELECT step {marked} ORDER BY step", (name,))]
    if len(steps) > MOST:
        steps = [steps[part * (len(steps) - 1) // (MOST - 1)] for part in range(MOST)]
    rows = (
        connection.execute(f"SELECT step, dtype, shape, data {marked} AND step = ?", (name, step)).fetchone()
        for step in steps
    )

    def read(step: int, *parts: Any) -> tuple[int, NDArray[np.float64]]:
        values = array_from(*parts)
        if np.iscomplexobj(values) or values.ndim != 2 or len(values) != 3 or values.shape[1] <= 3:
            raise ValueError("no histogram")
        values = values.astype(float)
        if not np.isfinite(values).all() or (np.diff(values[0]) <= 0).any():
            raise ValueError("a histogram whose edges do not rise")
        return step, values

    found = list(sound(connection, (row for row in rows if row is not None), read))
    if not found:
        return {"steps": [], "edges": [], "rows": []}
    low = min(values[0, 0] for _, values in found)
    high = max(values[0, -1] for _, values in found)
    edges = np.linspace(low, high, BINS + 1)
    return {
        "steps": [step for step, _ in found],
        "edges": edges.tolist(),
        "rows": [_density(values[0], values[1, :-1], edges).tolist() for _, values in found],
    }


def _density(own: NDArray[np.float64], counts: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shares of a histogram per unit of its axis, on other edges; each bin is spread evenly."""
    import numpy as np

    below = np.concatenate([[0.0], np.cumsum(counts)])
    total = below[-1] or 1.0
    shares = np.diff(np.interp(edges, own, below / total))
    density: NDArray[np.float64] = shares / np.diff(edges)
    return density
