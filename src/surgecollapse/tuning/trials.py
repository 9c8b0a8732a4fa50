"""The trials of a search that are under way, each with its runs so far."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from optuna.trial import TrialState

from surgecollapse.errors import ConfigError
from surgecollapse.tuning.objectives import Objective, values_of_rows
from surgecollapse.tuning.storage import REASON, counted_trials, fail, repeat, requeue_lost, sign
from surgecollapse.tuning.worker import PRUNED

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial

    from surgecollapse.compare.pool import Done
    from surgecollapse.compare.rows import Rows
    from surgecollapse.tuning.runs import Run, RunMaker
    from surgecollapse.tuning.settings import RunSpace

_IN_A_ROW = 10
"""Trials that fail on end, from the first on, before the search gives up."""


@dataclass
class UnderWay:
    """A trial and the rows of its runs so far."""

    trial: Trial
    values: dict[str, Any]
    rows: list[Mapping[str, Any]] = field(default_factory=list)


class Trials:
    """Begins trials, hands out their runs, takes their rows, and ends them.

    Args:
        study: which holds the trials.
        rows: of all finished runs, so that none is made twice.
        space: the settings are drawn from.
        objectives: what for.
        make: makes runs.
        pruner: by name.
        seeds: runs of each trial.

    Attributes:
        spent: floating-point operations of all trials' training.
        seconds: how long each run took.
        failures: why trials failed, by their names.
    """

    def __init__(
        self,
        study: Study,
        rows: Rows,
        space: RunSpace,
        objectives: Sequence[Objective],
        make: RunMaker,
        *,
        pruner: str,
        seeds: int,
    ) -> None:
        self._study, self._rows, self._space, self._objectives = study, rows, space, objectives
        self._make, self._pruner, self._seeds = make, pruner, seeds
        self._under_way: dict[int, UnderWay] = {}
        self._ready: list[UnderWay] = []
        self.spent = math.fsum(trial.user_attrs.get("flops", 0.0) for trial in counted_trials(study))
        self.seconds: list[float] = []
        self.failures: dict[str, str] = {}

    def __len__(self) -> int:
        """Trials that count or are under way."""
        return len(counted_trials(self._study)) + len(self._under_way)

    def begin(self) -> UnderWay:
        """Begin a new trial."""
        trial = self._study.ask()
        sign(trial)
        under_way = UnderWay(trial, self._space.draw(trial))
        self._under_way[trial.number] = under_way
        return under_way

    def resumed(self) -> UnderWay | None:
        """A trial that has begun and waits for its next run."""
        return self._ready.pop() if self._ready else None

    def next_run(self, under_way: UnderWay) -> Run | None:
        """The next run of a trial that was not made before; ``None`` if the trial has ended by that."""
        trial = under_way.trial
        while trial.number in self._under_way:
            try:
                run = self._make.of_trial(under_way.values, trial.number, len(under_way.rows))
            except (ValueError, TypeError) as error:
                self._fail(under_way, str(error))
                return None
            row = self._rows.get(run.key)
            if row is None or any(name not in row for name in run.extra):
                return run
            self._add(under_way, row)
        return None

    def should_stop(self, run: Run, step: int, value: float) -> bool:
        """Take a number of an evaluation; whether the pruner gives the trial up."""
        under_way = self._under_way[run.trial] if run.trial is not None else None
        if under_way is None:
            return False
        under_way.trial.report(value, step)
        return under_way.trial.should_prune()

    def take(self, done: Done[Run]) -> None:
        """Take the end of a run, which may end its trial."""
        run = done.cell
        assert run.trial is not None
        under_way = self._under_way[run.trial]
        if done.row is not None and PRUNED not in done.row:
            self._rows.append(run.row(done.row))  # before the storage is asked for anything
        if done.row is None:
            self._fail(under_way, str(done.error))
        elif PRUNED in done.row:
            self._spend(under_way, done.row)
            self._prune(under_way, f"stopped by the pruner after step {done.row[PRUNED]}")
        else:
            self._spend(under_way, done.row)
            self.seconds.append(done.row["seconds"])
            self._add(under_way, done.row)
        if run.trial in self._under_way:
            self._ready.append(under_way)

    def hand_back(self) -> None:
        """Enqueue again what was under way when the search was stopped."""
        for under_way in self._under_way.values():
            repeat(self._study, self._frozen(under_way.trial))
        self._under_way.clear()

    def requeue_lost(self, *, alone: bool) -> int:
        """Enqueue again what other processes began and left; returns the number.

        Args:
            alone: no other process can be at the study.
        """
        return requeue_lost(self._study, self._under_way, alone=alone)

    def check_any_works(self) -> None:
        """Give up a search whose trials all fail.

        Raises:
            ConfigError: with what the last one said.
        """
        ended = counted_trials(self._study)
        if len(ended) >= _IN_A_ROW and all(trial.state is TrialState.FAIL for trial in ended):
            raise ConfigError(f"the first {len(ended)} trials all failed: {ended[-1].user_attrs.get(REASON)}")

    def _frozen(self, trial: Trial) -> FrozenTrial:
        return self._study.get_trials(deepcopy=False)[trial.number]

    def _spend(self, under_way: UnderWay, row: Mapping[str, Any]) -> None:
        self.spent += row["flops"]
        flops = under_way.trial.user_attrs.get("flops", 0.0) + row["flops"]
        under_way.trial.set_user_attr("flops", flops)

    def _add(self, under_way: UnderWay, row: Mapping[str, Any]) -> None:
        """Take the row of a trial's next seed, and end the trial if it was the last one, or the pruner gives it up."""
        trial, rows = under_way.trial, under_way.rows
        rows.append(row)
        try:
            values = values_of_rows(self._objectives, [row])
            if self._pruner == "wilcoxon":
                trial.report(values[0], len(rows) - 1)
                if len(rows) < self._seeds and trial.should_prune():
                    self._prune(under_way, f"stopped by the pruner after {len(rows)} of {self._seeds} seeds")
                    return
            if len(rows) == self._seeds:
                trial.set_user_attr("values_by_seed", [values_of_rows(self._objectives, [r]) for r in rows])
                self._end(under_way, values_of_rows(self._objectives, rows))
        except ArithmeticError as error:
            # Pruned, not failed: the sampler then knows that it is bad there.
            self._prune(under_way, str(error))

    def _end(self, under_way: UnderWay, values: Sequence[float]) -> None:
        del self._under_way[under_way.trial.number]
        self._study.tell(under_way.trial, list(values), skip_if_finished=True)

    def _prune(self, under_way: UnderWay, reason: str) -> None:
        del self._under_way[under_way.trial.number]
        under_way.trial.set_user_attr(REASON, reason)
        self._study.tell(under_way.trial, state=TrialState.PRUNED, skip_if_finished=True)

    def _fail(self, under_way: UnderWay, reason: str) -> None:
        del self._under_way[under_way.trial.number]
        self.failures[f"trial {under_way.trial.number}"] = reason
        fail(self._study, self._frozen(under_way.trial), reason)
