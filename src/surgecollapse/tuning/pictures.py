"""Pictures of a study, in the style of the report."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
from matplotlib.collections import LineCollection
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from surgecollapse.report.style import BLUE, FAINT, INK, VERMILLION, Picture, canvas, shorten, styled
from surgecollapse.tuning.storage import reached

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from optuna import Study
    from optuna.trial import FrozenTrial

    from surgecollapse.tuning.objectives import Objective

MOST_SLICES = 12
"""Settings of which slices and axes are drawn, the most important first."""
LEAST_TRIALS = 10
"""Complete trials under which importances are not estimated."""


def better(objective: Objective) -> int:
    """1 where more is better, −1 where less is."""
    return 1 if objective.direction == "maximize" else -1


@styled
def history(trials: Sequence[FrozenTrial], objective: Objective, place: int) -> Picture | None:
    """The value of each trial, and the best so far."""
    complete = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    if not complete:
        return None
    figure = canvas(7.2, 3.6)
    ax = figure.subplots()
    numbers = [trial.number for trial in complete]
    values = np.array([reached(trial, place) for trial in complete])
    best = better(objective) * np.maximum.accumulate(better(objective) * values)
    ax.plot(numbers, values, "o", color=BLUE, alpha=0.7, label="trial")
    ax.step(numbers, best, where="post", color=INK, label="best so far")
    stopped = [trial for trial in trials if trial.state is TrialState.PRUNED and trial.value is not None]
    if stopped and place == 0:
        ax.plot(
            [t.number for t in stopped],
            [t.value or 0.0 for t in stopped],
            "x",
            color=VERMILLION,
            label="stopped by pruner",
        )
    ax.set_xlabel("trial")
    ax.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    ax.set_ylabel(f"{objective.title}, validation")
    ax.legend()
    caption = "Each trial is the mean over its seeds. The best of many is lucky: its value on fresh seeds is above."
    return Picture(f"history-{place}", f"Search: {objective.title}", caption, figure)


def importances(study: Study, space: Mapping[str, BaseDistribution], place: int) -> dict[str, float]:
    """Share of the variance of an objective that each setting explains, by fANOVA (Hutter et al. 2014).

    Settings that only some trials have, and those that never varied, are left out.

    Returns:
        By name, the largest first; empty with too few trials.
    """
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    names = [name for name in space if all(name in t.params for t in complete)]
    names = [name for name in names if len({repr(t.params[name]) for t in complete}) > 1]
    values = {reached(t, place) for t in complete}
    if len(complete) < LEAST_TRIALS or len(values) < 2 or not names:
        return {}
    # Trees of this depth find the same shares to 0.01; those of any depth take minutes for 1,000 trials.
    evaluator = optuna.importance.FanovaImportanceEvaluator(n_trees=32, max_depth=8, seed=0)
    found = optuna.importance.get_param_importances(
        study, evaluator=evaluator, params=names, target=lambda trial: reached(trial, place)
    )
    return dict(sorted(found.items(), key=lambda item: -item[1]))


@styled
def importance_bars(found: Mapping[str, float], objective: Objective, place: int) -> Picture | None:
    """Importances as bars."""
    if not found:
        return None
    figure = canvas(4.8, 0.9 + 0.32 * len(found))
    ax = figure.subplots()
    names = list(found)[::-1]
    ax.barh([shorten(name, 26) for name in names], [found[name] for name in names], color=BLUE)
    ax.set_xlabel("share of the variance explained")
    ax.set_xlim(0, 1)
    caption = "fANOVA over the complete trials; it tells what mattered in the ranges that were searched."
    return Picture(f"importances-{place}", f"What mattered for {objective.title}", caption, figure)


@styled
def slices(
    trials: Sequence[FrozenTrial], space: Mapping[str, BaseDistribution], objective: Objective, place: int
) -> Picture | None:
    """The objective over each setting."""
    complete = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    names = [name for name in space if any(name in trial.params for trial in complete)][:MOST_SLICES]
    if not names:
        return None
    columns = min(3, len(names))
    rows = math.ceil(len(names) / columns)
    figure = canvas(3.5 * columns, 2.9 * rows)
    grid = np.atleast_1d(figure.subplots(rows, columns, sharey=True, squeeze=False)).ravel()
    latest = max(trial.number for trial in complete) or 1
    for ax, name in itertools.zip_longest(grid, names):
        if name is None:
            ax.set_axis_off()
            continue
        its = [trial for trial in complete if name in trial.params]
        axis = _Axis(space[name])
        shade = [0.25 + 0.75 * trial.number / latest for trial in its]
        ax.scatter(
            [axis.place(t.params[name]) for t in its], [reached(t, place) for t in its], color=BLUE, alpha=shade, s=22
        )
        axis.label(ax, shorten(name, 30))
    for ax in grid[::columns]:
        ax.set_ylabel(objective.title)
    caption = "One point a trial, later ones darker."
    return Picture(f"slices-{place}", f"Slices: {objective.title}", caption, figure, wide=columns > 2)


@styled
def front(study: Study, objectives: Sequence[Objective], finalists: Mapping[int, str]) -> Picture | None:
    """Trials by their first two objectives, with the Pareto front and the points that were trained again."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(objectives) < 2 or not complete:
        return None
    figure = canvas(6.4, 4.6)
    ax = figure.subplots()
    ax.plot(
        [reached(t, 1) for t in complete], [reached(t, 0) for t in complete], "o", color=FAINT, alpha=0.6, label="trial"
    )
    best = sorted(study.best_trials, key=lambda trial: reached(trial, 1))
    line = {"drawstyle": "steps-post"} if len(objectives) == 2 else {"linestyle": "none"}
    there = [reached(t, 1) for t in best], [reached(t, 0) for t in best]
    ax.plot(*there, color=BLUE, marker="o", label="Pareto front", **line)  # type: ignore[arg-type]
    for trial in best:
        if trial.number in finalists:
            ax.annotate(
                str(trial.number), (reached(trial, 1), reached(trial, 0)), textcoords="offset points", xytext=(5, 5)
            )
    ax.set_xlabel(f"{objectives[1].title} ({objectives[1].direction[:3]}.)")
    ax.set_ylabel(f"{objectives[0].title} ({objectives[0].direction[:3]}.)")
    ax.legend()
    caption = "Validation, mean over the seeds of a trial. Numbered points were trained again on fresh seeds."
    return Picture("front", "Pareto front", caption, figure)


