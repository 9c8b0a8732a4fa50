"""The path of the weights through parameter space, seen in the plane of greatest variance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from surgecollapse.analysis.colors import plain
from surgecollapse.report.rundata import Array, RunData
from surgecollapse.report.style import INK, MARKS, RUNS, Picture, canvas, legend_above, styled


@dataclass(frozen=True)
class Plane:
    """Paths projected on their first two common principal components."""

    paths: tuple[Array, ...]
    """One array ``(points, 2)`` for each path."""
    explained: tuple[float, float]
    """Share of the total variance along each axis, in [0, 1]."""


def project(sketches: Sequence[Array]) -> Plane:
    """Project several paths into the plane of their joint principal components.

    The rows of all paths are centered on their common mean, X = UΣVᵀ, and mapped to X·v₁, X·v₂. The explained share of
    axis i is σᵢ²/Σσ². Each axis is oriented so that its largest loading is positive, which makes the picture
    deterministic.

    Args:
        sketches: arrays ``(points, dimensions)`` with equal dimensions.

    >>> plane = project([np.array([[0.0, 0.0], [3.0, 0.0], [6.0, 0.0]])])
    >>> plane.paths[0][:, 0].tolist(), plane.explained
    ([-3.0, 0.0, 3.0], (1.0, 0.0))
    """
    joined = np.concatenate([np.asarray(s, float) for s in sketches])
    centered = joined - joined.mean(axis=0)
    _, sigma, axes = np.linalg.svd(centered, full_matrices=False)
    if len(sigma) < 2:
        sigma, axes = np.append(sigma, 0.0), np.concatenate([axes, np.zeros((1, axes.shape[1]))])
    signs = np.sign(axes[np.arange(2), np.abs(axes[:2]).argmax(axis=1)])
    plane = centered @ (axes[:2] * np.where(signs == 0, 1.0, signs)[:, None]).T
    total = float((sigma**2).sum()) or 1.0
    ends = np.cumsum([len(s) for s in sketches])[:-1]
    shares = (float(sigma[0] ** 2 / total), float(sigma[1] ** 2 / total))
    return Plane(tuple(np.split(plane, ends)), shares)


def between(steps: Array, path: Array, at: Sequence[int]) -> Array:
    """Points of the path at given steps, linear between the neighbors; shape ``(len(at), 2)``.

    >>> between(np.array([0, 10]), np.array([[0.0, 0.0], [1.0, 2.0]]), [5]).tolist()
    [[0.5, 1.0]]
    """
    return np.stack([np.interp(at, steps, path[:, axis]) for axis in range(2)], axis=1)


@styled
def trajectory(runs: Sequence[RunData]) -> Picture | None:
    """Paths of all runs with equal shapes in one plane; ``None`` where no run kept sketches."""
    able = [(style, run, run.sketch) for style, run in zip(RUNS, runs, strict=False) if run.sketch is not None]
    able = [item for item in able if len(item[2][0]) >= 2 and np.isfinite(item[2][1]).all()]
    able = [item for item in able if item[2][1].shape[1:] == able[0][2][1].shape[1:]]
    if not able:
        return None
    plane = project([sketch[1] for _, _, sketch in able])
    figure = canvas(7.4, 5.6)
    ax = figure.add_subplot()
    drawn = [(style, run, steps, path) for (style, run, (steps, _)), path in zip(able, plane.paths, strict=True)]
    for index, ((color, mark), run, _, path) in enumerate(drawn):
        # The first path is the wider, so that it shows under the others where they coincide.
        wide = index == 0 and len(drawn) > 1
        ax.plot(path[:, 0], path[:, 1], color=color, linewidth=3.2 if wide else 1.3, marker=mark,
                markersize=5 if wide else 2.8, label=run.label)  # fmt: skip
    for (color, _), _, _, path in drawn:
        ax.plot(*path[0], marker="o", markersize=11, markerfacecolor="none", markeredgecolor=color, linestyle="none",
                label="start", markeredgewidth=1.6)  # fmt: skip
        ax.plot(*path[-1], marker="*", markersize=14, color=color, markeredgecolor=INK, linestyle="none",
                label="end", zorder=4)  # fmt: skip
    for _, run, steps, path in drawn:
        for kind in ("collapse", "surge", "freeze"):
            at = [event.step for event in run.interventions if event.kind == kind]
            if at:
                points = between(steps, path, at)
                shape, shade = MARKS[kind]
                ax.plot(points[:, 0], points[:, 1], linestyle="none", marker=shape, markersize=7, color=shade,
                        markeredgecolor=INK, markeredgewidth=0.6, label=plain(kind))  # fmt: skip
    ax.set_xlabel(f"first principal component ({100 * plane.explained[0]:.1f} % of the variance)")
    ax.set_ylabel(f"second ({100 * plane.explained[1]:.1f} %)")
    ax.margins(0.08)
    legend_above(figure, [ax], columns=7)
    caption = (
        "All weights over training, as count sketches of 1,024 numbers, in the plane of greatest common variance. "
        "What happens outside the plane cannot be seen: mind the shares on the axes. Between two sketches the path is "
        "drawn straight, and interventions are put on it by their step."
    )
    return Picture("trajectory", "Trajectory of the weights", caption, figure, wide=True)
