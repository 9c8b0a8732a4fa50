"""Which reading ranks the runs of a task that no weight, sign or threshold was learned from."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from grokking_bank.calibration import Course, alarm_threshold, scores_of
from grokking_bank.learning import learn
from numpy.typing import NDArray

from outcome_bank.runs import positive
from surgecollapse.forecast.features import Feature

Array = NDArray[np.float64]
RATE = 0.05
NEAR = math.log10(1.5)
"""Most that the logarithms of two learning rates may differ by, to be called similar."""
DRAWS = 2_000
_LOGS = ("norm/", "noise/", "update/", "commutator/", "logits/scale", "rank/")
"""Series that span orders of magnitude: their logarithm is taken."""
_SIGNED = "curvature/"
"""Series that do so on both sides of 0: their sign times log₁₀(1 + 10³·size)."""
OWN = {
    "divergence": ("loss slope", "loss", "loss spread"),
    "dead": ("dead share",),
    "plasticity": ("accuracy", "accuracy change", "loss"),
}
"""What measures an outcome itself, at the reading."""
ALL, BOTH, CHOSEN = (
    "logistic, all monitors",
    "logistic, monitors and settings",
    "best single monitor of the other tasks",
)
SETTINGS, PRESENT, NORM = "control: settings of the run", "control: present value", "control: weight norm"
RATE_ALONE, CONTROLS = "control: learning rate", "control: logistic, all controls"


@dataclass(frozen=True)
class Read:
    """One run that counts: what was known at the reading, and what came of it."""

    task: str
    group: str
    positive: bool
    monitors: Mapping[str, Mapping[str, float]]
    """By series: each form of it."""
    present: Mapping[str, float]
    settings: tuple[float, ...]

    @property
    def rate(self) -> float:
        """Decimal logarithm of its learning rate."""
        return self.settings[1] + self.settings[2]


@dataclass(frozen=True)
class Scored:
    """One run, scored by what had not seen its task."""

    task: str
    group: str
    positive: bool
    score: float
    alarm: bool
    rate: float = 0.0
    """Decimal logarithm of its learning rate."""


def reads(rows: Sequence[Mapping[str, Any]]) -> list[Read]:
    """The runs that count, of one outcome."""
    found = []
    for row in rows:
        came = positive(row)
        if came is not None:
            found.append(Read(row["task"], group_of(row), came, _forms(row), present_of(row), settings_of(row)))
    return found


def group_of(row: Mapping[str, Any]) -> str:
    """Runs that are compared with each other: of one task, net, stream and optimizer."""
    return ", ".join(part for part in (row["task"], row["net"], row["stream"], row["optimizer"]) if part)


def present_of(row: Mapping[str, Any]) -> dict[str, float]:
    """The outcome's own measure, now."""
    return {name: row["now"][name] for name in OWN[row["outcome"]]}


def settings_of(row: Mapping[str, Any]) -> tuple[float, ...]:
    """What is known before the first step; the rate of either optimizer has a column of its own."""
    adam, rate = row["optimizer"] == "adam", math.log10(row["lr"])
    nets = [float(row["net"] == net) for net in ("cnn", "transformer")]
    streams = [float(row["stream"] == stream) for stream in ("labels", "random")]
    rest = (row["warmup"] / 100, row["weight_decay"], math.log(row["scale"]), row["bias"], row["activation"] == "gelu")
    return (float(adam), rate if adam else 0.0, 0.0 if adam else rate, *map(float, rest), *nets, *streams)