@styled
def parallel(
    trials: Sequence[FrozenTrial], space: Mapping[str, BaseDistribution], objective: Objective
) -> Picture | None:
    """Each complete trial as a line through its settings; the best tenth in color."""
    complete = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    names = list(space)[:MOST_SLICES]
    if len(complete) < 2 or not names:
        return None
    figure = canvas(max(6.4, 1.5 * (len(names) + 1)), 4.2)
    ax = figure.subplots()
    turned = sorted(complete, key=lambda trial: better(objective) * reached(trial, 0))
    good = max(1, len(turned) // 10)
    lowest, highest = (f(reached(trial, 0) for trial in complete) for f in (min, max))
    width = (highest - lowest) or 1.0
    axes = {name: _Axis(space[name]) for name in names}
    lines: dict[bool, list[list[tuple[float, float]]]] = {False: [], True: []}
    for rank, trial in enumerate(turned):
        points = [
            (float(x), axes[name].share(trial.params[name])) for x, name in enumerate(names) if name in trial.params
        ]
        points.append((len(names), (reached(trial, 0) - lowest) / width))
        lines[rank >= len(turned) - good].append(points)
    for top, its in lines.items():
        ax.add_collection(
            LineCollection(its, colors=BLUE if top else FAINT, alpha=0.9 if top else 0.35, zorder=1 + top)
        )
    ax.set_xlim(-0.25, len(names) + 0.25)
    for place, name in enumerate(names):
        low, high = axes[name].ends()
        ax.text(place, -0.03, low, ha="center", va="top", fontsize=8)
        ax.text(place, 1.02, high, ha="center", va="bottom", fontsize=8)
    ax.text(len(names), -0.03, f"{lowest:.4g}", ha="center", va="top", fontsize=8)
    ax.text(len(names), 1.02, f"{highest:.4g}", ha="center", va="bottom", fontsize=8)
    ax.set_xticks(range(len(names) + 1), [shorten(n, 16) for n in names] + [objective.title])
    ax.tick_params(axis="x", pad=14)
    ax.set_yticks([])
    ax.set_ylim(-0.02, 1.02)
    caption = f"One line a trial; blue: the best {good}. A line passes over settings that its trial does not have."
    return Picture("parallel", "Parallel coordinates", caption, figure, wide=True)


class _Axis:
    """Where values of a setting lie on an axis."""

    def __init__(self, domain: BaseDistribution) -> None:
        self._domain = domain
        self._log = isinstance(domain, FloatDistribution | IntDistribution) and domain.log

    def place(self, value: Any) -> float:
        """On an axis in the setting's own numbers; choices by their rank."""
        if isinstance(self._domain, CategoricalDistribution):
            return float(self._domain.to_internal_repr(value))
        return float(value)

    def share(self, value: Any) -> float:
        """Between both ends, from 0 to 1."""
        if isinstance(self._domain, CategoricalDistribution):
            return self.place(value) / max(1, len(self._domain.choices) - 1)
        low, high = self._domain.low, self._domain.high  # type: ignore[attr-defined]
        turn = math.log if self._log else float
        return (turn(value) - turn(low)) / (turn(high) - turn(low))

    def ends(self) -> tuple[str, str]:
        """Words at both ends."""
        if isinstance(self._domain, CategoricalDistribution):
            return shorten(str(self._domain.choices[0]), 14), shorten(str(self._domain.choices[-1]), 14)
        return f"{self._domain.low:g}", f"{self._domain.high:g}"  # type: ignore[attr-defined]

    def label(self, ax: Axes, name: str) -> None:
        """Name the horizontal axis, which spans what is searched; its ticks are choices, whole numbers or powers."""
        ax.set_xlabel(name)
        domain = self._domain
        if isinstance(domain, CategoricalDistribution):
            choices = [shorten(str(choice), 12) for choice in domain.choices]
            ax.set_xticks(range(len(choices)), choices)
            ax.set_xlim(-0.5, len(choices) - 0.5)
            return
        low, high = domain.low, domain.high  # type: ignore[attr-defined]
        if self._log:
            ax.set_xscale("log")
            room = (high / low) ** 0.05
            ax.set_xlim(low / room, high * room)
            ax.xaxis.set_major_locator(LogLocator(subs=(1.0,) if high / low > 30 else (1.0, 2.0, 5.0), numticks=6))
            ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            ax.xaxis.set_minor_formatter(NullFormatter())
            return
        room = 0.05 * (high - low) or 0.5
        ax.set_xlim(low - room, high + room)
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=isinstance(domain, IntDistribution), min_n_ticks=1))
