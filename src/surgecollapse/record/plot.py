"""A figure of a run: sparsity, entropy, and what was done to the net."""

from __future__ import annotations

import io
from collections.abc import Iterable
from functools import cache
from importlib import import_module
from typing import Any

from surgecollapse.errors import needs
from surgecollapse.events import Intervention, Reading

_COLORS = {"collapse": "#c0392b", "surge": "#27ae60", "exchange": "#2980b9", "freeze": "#2c3e50", "recycle": "#8e44ad"}


def plot_run(readings: Iterable[Reading], events: Iterable[Intervention]) -> Any:
    """Draw a run.

    Args:
        readings: in order; of a run so long that the oldest are gone, the newest.
        events: what was done.

    Returns:
        A ``matplotlib.figure.Figure``, not registered with pyplot: a notebook shows it, with and without ``%matplotlib
        inline``, and nothing keeps it alive.

    Raises:
        ImportError: without matplotlib, with what to install.
    """
    figure = new_figure(figsize=(8, 4), layout="constrained")
    taken, done = list(readings), list(events)
    above, below = figure.subplots(2, 1, sharex=True)
    steps = [(0, 0.0), *((e.step, e.sparsity_after) for e in done), *((r.step, r.sparsity) for r in taken)]
    path = sorted(dict(steps).items())
    above.step([step for step, _ in path], [share for _, share in path], where="post", color="#34495e")
    above.set_ylabel("sparsity")
    above.set_ylim(0, 1)
    for name, label in (("entropy", "activation entropy"), ("on_off", "on/off entropy (bits)")):
        points = [(r.step, value) for r in taken if (value := getattr(r, name)) is not None]
        below.plot([step for step, _ in points], [value for _, value in points], label=label)
    below.set_ylim(0, 1)
    below.set_xlabel("optimizer step")
    below.set_ylabel("entropy")
    for kind, color in _COLORS.items():
        at = [event.step for event in done if event.kind == kind]
        if at:
            above.vlines(at, 0, 1, color=color, alpha=0.4, linewidth=1, label=f"{kind} ({len(at)})")
    for axes in (above, below):
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return figure


def new_figure(**options: Any) -> Any:
    """A ``matplotlib.figure.Figure`` that a notebook shows by itself, also without ``%matplotlib inline``.

    Args:
        options: of the figure.

    Raises:
        ImportError: without matplotlib.
    """
    return _shown_kind()(**options)


@cache
def _shown_kind() -> Any:
    """The figure of matplotlib that notebooks show by themselves.

    Raises:
        ImportError: without matplotlib.
    """
    with needs("plot()", "plots"):
        figure: Any = import_module("matplotlib.figure").Figure
    return type("RunFigure", (figure,), {"_repr_png_": _png})


def _png(figure: Any) -> bytes:
    """A figure as notebooks ask for it, without pyplot."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()
