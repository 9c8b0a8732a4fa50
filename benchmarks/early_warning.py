"""Can grokking be seen coming? Detectors and controls on the bank of runs, on tasks and settings held out.

    python benchmarks/bank.py             # first: the runs
    python benchmarks/early_warning.py    # tables and plots
    python benchmarks/early_warning.py --write slope   # only the threshold that the library ships
    python benchmarks/early_warning.py --shipped       # only recall and false alarms of that threshold
    python benchmarks/early_warning.py --bank runs/bank runs/bank-2 --out benchmarks/results/early-warning-nets.md

A run counts from the evaluation at which it fitted to the last one before it generalized. Weights and thresholds come
from the calibration side alone; the threshold of every detector is the one that at most 5% of the calibration runs that
did not grok ever reach, with scores by weights that had not seen their task.

Goal: AUROC ≥ .95 at four times t_fit, alarms 30% of t_gen ahead, at ≤ 5% false alarms by run, and ahead of every
control: the settings alone, the slope of the validation loss, the weight norm, a fixed time after fitting.

With runs of several kinds of nets, a task of every size and net is held out in turn, and then perceptrons with one
hidden layer from the other nets and the reverse.
"""

from __future__ import annotations

import json
import platform
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import log
from pathlib import Path
from typing import Any

import numpy as np
from _harness import RESULTS, make_parser
from grokking_bank.calibration import (
    Course,
    alarm_threshold,
    course_of,
    first_alarm,
    held_out_scores,
    scores_of,
)
from grokking_bank.learning import learn
from grokking_bank.members import problem
from grokking_bank.store import BankRun, read_bank
from grokking_bank.tracks import TRACKS, features_of

from surgecollapse.forecast.calibrated import SHIPPED, calibrated
from surgecollapse.forecast.combination import Combination, Score, to_plain
from surgecollapse.forecast.features import TIME, Feature

HORIZONS = (1, 2, 4, 8, 16)
"""Multiples of t_fit at which runs are ranked."""
MAIN = 4
RATE = 0.05
NEW = {
    "row norms, median": ("train", Feature("norm/row_median")),
    "row norms, spread": ("train", Feature("norm/row_spread")),
    "update over weight, by row": ("train", Feature("update/row_ratio")),
    "radial share of updates": ("train", Feature("update/radial_share", "value")),
    "commutator defect": ("train", Feature("commutator/defect")),
    "dynamic modes, training rows": ("train", Feature("modes/residual", "value")),
    "dynamic modes, validation inputs": ("unlabeled", Feature("modes/residual_validation", "value")),
}
"""Observables that came after the first bank: by themselves, and in combinations that say ``and new``."""
LEVEL = Feature("loss/validation", "value")
FEATURES = (*features_of("labeled"), *(feature for _, feature in NEW.values()), LEVEL)
SLOPE = Feature("loss/validation", "slope")
CONTROL = "control: slope of the validation loss"
WHAT = {
    "auroc": f"AUROC at {MAIN} t_fit",
    "recall": "recall",
    "recall at 5%": "recall at 5%",
    "early at 5%": "early at 5%",
}
RECALLS = ("recall", "recall at 5%", "early at 5%")
EARLY = 0.3
"""Share of t_gen that is left at an alarm that comes in time."""
GATED = "slope, below the loss of chance"
CHOSEN = "without labels, chosen on the calibration side"
SETTINGS = ("learning rate", "weight decay", "train fraction", "initial scale", "label noise")
_AT = {feature.name: i for i, feature in enumerate(FEATURES)}
_AT |= {name: len(FEATURES) + i for i, name in enumerate((*SETTINGS, "loss over chance"))}
FAMILY = {"s4": "groups", "s5": "groups", "parity-15": "parity", "mnist": "images", "latin": "text"}
"""Of a task; all others are modular arithmetic."""
NETS_SAID = {"perceptron": "one hidden layer", "deep": "three hidden layers", "attention": "transformer"}
_CLOSED = -1e9
"""The score while a gate is closed."""
_SIDES = {"deep": "other nets", "attention": "other nets"}
_UNSEEN_ONLINE = ("curvature/sharpness", "gradient/slow_ratio", "entropy/spectral_validation")
"""Series that no run of the command line has by default: the detectors that are shipped do without."""


@dataclass(frozen=True)
class Entry:
    """One detector or control of the comparison."""

    name: str
    track: str
    columns: tuple[int, ...]
    learned: bool = True
    """Weights by logistic regression; otherwise its one column is the score."""
    gate: int | None = None
    """A column that must not be positive; no alarm otherwise."""