def _forms(row: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Of each series: mean, largest and least over layers, each as it is and as its change since the reading before."""
    before, now = row["readings"][-2] if len(row["readings"]) > 1 else {}, row["readings"][-1]
    found: dict[str, dict[str, float]] = {}
    for key, value in now.items():
        name, _, which = key.partition(", ")
        forms = found.setdefault(name, {})
        late, early = (_scaled(name, v) for v in (value, before.get(key, math.nan)))
        forms[which or "mean"] = late
        forms[f"change of {which or 'mean'}"] = late - early
    sharpness, rate = now.get("curvature/sharpness"), row["now"]["rate now"]
    if sharpness is not None and rate > 0:
        limit = now.get("curvature/threshold", 1.0)
        full = sharpness / limit * row["lr"] / rate
        found["sharpness over its threshold, at the full rate"] = {"value": _scaled("curvature/sharpness", full)}
    return found


def _scaled(name: str, value: float) -> float:
    if name.startswith(_SIGNED):
        return math.copysign(math.log10(1.0 + 1e3 * abs(value)), value)
    return math.log10(max(value, 1e-12)) if name.startswith(_LOGS) else value


def concordance(runs: Sequence[Scored], tasks: Sequence[str], near: float = math.inf) -> tuple[Array, Array]:
    """By task: concordant pairs of a positive and a negative run of one group, and all such pairs.

    Args:
        runs: of all tasks.
        tasks: their names, in the order of what is returned.
        near: only pairs whose logarithms of the rate differ by at most so much.
    """
    good, count = np.zeros(len(tasks)), np.zeros(len(tasks))
    groups: dict[str, list[Scored]] = {}
    for run in runs:
        groups.setdefault(run.group, []).append(run)
    for members in groups.values():
        high = np.array([[run.score, run.rate] for run in members if run.positive]).reshape(-1, 1, 2)
        low = np.array([[run.score, run.rate] for run in members if not run.positive]).reshape(1, -1, 2)
        pairs = np.abs(high[..., 1] - low[..., 1]) <= near
        at = tasks.index(members[0].task)
        good[at] += (pairs * ((high > low) + 0.5 * (high == low))[..., 0]).sum()
        count[at] += pairs.sum()
    return good, count


def alarms(runs: Sequence[Scored], tasks: Sequence[str], *, of: bool) -> tuple[Array, Array]:
    """By task: alarms among positive (or negative) runs, and all of these."""
    good = np.array([sum(r.alarm for r in runs if r.task == task and r.positive is of) for task in tasks], float)
    count = np.array([sum(r.positive is of for r in runs if r.task == task) for task in tasks], float)
    return good, count


def share(parts: tuple[Array, Array], draws: NDArray[np.int64]) -> tuple[float, float, float]:
    """Sum over sum, with its 95% interval over tasks drawn with replacement; NaN where there is nothing."""
    good, count = parts
    if not count.sum():
        return math.nan, math.nan, math.nan
    with np.errstate(invalid="ignore", divide="ignore"):
        low, high = np.nanquantile(good[draws].sum(1) / count[draws].sum(1), (0.025, 0.975))
    return float(good.sum() / count.sum()), float(low), float(high)


def difference(
    one: tuple[Array, Array], other: tuple[Array, Array], draws: NDArray[np.int64]
) -> tuple[float, float, float]:
    """Of two shares on the same runs, with its paired 95% interval over tasks drawn with replacement."""
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = [good[draws].sum(1) / count[draws].sum(1) for good, count in (one, other)]
        low, high = np.nanquantile(spread[0] - spread[1], (0.025, 0.975))
    value = one[0].sum() / one[1].sum() - other[0].sum() / other[1].sum()
    return float(value), float(low), float(high)


def drawn(count: int) -> NDArray[np.int64]:
    """Draws of tasks with replacement."""
    return np.random.default_rng(0).integers(count, size=(DRAWS, count))


Scorer = Callable[[Sequence[Read]], Callable[[Read], float]]


def held_out(runs: Sequence[Read], scorer: Scorer, *, inner: bool = False) -> list[Scored]:
    """Scores and alarms of every run, by what was learned on the other tasks alone.

    Args:
        runs: of all tasks.
        scorer: learns on runs, and returns what scores one.
        inner: set the threshold on scores that had not seen their task either, as learned weights demand.
    """
    found = []
    for task in sorted({run.task for run in runs}):
        rest = [run for run in runs if run.task != task]
        score = scorer(rest)
        quiet = [run for run in rest if not run.positive]
        known = []
        for other in sorted({run.task for run in rest}):
            alone = scorer([run for run in rest if run.task != other]) if inner else score
            known += [alone(run) for run in quiet if run.task == other]
        threshold = alarm_threshold(known, RATE)
        for run in runs:
            if run.task == task:
                value = score(run)
                found.append(Scored(run.task, run.group, run.positive, value, value >= threshold, run.rate))
    return found


def single(pick: Callable[[Read], Mapping[str, float]]) -> Scorer:
    """The form and sign that rank the runs of the training tasks best. What is unknown has their median."""

    def learned(rest: Sequence[Read]) -> Callable[[Read], float]:
        found = [pick(run) for run in rest]
        forms = sorted({form for own in found for form in own})
        values = np.array([[own.get(form, math.nan) for form in forms] for own in found], float)
        known, middles = filled(values)
        ranks = ranked(rest, known)
        best = int(np.abs(ranks - 0.5).argmax())
        form, sign, middle = forms[best], 1.0 if ranks[best] >= 0.5 else -1.0, float(middles[best])

        def score(run: Read) -> float:
            value = pick(run).get(form, middle)
            return sign * (value if math.isfinite(value) else middle)

        return score

    return learned


def filled(values: Array) -> tuple[Array, Array]:
    """Columns with their median where a value is not finite, and the medians; 0 in a column without any.

    >>> filled(np.array([[1.0, np.nan], [np.inf, np.nan], [3.0, np.nan]]))[0].tolist()
    [[1.0, 0.0], [2.0, 0.0], [3.0, 0.0]]
    """
    finite = np.isfinite(values)
    middles = np.array([np.median(v[f]) if f.any() else 0.0 for v, f in zip(values.T, finite.T, strict=True)])
    return np.where(finite, values, middles), middles


def ranked(runs: Sequence[Read], values: Array) -> Array:
    """Share of concordant pairs within groups, for every column of ``values`` (runs, columns)."""
    good, count = np.zeros(values.shape[1]), 0
    came = np.array([run.positive for run in runs])
    groups = np.array([run.group for run in runs])
    for group in sorted(set(groups)):
        high, low = (values[(groups == group) & (came == side)] for side in (True, False))
        above = high[:, None] > low[None]
        good += (above + 0.5 * (high[:, None] == low[None])).sum((0, 1))
        count += len(high) * len(low)
    return good / count


def logistic(pick: Callable[[Read], Sequence[float]]) -> Scorer:
    """Logistic regression; what is unknown counts as the middle of its column."""

    def learned(rest: Sequence[Read]) -> Callable[[Read], float]:
        courses = [_course(run, pick(run)) for run in rest]
        names = [Feature(f"column {i}") for i in range(courses[0].values.shape[1])]
        weights = learn(courses, names)
        return lambda run: float(scores_of(weights, np.array([pick(run)], float))[0])

    return learned


def _course(run: Read, values: Sequence[float]) -> Course:
    return Course(
        steps=np.array([1]),
        values=np.array([values], float),
        grokked=run.positive,
        group=run.task,
        t_fit=1,
        t_gen=None,
        total=1,
    )


def entries(runs: Sequence[Read]) -> dict[str, list[Scored]]:
    """All that is compared: controls, every series by itself, the one chosen on the other tasks, and combinations."""
    names = sorted(name for name in {n for run in runs for n in run.monitors} if name != "curvature/threshold")
    forms = sorted({(name, form) for run in runs for name in names for form in run.monitors.get(name, {})})

    def of(name: str) -> Callable[[Read], Mapping[str, float]]:
        return lambda run: run.monitors.get(name, {})

    def every(run: Read) -> dict[str, float]:
        return {f"{name}: {form}": value for name in names for form, value in run.monitors.get(name, {}).items()}

    def columns(run: Read) -> list[float]:
        return [run.monitors.get(name, {}).get(form, math.nan) for name, form in forms]

    def known(run: Read) -> list[float]:
        own = run.monitors.get("norm/weight", {})
        norms = [own.get(form, math.nan) for name, form in forms if name == "norm/weight"]
        return [*run.settings, *run.present.values(), *norms]

    found = {
        SETTINGS: held_out(runs, logistic(lambda run: run.settings), inner=True),
        RATE_ALONE: held_out(runs, single(lambda run: {"rate": run.rate})),
        PRESENT: held_out(runs, single(lambda run: run.present)),
        NORM: held_out(runs, single(of("norm/weight"))),
        CONTROLS: held_out(runs, logistic(known), inner=True),
    }
    found |= {name: held_out(runs, single(of(name))) for name in names if name != "norm/weight"}
    found[CHOSEN] = held_out(runs, single(every))
    found[ALL] = held_out(runs, logistic(columns), inner=True)
    found[BOTH] = held_out(runs, logistic(lambda run: [*columns(run), *run.settings]), inner=True)
    return found


def summary(runs: Sequence[Read]) -> dict[str, Any]:
    """AUROC, recall and false alarms of every entry, and paired differences to the best of the controls."""
    tasks = sorted({run.task for run in runs})
    draws = drawn(len(tasks))
    found = entries(runs)
    ranks = {name: concordance(scored, tasks) for name, scored in found.items()}
    auroc = {name: share(parts, draws) for name, parts in ranks.items()}
    base = max((name for name in found if name.startswith("control")), key=lambda name: auroc[name][0])
    table = {}
    for name, scored in found.items():
        hit, false = alarms(scored, tasks, of=True), alarms(scored, tasks, of=False)
        table[name] = {
            "auroc": auroc[name],
            "auroc_near": share(concordance(scored, tasks, NEAR), draws),
            "recall": share(hit, draws),
            "false": share(false, draws),
            "auroc_minus_control": difference(ranks[name], ranks[base], draws),
            "recall_minus_control": difference(hit, alarms(found[base], tasks, of=True), draws),
            "least_task": _least(ranks[name], tasks),
        }
    return {
        "positive": sum(run.positive for run in runs),
        "negative": sum(not run.positive for run in runs),
        "tasks": {t: [sum(r.positive is c for r in runs if r.task == t) for c in (True, False)] for t in tasks},
        "groups": len({run.group for run in runs}),
        "pairs": [int(concordance(found[NORM], tasks, near)[1].sum()) for near in (math.inf, NEAR)],
        "control": base,
        "entries": table,
    }


def _least(parts: tuple[Array, Array], tasks: Sequence[str]) -> tuple[str, float]:
    """The task on which it ranks worst."""
    shares = {task: float(g / c) for task, g, c in zip(tasks, *parts, strict=True) if c}
    name = min(shares, key=lambda task: shares[task])
    return name, shares[name]
