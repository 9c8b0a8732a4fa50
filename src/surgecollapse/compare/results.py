"""From rows to what is reported: tuned settings, and one panel of scores per net and sparsity."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from surgecollapse.compare.equal_flops import equal_steps, total_flops
from surgecollapse.compare.paired_statistics import Interval, mean_interval
from surgecollapse.compare.plan import TUNING_SEED, make_cell

if TYPE_CHECKING:
    from surgecollapse.compare.methods import Method
    from surgecollapse.compare.plan import Cell, Plan
    from surgecollapse.compare.rows import Row, Rows
    from surgecollapse.compare.suites import Entry

MARGIN = -0.3
"""In points: a method counts as at least as good where the lower end of the paired interval is above this."""
LEAST_SEEDS = 10
"""With fewer, nothing is claimed."""


SMALL_DENSE = "small_dense"
"""Name of the method whose differences have a column of their own."""


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """What tuning chose for one method on one entry."""

    settings: Mapping[str, Any]
    record: Mapping[str, Any]
    """For ``tuned.json``."""


def choose_trial(method: Method, cells: Sequence[Cell], rows: Rows) -> Tuned | None:
    """Choose the trial with the best validation accuracy, the first of equal ones; ``None`` if none was trained.

    The test accuracies of the trials are in their rows, and play no part.
    """
    found = [rows.get(cell.key) for cell in cells]
    scores = [None if row is None else float(row["accuracy_validation"]) for row in found]
    best = max((score for score in scores if score is not None), default=None)
    if best is None:
        return None
    choice = scores.index(best)
    record = {
        "choice": choice,
        "settings": method.trials[choice],
        "sparsity": cells[choice].sparsity,
        "seed": TUNING_SEED,
        "trials": [
            {"settings": settings, "accuracy_validation": score}
            for settings, score in zip(method.trials, scores, strict=True)
        ],
    }
    return Tuned(settings=method.trials[choice], record=record)


@dataclass(frozen=True, kw_only=True)
class Score:
    """One method on one net at one sparsity."""

    method: Method
    settings: Mapping[str, Any]
    """That tuning chose."""
    rows: Mapping[int, Row]
    """By seed."""

    @property
    def accuracies(self) -> dict[int, float]:
        """Test accuracy in percent, by seed."""
        return {seed: 100 * float(row["accuracy"]) for seed, row in self.rows.items()}

    @property
    def accuracy(self) -> Interval:
        """Mean test accuracy in percent."""
        return mean_interval(list(self.accuracies.values()))

    @property
    def bits_per_character(self) -> Interval | None:
        """Mean bits per character of the test text; ``None`` where the task is no text."""
        found = [float(row["bits_per_character"]) for row in self.rows.values() if "bits_per_character" in row]
        return mean_interval(found) if found else None

    def mean(self, name: str) -> float:
        """Mean of a number of the rows."""
        return statistics.fmean(float(row[name]) for row in self.rows.values())

    def training_flops(self, entry: Entry) -> float:
        """Mean training FLOPs over those of the entry's dense training, whatever the number of steps of the runs."""
        steps = entry.settings.get("steps")
        if steps is None:
            return self.mean("flops_training")
        return statistics.fmean(total_flops(row) for row in self.rows.values()) / float(steps)

    def minus(self, other: Score) -> tuple[Interval, int] | None:
        """Paired difference of accuracy in points over the seeds that both have, and how many these are."""
        ours, theirs = self.accuracies, other.accuracies
        common = [ours[seed] - theirs[seed] for seed in ours if seed in theirs]
        return (mean_interval(common), len(common)) if common else None


@dataclass(frozen=True, kw_only=True)
class Check:
    """The reference against one other method."""

    what: str
    """Why this one: ``best sparse rival`` or ``best dense``."""
    other: Score
    difference: Interval
    """Reference minus other, in points."""
    seeds: int
    density_ratio: float
    """Mean training density of the reference over the other's."""

    @property
    def verdict(self) -> str:
        """What may be said."""
        if self.seeds < LEAST_SEEDS:
            return f"no claim under {LEAST_SEEDS} seeds"
        if self.difference.low > 0:
            return "better"
        if self.difference.low > MARGIN:
            return "at least as good"
        return "worse" if self.difference.high < 0 else "not shown"


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One net at one sparsity: the scores of all methods that have finished runs."""

    entry: Entry
    sparsity: float
    scores: tuple[Score, ...]
    reference: str

    def of(self, name: str) -> Score | None:
        """The score of a method."""
        return next((score for score in self.scores if score.method.name == name), None)

    def checks(self) -> list[Check]:
        """The reference against the best sparse rival, the best dense method, and AC/DC if it is among them."""
        ours = self.of(self.reference)
        if ours is None:
            return []
        others = [score for score in self.scores if score is not ours]
        sparse = [score for score in others if score.method.sparse]
        dense = [score for score in others if not score.method.sparse]
        chosen = [("best sparse rival", _best(sparse)), ("best dense", _best(dense)), ("AC/DC", self.of("acdc"))]
        checks: dict[str, Check] = {}
        for what, other in chosen:
            paired = ours.minus(other) if other is not None and other is not ours else None
            if other is not None and paired is not None and other.method.name not in checks:
                ratio = ours.mean("mean_density") / other.mean("mean_density")
                checks[other.method.name] = Check(
                    what=what, other=other, difference=paired[0], seeds=paired[1], density_ratio=ratio
                )
        return list(checks.values())


def _best(scores: Sequence[Score]) -> Score | None:
    return max(scores, key=lambda score: score.accuracy.mean, default=None)


def panels(plan: Plan, tuned: Mapping[tuple[str, str], Tuned], rows: Rows, reference: str) -> list[Panel]:
    """One panel per entry of the suite and sparsity that has any finished run, chosen for this session or not."""
    found = []
    for entry in plan.suite.entries:
        for sparsity in plan.sparsities_of(entry):
            scores = [
                score
                for method in plan.methods
                if (score := _score(plan, entry, method, sparsity, tuned, rows, reference)).rows
            ]
            if scores:
                found.append(Panel(entry=entry, sparsity=sparsity, scores=tuple(scores), reference=reference))
    return found


def _score(
    plan: Plan,
    entry: Entry,
    method: Method,
    sparsity: float,
    tuned: Mapping[tuple[str, str], Tuned],
    rows: Rows,
    reference: str,
) -> Score:
    choices = {pair: choice.settings for pair, choice in tuned.items()}
    settings = plan.settings_of(choices, entry, method)
    if settings is not None and method.longer is not None:
        steps = equal_steps(plan, rows, reference, choices, entry, method, sparsity)
        settings = None if steps is None else {**settings, "steps": steps}
    found: dict[int, Row] = {}
    if settings is not None:
        for seed in range(plan.seeds):
            cell = make_cell(entry, method, sparsity, seed, settings, data_dir=plan.data_dir)
            row = rows.get(cell.key)
            if row is not None:
                found[seed] = row
    return Score(method=method, settings=settings or {}, rows=found)