def entries() -> list[Entry]:
    """Measurement families with the sign learned, combinations by track, controls."""
    singles = {
        "dimension of the activations": ("train", "change of dimension/participation_ratio"),
        "spectral entropy": ("train", "value of entropy/spectral"),
        "effective rank of the weights": ("train", "change of rank/effective"),
        "slow-gradient ratio": ("train", "value of gradient/slow_ratio"),
        "sharpness": ("train", "value of curvature/sharpness"),
        "naive-loss cosine": ("train", "value of alignment/naive_loss"),
        "logit scale": ("train", "change of logits/scale"),
        "confidence on validation inputs": ("unlabeled", "change of confidence/validation"),
        "validation accuracy": ("labeled", "value of accuracy/validation"),
    }
    found = [Entry(name, track, (_AT[column],)) for name, (track, column) in singles.items()]
    found += [Entry(name, track, (_AT[feature.name],)) for name, (track, feature) in NEW.items()]
    for track in TRACKS:
        columns = tuple(range(len(features_of(track))))
        found.append(Entry(f"logistic, {track}", track, columns))
        seen = TRACKS[: TRACKS.index(track) + 1]
        more = tuple(_AT[feature.name] for other, feature in NEW.values() if other in seen)
        found.append(Entry(f"logistic, {track} and new", track, (*columns, *more)))
    # Devised after the false alarms of transformers had been seen: their loss falls steeply from far above chance, too.
    gated = Entry(GATED, "labeled", (_AT[SLOPE.name],), gate=_AT["loss over chance"])
    return [*found, gated, *controls()]


def controls() -> list[Entry]:
    """What a detector must beat."""
    settings = tuple(_AT[name] for name in SETTINGS)
    return [
        Entry("control: settings alone", "settings", settings[:-1]),
        Entry("control: settings and label noise", "settings", settings),
        Entry(CONTROL, "labeled", (_AT["slope of loss/validation"],)),
        Entry("control: weight norm", "train", (_AT["change of norm/weight"],)),
        Entry("control: time after fitting", "train", (_AT[TIME.name],), learned=False),
    ]


@cache
def classes_of(task: str) -> int:
    """Classes of a task."""
    return problem(task).classes


def courses_of(runs: Sequence[BankRun]) -> list[Course | None]:
    """Features and settings of every run, as columns; ``None`` where it never fitted.

    Tasks of nets other than the first bank's perceptrons are tasks of their own.
    """
    found = []
    for run in runs:
        grokked = run.outcome == "grokked"
        course = course_of(
            run.steps.tolist(),
            {name: values.tolist() for name, values in run.series.items()},
            FEATURES,
            t_gen=None if run.outcome == "not" else run.times.t_gen_sustained,
            grokked=grokked,
            group=run.task if run.net == "perceptron" else f"{run.net}, {run.task}",
        )
        if course is not None and not len(course.steps):
            course = None
        if course is not None:
            m = run.member
            settings = [log(m.lr), m.weight_decay, m.train_fraction, log(m.init_scale), m.label_noise]
            columns = np.tile(settings, (len(course.steps), 1))
            over = course.values[:, [_AT[LEVEL.name]]] - log(log(classes_of(run.task)))
            course = replace(course, values=np.concatenate([course.values, columns, over], 1))
        found.append(course)
    return found


def kind_of(group: str) -> str:
    """The task of a group, of every net and size: what is learned of x + y mod 23 does not surprise mod 29.

    >>> [kind_of(group) for group in ("add-23", "deep, add-29", "attention, s5")]
    ['add', 'add', 's5']
    """
    return group.rpartition(" ")[2].partition("-")[0]


def fitted(entry: Entry, courses: Sequence[Course]) -> Callable[[Course], np.ndarray]:
    """Learn on some runs; returns what scores one."""
    columns = list(entry.columns)
    if not entry.learned:
        return lambda course: course.values[:, columns[0]]
    thin = [replace(c, steps=c.steps[::3], values=c.values[::3][:, columns]) for c in courses]
    names = [Feature(f"column {i}") for i in columns]
    score = learn(thin, names, strength=10.0 if len(columns) == 1 else 0.03)

    def scorer(course: Course) -> np.ndarray:
        found = scores_of(score, course.values[:, columns])
        return found if entry.gate is None else np.where(course.values[:, entry.gate] <= 0, found, _CLOSED)

    return scorer


def evaluate(entry: Entry, folds: Sequence[tuple[str, list[Course], list[tuple[int, Course]]]]) -> list[dict[str, Any]]:
    """One row for every held-out run: its scores at the horizons, its alarm, what it was."""
    rows = []
    for name, calibration, held in folds:
        by_kind = [replace(course, group=kind_of(course.group)) for course in calibration]
        inner = held_out_scores(by_kind, lambda rest: fitted(entry, rest))
        highest = [s.max() for s, c in zip(inner, calibration, strict=True) if not c.grokked]
        threshold = alarm_threshold(highest, RATE)
        found = float(np.mean([s.max() >= threshold for s, c in zip(inner, calibration, strict=True) if c.grokked]))
        scorer = fitted(entry, calibration)
        for number, course in held:
            scores = scorer(course)
            rows.append(
                {
                    "run": number,
                    "fold": name,
                    "task": course.group,
                    "grokked": course.grokked,
                    "alarm": first_alarm(course, scores, threshold),
                    "calibration": found,
                    "t_fit": course.t_fit,
                    "t_gen": course.t_gen,
                    "scores": {h: at_horizon(course, scores, h) for h in HORIZONS},
                    "course": (course.steps / course.t_fit, scores),
                }
            )
    return rows


