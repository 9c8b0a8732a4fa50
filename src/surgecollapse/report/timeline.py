"""Entropies over training with everything that was done to the weights, and in which phase."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch, Rectangle

from surgecollapse.analysis.colors import plain
from surgecollapse.report.rundata import RunData
from surgecollapse.report.style import (
    FAINT,
    HATCHES,
    INK,
    LINES,
    MARKS,
    ORANGE,
    PAPER,
    PURPLE,
    SHADE,
    Picture,
    canvas,
    legend_above,
    shorten,
    step_axis,
    styled,
)

MOST_LAYERS, MOST_LINES = 8, 40


def chosen(layers: Sequence[str], most: int = MOST_LAYERS) -> tuple[str, ...]:
    """At most ``most`` layers, evenly spread from first to last.

    >>> chosen(["a", "b", "c", "d", "e"], 3)
    ('a', 'c', 'e')
    """
    if len(layers) <= most:
        return tuple(layers)
    return tuple(layers[i] for i in np.linspace(0, len(layers) - 1, most).round().astype(int))


def spans(phases: Sequence[tuple[int, str]], end: int) -> list[tuple[int, int, str]]:
    """Phases as ``(from, to, name)``, equal neighbors joined.

    >>> spans([(0, "dense"), (100, "sparse"), (150, "sparse"), (200, "frozen")], 300)
    [(0, 100, 'dense'), (100, 200, 'sparse'), (200, 300, 'frozen')]
    """
    joined: list[tuple[int, str]] = []
    for step, name in phases:
        if not joined or joined[-1][1] != name:
            joined.append((step, name))
    edges = [*(step for step, _ in joined[1:]), end]
    return [(start, stop, name) for (start, name), stop in zip(joined, edges, strict=True) if stop > start]


def phase_strip(ax: Axes, run: RunData) -> list[Patch]:
    """Draw the phases as a strip of hatched bands with their names where they fit; returns the key to them."""
    width = run.end
    key: dict[str, Patch] = {}
    for start, stop, name in spans(run.phases, width):
        look: dict[str, Any] = {
            "facecolor": SHADE if HATCHES.get(name) else "none", "edgecolor": FAINT, "hatch": HATCHES.get(name, ""),
            "linewidth": 0.8,
        }  # fmt: skip
        ax.add_patch(Rectangle((start, 0), stop - start, 1, **look))
        key.setdefault(name, Patch(label=f"phase: {plain(name)}", **look))
        if (stop - start) / width > 0.011 * len(name) + 0.01:
            box = {"facecolor": PAPER, "edgecolor": "none", "pad": 1.2}
            ax.text((start + stop) / 2, 0.5, plain(name), ha="center", va="center", fontsize=9.5, bbox=box)
    ax.set(ylim=(0, 1), yticks=[])
    ax.set_ylabel("phase", rotation=0, ha="right", va="center")
    ax.grid(visible=False)
    ax.spines[["left", "bottom"]].set_visible(False)
    ax.tick_params(bottom=False, labelbottom=False)
    return list(key.values())


def event_rows(ax: Axes, run: RunData) -> None:
    """Draw every intervention as a mark, one row for each kind."""
    kinds = [kind for kind in MARKS if any(event.kind == kind for event in run.interventions)]
    kinds += sorted({event.kind for event in run.interventions} - set(MARKS))
    for row, kind in enumerate(kinds):
        mark, color = MARKS.get(kind, ("D", INK))
        steps = [event.step for event in run.interventions if event.kind == kind]
        ax.plot(steps, [row] * len(steps), linestyle="none", marker=mark, color=color, markersize=7)
    ax.set_yticks(range(len(kinds)), [plain(kind) for kind in kinds])
    ax.set_ylim(len(kinds) - 0.4, -0.6)
    ax.grid(visible=False, axis="y")


def guides(axes: Sequence[Axes], run: RunData) -> None:
    """Carry collapses (dashed) and surges (dotted) up through the panels, unless there are too many to read."""
    for kind, dash in (("collapse", "--"), ("surge", ":")):
        steps = sorted({event.step for event in run.interventions if event.kind == kind})
        if len(steps) <= MOST_LINES:
            for ax in axes:
                ax.vlines(
                    steps,
                    0,
                    1,
                    transform=ax.get_xaxis_transform(),
                    color=FAINT,
                    linestyle=dash,
                    linewidth=0.8,
                )


def draw_entropy(ax: Axes, run: RunData, *, most: int = MOST_LAYERS) -> None:
    """Draw activation entropy per layer, and target entropy, over steps."""
    for (color, dash), layer in zip(LINES, chosen(run.layers, most), strict=False):
        points = [
            (r.step, found.entropy)
            for r in run.readings
            for found in r.layers
            if found.layer == layer and found.entropy is not None
        ]
        if points:
            steps, values = zip(*points, strict=True)
            ax.plot(steps, values, color=color, linestyle=dash, label=plain(shorten(layer, 22)))
    target = [(r.step, r.target_entropy) for r in run.readings if r.target_entropy is not None]
    if target:
        steps, values = zip(*target, strict=True)
        ax.plot(steps, values, color=INK, linestyle="-", linewidth=0.9, marker="+", markersize=5,
                markevery=max(1, len(steps) // 12), label="target (labels)")  # fmt: skip
    ax.set_ylim(-0.03, 1.05)
    ax.set_ylabel("entropy\n(0 to 1, normalized)")


def draw_on_off(ax: Axes, run: RunData) -> None:
    """Draw the lowest on/off unit entropy, with the floor that bounded collapses."""
    points = [(r.step, r.on_off) for r in run.readings if r.on_off is not None]
    if points:
        steps, values = zip(*points, strict=True)
        ax.plot(steps, values, color=PURPLE, marker=".", markersize=3, label="lowest on/off unit entropy")
    if run.floors:
        steps, floors = zip(*run.floors, strict=True)
        ax.step([*steps, run.end], [*floors, floors[-1]], where="post", color=ORANGE,
                linestyle="--", label="its floor in collapses")  # fmt: skip
    ax.set_ylim(-0.03, 1.05)
    ax.set_ylabel("on/off entropy\n(bits)")


@styled
def timeline(run: RunData, name: str) -> Picture | None:
    """Entropies, phases and interventions of one run over a common step axis; ``None`` without readings.

    Args:
        run: the run.
        name: file stem of the picture.
    """
    if not run.readings:
        return None
    rows = ["phase"] * bool(run.phases) + ["entropy", "on_off"] + ["events"] * bool(run.interventions)
    kinds = len({event.kind for event in run.interventions})
    heights = {"phase": 0.3, "entropy": 2.2, "on_off": 1.5, "events": 0.28 * kinds + 0.1}
    figure = canvas(10.4, 1.7 + sum(heights[row] for row in rows))
    grid = figure.subplots(
        len(rows), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": [heights[r] for r in rows]}
    )[:, 0]
    axes = dict(zip(rows, grid, strict=True))
    draw_entropy(axes["entropy"], run)
    draw_on_off(axes["on_off"], run)
    key = phase_strip(axes["phase"], run) if "phase" in axes else []
    if "events" in axes:
        event_rows(axes["events"], run)
    guides([axes["entropy"], axes["on_off"]], run)
    axes["entropy"].set_xlim(0, run.end * 1.01)
    step_axis(grid[-1])
    figure.align_ylabels([axes["entropy"], axes["on_off"]])
    legend_above(figure, [axes["entropy"], axes["on_off"]], columns=5, extra=key)
    shown = "" if len(run.layers) <= MOST_LAYERS else f" {MOST_LAYERS} of {len(run.layers)} layers are shown."
    form = str(run.config.get("entropy", ""))
    caption = (
        f"Activation entropy of each layer{f' (form `{form}`)' if form else ''} over its greatest possible value, "
        "and entropy of the labels of the batch; below, the lowest on/off unit entropy over the layers."
    )
    if run.floors:
        caption += " Collapses go deeper than they must only while it stays above the floor on the probe batch."
    if run.interventions:
        caption += " Dashed verticals: collapses; dotted: surges. The lowest rows mark every intervention."
    caption += shown
    return Picture(name, f"Entropy and interventions: {run.name}", caption, figure, wide=True)