def choose(rows: dict[str, list[dict[str, Any]]], wanted: Sequence[Entry]) -> list[dict[str, Any]]:
    """The rows of each fold by the detector without labels that finds most runs on the calibration side of the fold."""
    names = [entry.name for entry in wanted if entry.track in ("train", "unlabeled")]
    found = []
    for fold in dict.fromkeys(row["fold"] for row in rows[names[0]]):
        sides = {name: [row for row in rows[name] if row["fold"] == fold] for name in names}
        found += max(sides.values(), key=lambda side: side[0]["calibration"])
    return found


def leads_at_rate(rows: Sequence[dict[str, Any]]) -> list[float | None]:
    """The lead of each run at the threshold that at most 5% of its fold's held-out runs that did not grok exceed.

    This looks at the held-out runs, so it says how well a detector separates, and not what an alarm would do. ``None``
    where the threshold is not exceeded, 0 for a run that did not grok and exceeds it.
    """
    thresholds = {}
    for fold in {row["fold"] for row in rows}:
        others = sorted(
            (float(row["course"][1].max()) for row in rows if row["fold"] == fold and not row["grokked"]), reverse=True
        )
        thresholds[fold] = others[int(RATE * len(others))] if others else np.inf
    found: list[float | None] = []
    for row in rows:
        at, scores = row["course"]
        above = scores > thresholds[row["fold"]]
        left = 1 - at[above.argmax()] * row["t_fit"] / row["t_gen"] if row["grokked"] else 0.0
        found.append(float(left) if above.any() else None)
    return found


def at_horizon(course: Course, scores: np.ndarray, multiple: int) -> float | None:
    """The score at a multiple of t_fit; ``None`` if the run had generalized or ended by then."""
    step = multiple * course.t_fit
    if step > (course.total if course.t_gen is None else course.t_gen - 1):
        return None
    return float(scores[np.searchsorted(course.steps, step, side="right") - 1])


def pairs(rows: Sequence[dict[str, Any]], horizon: int) -> dict[str, tuple[float, int]]:
    """By task: concordant pairs of a run that grokked and one that did not, in one task and fold; and all pairs."""
    strata: dict[tuple[str, str], tuple[list[float], list[float]]] = {}
    for row in rows:
        score = row["scores"][horizon]
        if score is not None:
            strata.setdefault((row["task"], row["fold"]), ([], []))[row["grokked"]].append(score)
    found: dict[str, tuple[float, int]] = {}
    for (task, _), (low, high) in strata.items():
        if low and high:
            a, b = np.array(high)[:, None], np.array(low)[None, :]
            good, count = found.get(task, (0.0, 0))
            found[task] = good + float((a > b).sum() + 0.5 * (a == b).sum()), count + a.size * b.size
    return found


def auroc(rows: Sequence[dict[str, Any]], horizon: int, draws: int = 2000) -> tuple[float, float, float]:
    """Share of concordant pairs within tasks, and its 95% interval over resampled tasks."""
    found = list(pairs(rows, horizon).values())
    if not found:
        return float("nan"), float("nan"), float("nan")
    good, count = np.array(found, dtype=float).T
    drawn = np.random.default_rng(0).integers(len(found), size=(draws, len(found)))
    spread = good[drawn].sum(1) / count[drawn].sum(1)
    low, high = np.quantile(spread, (0.025, 0.975))
    return good.sum() / count.sum(), low, high


def minus_slope(
    rows: Sequence[dict[str, Any]], slope: Sequence[dict[str, Any]], draws: int = 2000
) -> dict[str, tuple[float, float, float]]:
    """AUROC and both recalls minus those of the slope on the same runs, with 95% intervals over resampled tasks."""
    names = sorted({row["task"] for row in rows})
    drawn = np.random.default_rng(0).integers(len(names), size=(draws, len(names)))
    found = {}
    for what in WHAT:
        shares, spreads = [], []
        for some in (rows, slope):
            parts = pairs(some, MAIN) if what == "auroc" else finds(some, what)
            good, count = np.array([parts.get(name, (0.0, 0)) for name in names], dtype=float).T
            shares.append(good.sum() / count.sum() if count.sum() else np.nan)
            with np.errstate(invalid="ignore"):
                spreads.append(good[drawn].sum(1) / count[drawn].sum(1))
        low, high = np.nanquantile(spreads[0] - spreads[1], (0.025, 0.975))
        found[what] = (float(shares[0] - shares[1]), float(low), float(high))
    return found


def flags_of(rows: Sequence[dict[str, Any]], what: str) -> list[bool]:
    """Whether each run was found: by its alarm, at 5% false alarms, or at 5% and in time."""
    if what == "recall":
        return [row["alarm"] is not None for row in rows]
    least = EARLY if what == "early at 5%" else 0.0
    return [left is not None and left >= least for left in leads_at_rate(rows)]


def finds(rows: Sequence[dict[str, Any]], what: str) -> dict[str, tuple[float, int]]:
    """By task: runs that grokked and were found, by a measure of :data:`WHAT`; and all that grokked."""
    flags = flags_of(rows, what)
    found: dict[str, tuple[float, int]] = {}
    for row, flag in zip(rows, flags, strict=True):
        if row["grokked"]:
            good, count = found.get(row["task"], (0.0, 0))
            found[row["task"]] = good + flag, count + 1
    return found


def ahead_of_slope(behind: dict[str, dict[str, dict[str, tuple[float, float, float]]]]) -> list[str]:
    """Detectors that are ahead of the slope by one measure on every split, with an interval above zero."""
    names = next(iter(behind.values()))
    return [
        f"{name} ({title})"
        for name in names
        for what, title in WHAT.items()
        if all(found[name][what][1] > 0 for found in behind.values())
    ]


def lead(row: dict[str, Any]) -> float:
    """Share of t_gen that was left at the alarm; 0 without one."""
    return 0.0 if row["alarm"] is None else 1 - row["alarm"] / row["t_gen"]


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The numbers of one line of the table, with task-clustered intervals."""
    grokked = [row for row in rows if row["grokked"]]
    others = [row for row in rows if not row["grokked"]]
    ahead = [lead(row) for row in grokked if row["alarm"] is not None]
    return {
        "auroc": {h: auroc(rows, h) for h in HORIZONS},
        "false": share([row["alarm"] is not None for row in others], [row["task"] for row in others]),
        **{
            what: share(
                [flag for flag, row in zip(flags_of(rows, what), rows, strict=True) if row["grokked"]],
                [row["task"] for row in grokked],
            )
            for what in RECALLS
        },
        "lead": np.quantile(ahead, (0.25, 0.5, 0.75)).tolist() if ahead else None,
        "lead of all": float(np.median([lead(row) for row in grokked])) if grokked else None,
    }


def share(flags: Sequence[bool], tasks: Sequence[str], draws: int = 2000) -> tuple[float, float, float]:
    """Share of true flags, and its 95% interval over resampled tasks."""
    if not flags:
        return float("nan"), float("nan"), float("nan")
    names = sorted(set(tasks))
    good = np.array([sum(f for f, t in zip(flags, tasks, strict=True) if t == n) for n in names], dtype=float)
    count = np.array([sum(t == n for t in tasks) for n in names], dtype=float)
    drawn = np.random.default_rng(0).integers(len(names), size=(draws, len(names)))
    low, high = np.quantile(good[drawn].sum(1) / count[drawn].sum(1), (0.025, 0.975))
    return float(good.sum() / count.sum()), float(low), float(high)


Folds = list[tuple[str, list[Course], list[tuple[int, Course]]]]


def folds_by(keys: Sequence[str | None], courses: Sequence[Course]) -> Folds:
    """Hold out each key in turn."""
    found = []
    for key in sorted({key for key in keys if key is not None}):
        held = [(i, c) for i, (k, c) in enumerate(zip(keys, courses, strict=True)) if k == key]
        rest = [c for k, c in zip(keys, courses, strict=True) if k != key]
        if held and len({c.grokked for c in rest}) == 2:
            found.append((key, rest, held))
    return found


def by_setting(runs: Sequence[BankRun], courses: Sequence[Course]) -> Folds:
    """Hold out each value of each hyperparameter in turn: the n-th smallest of every task."""
    found: Folds = []
    for name in ("lr", "weight_decay", "train_fraction", "init_scale", "label_noise"):
        ranks = []
        for run in runs:
            values = sorted({getattr(other.member, name) for other in runs if other.task == run.task})
            rank = values.index(getattr(run.member, name))
            ranks.append(f"{name} no. {rank + 1}" if len(values) > 1 else None)
        found += folds_by(ranks, courses)
    return found


def give_up(courses: Sequence[Course], entry: Entry, keys: Sequence[str], kept: float = RATE) -> dict[str, float]:
    """Stop runs that will not grok: steps saved, and runs lost that would have grokked, on tasks held out."""
    saved = spent = lost = grokked = stopped = others = 0
    for _, calibration, held in folds_by(keys, courses):
        threshold, after = give_up_rule(calibration, entry, kept)
        scorer = fitted(entry, calibration)
        for _, course in held:
            step = first_alarm(course, scorer(course), threshold, after=after, below=True)
            spent += course.total
            saved += 0 if step is None or course.grokked else course.total - step
            grokked, others = grokked + course.grokked, others + (not course.grokked)
            lost, stopped = (
                lost + (course.grokked and step is not None),
                stopped + (not course.grokked and step is not None),
            )
    # What the runs that groked went on training after their goal is counted apart, with --until.
    return {"saved": saved / spent, "lost": lost / grokked, "stopped": stopped / others}


def give_up_rule(calibration: Sequence[Course], entry: Entry, kept: float) -> tuple[float, float]:
    """The threshold and the least multiple of t_fit that save most steps of the calibration runs."""
    inner = held_out_scores(calibration, lambda rest: fitted(entry, rest))
    best = (-1.0, -np.inf, 1.0)
    for after in (1.0, 2.0, 4.0, 8.0, 16.0, 32.0):
        lowest = []
        for scores, course in zip(inner, calibration, strict=True):
            late = scores[course.steps >= after * course.t_fit]
            if course.grokked:
                lowest.append(float(late.min()) if len(late) else np.inf)
        threshold = -alarm_threshold([-value for value in lowest], kept)
        saved = 0.0
        for scores, course in zip(inner, calibration, strict=True):
            step = first_alarm(course, scores, threshold, after=after, below=True)
            saved += 0 if step is None or course.grokked else course.total - step
        if saved > best[0]:
            best = (saved, threshold, after)
    return best[1], best[2]


def until_saved(runs: Sequence[BankRun]) -> float:
    """Share of all steps of the bank that come after sustained generalization was seen."""
    saved = 0
    for run in runs:
        if run.outcome != "not" and run.times.t_gen_sustained is not None:
            seen = run.steps[run.steps.tolist().index(run.times.t_gen_sustained) + 2]
            saved += int(run.steps[-1] - seen)
    return saved / sum(int(run.steps[-1]) for run in runs)


def signed(found: tuple[float, float, float]) -> str:
    """``−0.03 (−0.05 to +0.01)``."""
    value, low, high = (f"{v:+.2f}".replace("-", "−") for v in found)
    return f"{value} ({low} to {high})"


def interval(found: tuple[float, float, float], digits: int = 2) -> str:
    """``0.93 (0.88–0.97)``."""
    value, low, high = (f"{v:.{digits}f}" for v in found)
    return f"{value} ({low}–{high})"


def table(results: dict[str, dict[str, Any]]) -> Iterator[str]:
    """One line an entry."""
    yield (
        "| detector | AUROC at "
        + " | ".join(f"{h} t_fit" for h in HORIZONS)
        + " | false alarms | recall | recall at 5% | early at 5% | lead | all |"
    )
    yield "|" + "---|" * (len(HORIZONS) + 7)
    for name, found in results.items():
        cells = [name]
        cells += [interval(found["auroc"][h]) if h == MAIN else f"{found['auroc'][h][0]:.2f}" for h in HORIZONS]
        cells += ["{:.0%} ({:.0%}–{:.0%})".format(*found[key]) for key in ("false", *RECALLS)]
        cells.append("–" if found["lead"] is None else "{1:.0%} ({0:.0%}–{2:.0%})".format(*found["lead"]))
        cells.append("–" if found["lead of all"] is None else f"{found['lead of all']:.0%}")
        yield "| " + " | ".join(cells) + " |"


def write_calibrated(courses: Sequence[Course], names: Sequence[str], path: Path) -> None:
    """Write detectors that the library ships, calibrated on all runs; those that are not named stay."""
    found = json.loads(path.read_text(encoding="utf-8"))
    if "slope" in names:
        rule = Score(features=(SLOPE,), center=(0.0,), scale=(1.0,), weight=(-1.0,))
        highest = [bounded_scores(rule, c).max() for c in courses if not c.grokked]
        found["slope"] = rounded(
            to_plain(Combination("slope of the validation loss", rule, alarm_threshold(highest, RATE)))
        )
    if "give up" in names:
        # Without three series that a run does not have by default.
        features = [f for f in features_of("labeled") if f.series not in _UNSEEN_ONLINE]
        entry = Entry("give up", "labeled", tuple(_AT[f.name] for f in features))
        low, after = give_up_rule(courses, entry, RATE)
        columns = list(entry.columns)
        score = learn([replace(c, steps=c.steps[::3], values=c.values[::3][:, columns]) for c in courses], features)
        found["give up"] = rounded(to_plain(Combination("give up", score, low, below=True, after=after)))
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def bounded_scores(slope: Score, course: Course) -> np.ndarray:
    """Scores of a rule about the slope, closed while the validation loss is above that of guessing."""
    found = scores_of(slope, course.values[:, [_AT[SLOPE.name]]])
    return np.where(course.values[:, _AT["loss over chance"]] <= 0, found, _CLOSED)


def shipped_alarm(courses: Sequence[Course], bounded: bool = True) -> dict[str, Any]:
    """Recall, false alarms and lead of the slope at the threshold that the library ships; intervals of Wilson.

    Args:
        courses: of the runs.
        bounded: take no alarm while the validation loss is above that of guessing, as in runs of the library.
    """
    shipped = calibrated("slope")
    assert shipped.score.features == (SLOPE,)
    found = []
    for course in courses:
        scores = bounded_scores(shipped.score, course)
        if not bounded:
            scores = scores_of(shipped.score, course.values[:, [_AT[SLOPE.name]]])
        found.append((course, first_alarm(course, scores, shipped.threshold, after=shipped.after)))
    ahead = [1 - step / course.t_gen for course, step in found if course.grokked and step is not None]
    grokked = sum(course.grokked for course in courses)
    false = sum(step is not None for course, step in found if not course.grokked)
    return {
        "recall": (len(ahead), grokked, *wilson(len(ahead), grokked)),
        "false": (false, len(courses) - grokked, *wilson(false, len(courses) - grokked)),
        "lead": np.quantile(ahead, (0.25, 0.5, 0.75)).tolist() if ahead else None,
    }


def wilson(good: int, count: int, z: float = 1.959964) -> tuple[float, float]:
    """The 95% interval of a share.

    >>> [round(end, 3) for end in wilson(0, 10)], wilson(0, 0)
    ([0.0, 0.278], (0.0, 1.0))
    """
    if not count:
        return 0.0, 1.0
    middle, half = good + z * z / 2, z * np.sqrt(good * (count - good) / count + z * z / 4)
    return max(0.0, float((middle - half) / (count + z * z))), min(1.0, float((middle + half) / (count + z * z)))


def rounded(values: Any) -> Any:
    """Numbers to six digits, as far down as they go."""
    if isinstance(values, float):
        return float(f"{values:.6g}")
    if isinstance(values, dict):
        return {key: rounded(value) for key, value in values.items()}
    return [rounded(value) for value in values] if isinstance(values, list) else values


def main() -> None:
    """Evaluate everything; write tables, plots and, if asked, the detectors."""
    parser = make_parser(__doc__, out=RESULTS / "early-warning.md")
    parser.add_argument("--bank", type=Path, nargs="+", default=[Path("runs/bank")], help="folders of the files")
    parser.add_argument("--images", type=Path, default=Path(__file__).parent / "reports" / "images")
    parser.add_argument(
        "--write", nargs="+", choices=SHIPPED, help="write these detectors that the library ships, and end"
    )
    parser.add_argument("--shipped", action="store_true", help="measure the threshold that the library ships, and end")
    options = parser.parse_args()
    began = time.perf_counter()
    runs = [run for folder in options.bank for run in read_bank(folder)]
    played = [(run, course) for run, course in zip(runs, courses_of(runs), strict=True) if course is not None]
    used = [(run, course) for run, course in played if run.outcome != "at once"]
    chosen, courses = [run for run, _ in used], [course for _, course in used]
    print(f"{len(runs)} runs, {len(courses)} used, {time.perf_counter() - began:.0f} s", file=sys.stderr)
    if options.write:
        write_calibrated(
            courses, options.write, Path(__file__).parents[1] / "src/surgecollapse/forecast/calibrated.json"
        )
        return
    partial = {
        i for i, run in enumerate(chosen) if run.outcome == "not" and run.series["accuracy/validation"][-1] >= 0.5
    }
    nets = [run.net for run in chosen]
    shipped = {}
    for net in dict.fromkeys(nets):
        own = [i for i, other in enumerate(nets) if other == net]
        shipped[net] = shipped_alarm([courses[i] for i in own])
        shipped[f"{net}, none half-way"] = shipped_alarm([courses[i] for i in own if i not in partial])
        shipped[f"{net}, at any loss"] = shipped_alarm([courses[i] for i in own], bounded=False)
    if options.shipped:
        print(json.dumps(shipped))
        return
    tasks = [kind_of(course.group) for course in courses]
    splits = {"A task held out": folds_by(tasks, courses)}
    if len(set(nets)) > 1:
        splits["An architecture held out"] = folds_by([_SIDES.get(net, net) for net in nets], courses)
    else:
        splits["A family of tasks held out"] = folds_by([FAMILY.get(run.task, "modular") for run in chosen], courses)
        splits["A value of a hyperparameter held out"] = by_setting(chosen, courses)
    splits = {title: folds for title, folds in splits.items() if folds}
    wanted = entries()
    results: dict[str, dict[str, dict[str, Any]]] = {}
    behind: dict[str, dict[str, dict[str, tuple[float, float, float]]]] = {}
    kept: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for title, folds in splits.items():
        rows = {entry.name: evaluate(entry, folds) for entry in wanted}
        kept[title] = rows | {CHOSEN: choose(rows, wanted)}
        results[title] = {name: summary(rows) for name, rows in kept[title].items()}
        slope = kept[title][CONTROL]
        behind[title] = {name: minus_slope(rows, slope) for name, rows in kept[title].items() if name != CONTROL}
        print(f"{title}: {time.perf_counter() - began:.0f} s", file=sys.stderr)
    clear = {
        name: auroc([row for row in rows if row["run"] not in partial], MAIN)
        for name, rows in kept["A task held out"].items()
    }
    giving_up = () if len(set(nets)) > 1 else ("logistic", "control: settings")
    saving = {e.name: give_up(courses, e, tasks) for e in wanted if e.name.startswith(giving_up)}
    text = page(
        runs, courses, results, behind, clear, len(partial), saving, until_saved(runs), time.perf_counter() - began
    )
    text += "\n" + "\n".join(shipped_table(shipped)) + "\n"
    if len(set(nets)) > 1:
        by_net = {
            title: {
                net: {name: summary([row for row in rows if nets[row["run"]] == net]) for name, rows in found.items()}
                for net in dict.fromkeys(nets)
            }
            for title, found in kept.items()
        }
        text += "\n" + "\n".join(net_tables(by_net))
        draw_nets(by_net["A task held out"], options.images / "early-warning-nets.png")
    options.out.write_text(text, encoding="utf-8")
    print(text)
    if len(set(nets)) > 1:
        return
    draw(results["A task held out"], kept["A task held out"], options.images)


def page(
    runs: Sequence[BankRun],
    courses: Sequence[Course],
    results: dict[str, dict[str, dict[str, Any]]],
    behind: dict[str, dict[str, dict[str, tuple[float, float, float]]]],
    clear: dict[str, tuple[float, float, float]],
    partial: int,
    saving: dict[str, dict[str, float]],
    until: float,
    seconds: float,
) -> str:
    """The results as Markdown."""
    grokked = sum(course.grokked for course in courses)
    at_once = sum(run.outcome == "at once" for run in runs)
    by_net: dict[str, Counter[str]] = {}
    for run in runs:
        by_net.setdefault(run.net, Counter())[run.task] += 1
    lines = [
        "# Early warning of grokking",
        "",
        f"`python benchmarks/early_warning.py{' --bank runs/bank runs/bank-2' if len(by_net) > 1 else ''}`",
        "",
        f"{len(runs)} runs of the bank: {grokked} that grokked and {len(courses) - grokked} that did not take part; "
        f"{at_once} generalized at once and {len(runs) - len(courses) - at_once} never fitted, and are left out. "
        f"{seconds:.0f} s; python {platform.python_version()}, numpy {np.__version__}.",
        "",
        *[
            f"- {net}: {', '.join(f'{task} ({count})' for task, count in sorted(by_net[net].items()))}"
            for net in by_net
        ],
        "",
    ]
    for title, found in results.items():
        lines += [f"## {title}", "", *table(found), ""]
    lines += [
        "AUROC: pairs of a run that grokked and one that did not, of the same task and fold, ranked by the score at a "
        f"multiple of t_fit, of runs that had not generalized by then; at {MAIN} t_fit with the 95% interval over "
        "tasks drawn with replacement. False alarms: held-out runs that did not grok and had an alarm, at a threshold "
        "set for 5% on the calibration side. Recall: runs that grokked and had one before. Recall at 5%: the same "
        "with a threshold that 5% of the fold's held-out runs that did not grok exceed, which an alarm cannot know; "
        f"early: with {EARLY:.0%} of t_gen left or more. "
        "Lead: share of t_gen left at the alarm, median (quartiles) of those; all: median with 0 for one without.",
        "",
        "## Minus the slope of the validation loss",
        "",
        f"On the same runs: AUROC at {MAIN} t_fit and recalls, with 95% intervals over tasks drawn with replacement. A "
        "detector is ahead where the interval lies above zero. Ahead by one measure on every split: "
        f"{', '.join(ahead_of_slope(behind)) or 'none'}.",
        "",
        "| detector | "
        + " | ".join(f"{title}: AUROC | recall | recall at 5% | early at 5%" for title in behind)
        + " |",
        "|---" * (1 + len(WHAT) * len(behind)) + "|",
        *[
            "| " + " | ".join([name, *(signed(found[name][what]) for found in behind.values() for what in WHAT)]) + " |"
            for name in next(iter(behind.values()))
        ],
        "",
        f"## Without the {partial} runs that ended half-way",
        "",
        "Runs that did not grok within their steps but ended at 50% validation accuracy or more, left out; AUROC at "
        f"{MAIN} t_fit, a task held out.",
        "",
        "| detector | AUROC |",
        "|---|---|",
        *[f"| {name} | {interval(found)} |" for name, found in clear.items()],
        "",
    ]
    if saving:
        lines += [
            "## Steps saved",
            "",
            f"Stopping once generalization is sustained saves {until:.0%} of all steps of the bank. Giving up, with "
            "thresholds that at most 5% of the calibration runs that grok would have met, a task held out:",
            "",
            "| detector | of the steps saved | of the hopeless runs stopped | of the runs that grok lost |",
            "|---|---|---|---|",
            *[f"| {n} | {f['saved']:.0%} | {f['stopped']:.0%} | {f['lost']:.0%} |" for n, f in saving.items()],
            "",
        ]
    return "\n".join(lines)


def shipped_table(shipped: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Recall and false alarms of the shipped threshold, by kind of net.

    Also without the runs that ended half-way, and without the bound on the loss.
    """
    yield "## The threshold that is shipped"
    yield ""
    yield f"`--forecast slope`: a slope of −{calibrated('slope').threshold:g} or steeper, below the loss of guessing."
    yield "Half-way: did not grok, and ended at 50% validation accuracy or more. Intervals are Wilson's."
    yield ""
    yield "| net | false alarms | recall | lead, median (quartiles) |"
    yield "|---|---|---|---|"
    for net, found in shipped.items():
        cells = [net]
        for key in ("false", "recall"):
            good, count, low, high = found[key]
            cells.append(f"{good} of {count}: {good / count:.0%} ({low:.0%}–{high:.0%})" if count else "–")
        cells.append("–" if found["lead"] is None else "{1:.0%} ({0:.0%}–{2:.0%})".format(*found["lead"]))
        yield "| " + " | ".join(cells) + " |"
    yield ""


def net_tables(by_net: dict[str, dict[str, dict[str, dict[str, Any]]]]) -> Iterator[str]:
    """AUROC, false alarms and recall by kind of net, for each split."""
    for title, nets in by_net.items():
        yield f"## By architecture: {title[0].lower()}{title[1:]}"
        yield ""
        yield "AUROC at 4 t_fit (interval); false alarms; recall; recall at 5% of that architecture; the same, early."
        yield ""
        yield "| detector | " + " | ".join(nets) + " |"
        yield "|---" * (1 + len(nets)) + "|"
        for name in next(iter(nets.values())):
            cells = [
                "; ".join(
                    [interval(found[name]["auroc"][MAIN])]
                    + [f"{found[name][what][0]:.0%}" for what in ("false", *RECALLS)]
                )
                for found in nets.values()
            ]
            yield "| " + " | ".join([name, *cells]) + " |"
        yield ""


SHOWN = {
    "logistic, train": "training rows alone",
    "logistic, unlabeled": "and validation inputs",
    "logistic, labeled": "and validation labels",
    "control: settings alone": "control: settings",
    "control: slope of the validation loss": "control: validation loss slope",
    "control: weight norm": "control: weight norm",
}


def draw(results: dict[str, Any], rows: dict[str, list[dict[str, Any]]], folder: Path) -> None:
    """AUROC by horizon; lead by detector; scores of all runs on tasks held out."""
    try:
        from surgecollapse.report.style import RUNS, canvas, legend_above, save_png, styled
    except ModuleNotFoundError:
        return

    @styled
    def ranking() -> Any:
        figure = canvas(7.0, 3.8)
        ax = figure.add_subplot()
        for (color, _), (name, label) in zip(RUNS * 2, SHOWN.items(), strict=False):
            values = np.array([results[name]["auroc"][h] for h in HORIZONS])
            style = "--" if label.startswith("control") else "-"
            ax.plot(HORIZONS, values[:, 0], style, color=color, label=label, marker="o", markersize=3)
            ax.fill_between(HORIZONS, values[:, 1], values[:, 2], color=color, alpha=0.08, linewidth=0)
        ax.set_xscale("log", base=2)
        ax.set_xticks(HORIZONS, [str(h) for h in HORIZONS])
        ax.set_xlabel("multiple of t_fit")
        ax.set_ylabel("AUROC, a task held out")
        legend_above(figure, [ax], columns=3)
        return figure

    @styled
    def leads() -> Any:
        figure = canvas(7.0, 3.4)
        ax = figure.add_subplot()
        names = list(SHOWN)[::-1]
        draws = np.random.default_rng(0)
        for y, name in enumerate(names):
            grokked = [row for row in rows[name] if row["grokked"]]
            values = [lead(row) for row in grokked]
            ax.plot(values, y + draws.uniform(-0.28, 0.28, len(values)), ".", color="#3b6fb6", markersize=3, alpha=0.6)
            ax.plot([np.median(values)] * 2, [y - 0.35, y + 0.35], color="#b3402a", linewidth=2)
        ax.set_yticks(range(len(names)), [SHOWN[name] for name in names])
        ax.set_xlabel("share of t_gen left at the alarm (0: none before); median in red")
        return figure

    @styled
    def courses() -> Any:
        figure = canvas(7.4, 3.4)
        for i, name in enumerate(("logistic, train", "logistic, labeled")):
            ax = figure.add_subplot(1, 2, i + 1)
            for row in rows[name]:
                at, scores = row["course"]
                color = "#2a8a5f" if row["grokked"] else "#b3402a"
                ax.plot(at, scores, color=color, linewidth=0.5, alpha=0.35)
            ax.set_xscale("log")
            ax.set_xlabel("step / t_fit")
            ax.set_title(SHOWN[name] if i == 0 else "with validation labels", fontsize=9)
            if i == 0:
                ax.set_ylabel("score; green: will grok")
        return figure

    for name, picture in (("ranking", ranking), ("leads", leads), ("scores", courses)):
        save_png(picture(), folder / f"early-warning-{name}.png")


def draw_nets(by_net: dict[str, dict[str, dict[str, Any]]], path: Path) -> None:
    """AUROC of every detector by kind of net."""
    try:
        from surgecollapse.report.style import RUNS, canvas, legend_above, save_png, styled
    except ModuleNotFoundError:
        return

    @styled
    def picture() -> Any:
        names = [name for name in next(iter(by_net.values())) if name != CHOSEN]
        names.sort(key=lambda name: np.nanmean([found[name]["auroc"][MAIN][0] for found in by_net.values()]))
        figure = canvas(7.0, 0.24 * len(names) + 1.0)
        ax = figure.add_subplot()
        for i, (net, found) in enumerate(by_net.items()):
            color, marker = RUNS[i]
            values = np.array([found[name]["auroc"][MAIN] for name in names])
            at = np.arange(len(names)) + 0.22 * (i - (len(by_net) - 1) / 2)
            ax.hlines(at, values[:, 1], values[:, 2], color=color, linewidth=1)
            ax.plot(values[:, 0], at, marker, color=color, markersize=4, label=NETS_SAID.get(net, net))
        ax.axvline(0.5, color="0.6", linewidth=0.8, zorder=0)
        ax.set_yticks(range(len(names)), names)
        ax.set_ylim(-0.7, len(names) - 0.3)
        ax.set_xlabel(f"AUROC at {MAIN} t_fit, a task held out; 95% intervals over tasks", loc="right")
        legend_above(figure, [ax], columns=3)
        return figure

    save_png(picture(), path)


if __name__ == "__main__":
    main()
