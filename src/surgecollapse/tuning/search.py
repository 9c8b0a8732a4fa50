"""A search over the settings of lab runs: trials in worker processes, then the best settings on fresh seeds.

The parent alone touches the study. Every finished run is a line of ``rows.jsonl`` before anything else happens, so that
a repeated trial takes from there what it has, and the same settings are never trained twice.
"""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.exceptions import StorageInternalError
from optuna.study import StudyDirection
from optuna.trial import TrialState

from surgecollapse.compare.display import Display, Quiet
from surgecollapse.compare.plan import identity, key_of, version
from surgecollapse.compare.pool import Done, Pool
from surgecollapse.compare.rows import Rows, only_writer
from surgecollapse.errors import ConfigError
from surgecollapse.lab.config import as_mapping
from surgecollapse.lab.training.interrupt import Interrupt
from surgecollapse.tuning.loop import enqueue, one_line, shuffled_grid
from surgecollapse.tuning.objectives import ROBUST, Objective, values_of_rows
from surgecollapse.tuning.samplers import make_pruner, make_sampler
from surgecollapse.tuning.storage import (
    REASON,
    counted,
    fail,
    give_sign,
    open_storage,
    open_study,
    reached,
    repeat,
    requeue_lost,
    sign,
)
from surgecollapse.tuning.worker import PRUNED, serve

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial

    from surgecollapse.lab.config import RunConfig
    from surgecollapse.tuning.settings import RunSpace

FIRST_SEED = 10_000
"""First seed of the trials; the runs at the end have seeds from 0, which no trial had."""
FINALISTS = 5
"""Points of a Pareto front that are trained again on fresh seeds."""
_NEVER = 10**9
_SIGN_SECONDS = 20.0
_IN_A_ROW = 10
"""Trials that fail on end, from the first on, before the search gives up."""
PLAN = "plan"
"""User attribute of the study: what makes its trials comparable."""
DEFAULT, BEST = "default", "best"


@dataclass(frozen=True, kw_only=True)
class Budget:
    """When no trial is begun any more: whichever comes first."""

    trials: int | None = None
    minutes: float | None = None
    """Of this call."""
    flops: float | None = None
    """Floating-point operations of all trials' training, counted as an engine that skips zeros needs them."""

    def __post_init__(self) -> None:
        for name in ("trials", "minutes", "flops"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"{name} must be above 0, got {value}")


@dataclass(frozen=True)
class Run:
    """One training run of a trial, or of the end."""

    name: str
    config: RunConfig
    trial: int | None
    """Number of its trial; ``None`` for a run on a fresh seed."""
    seed: int
    report: str | None = None
    extra: tuple[str, ...] = ()

    @property
    def message(self) -> dict[str, Any]:
        """What its process is sent."""
        test = self.trial is None
        config = dict(as_mapping(self.config))
        return {"config": config, "report": self.report, "extra": self.extra, "test": test}

    @cached_property
    def key(self) -> str:
        """Equal for runs of the same configuration."""
        return key_of(as_mapping(self.config))


@dataclass
class _UnderWay:
    """A trial and its runs so far."""

    trial: Trial
    values: dict[str, Any]
    rows: list[Mapping[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Finalist:
    """Settings that are trained on fresh seeds, with their rows."""

    name: str
    """``default``, ``best``, or ``trial N``."""
    number: int | None
    params: Mapping[str, Any]
    config: RunConfig
    rows: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a search ended."""

    status: str
    """``complete``, ``interrupted``, or ``waiting``: other processes of the study are still at it."""
    study: Study
    finalists: Sequence[Finalist] = ()
    failures: Mapping[str, str] = field(default_factory=dict)


class Search:
    """A search in a folder; what is finished there is never run again.

    Args:
        space: what is searched.
        objectives: what for.
        out: folder of the study, the rows and the page.
        budget: when no trial is begun any more.
        seeds: runs of each trial, on the same seeds for all.
        fresh: seeds on which the best settings and the untuned ones are trained at the end.
        sampler: by name, see :data:`surgecollapse.tuning.samplers.SAMPLERS`.
        pruner: by name, see :data:`surgecollapse.tuning.samplers.PRUNERS`.
        workers: processes, each with one thread and, where there are as many, a core of its own.
        storage: of the study; by default a journal in ``out``.
        name: of the study.
        seed: of the sampler.

    Raises:
        ConfigError: if these do not go together, or the study there is another one.
    """

    def __init__(
        self,
        space: RunSpace,
        objectives: Sequence[Objective],
        out: Path,
        *,
        budget: Budget,
        seeds: int = 1,
        fresh: int = 5,
        sampler: str = "tpe",
        pruner: str = "none",
        workers: int = 1,
        storage: str | None = None,
        name: str = "tuning",
        seed: int = 0,
        make_pool: Callable[..., Pool[Run]] = Pool,
    ) -> None:
        for what, value in (("seeds", seeds), ("workers", workers)):
            if value < 1:
                raise ConfigError(f"{what} must be at least 1, got {value}")
        if fresh < 0:
            raise ConfigError(f"fresh must be at least 0, got {fresh}")
        if pruner in ("median", "hyperband") and objectives[0].reports is None:
            raise ConfigError(f"pruner {pruner} needs an objective that evaluations report, accuracy or loss: drop it")
        self.space, self.objectives, self.out, self.budget = space, tuple(objectives), out, budget
        self.seeds, self.fresh, self.workers = seeds, fresh, workers
        self._pruner, self._sampler, self._storage, self._name, self._seed = pruner, sampler, storage, name, seed
        self._make_pool = make_pool
        # Checked before the folder is made.
        self._make_sampler(0)
        self._make_pruner()
        self.failures: dict[str, str] = {}
        self._under_way: dict[int, _UnderWay] = {}
        self._ready: list[_UnderWay] = []
        self._began = self._signed = 0.0
        self._spent = 0.0
        self._seconds: list[float] = []

    def _make_sampler(self, done: int) -> Any:
        many = len(self.objectives)
        domains = self.space.distributions
        return make_sampler(
            self._sampler, domains, objectives=many, seed=self._seed + done, parallel=self.workers > 1
        )  # fmt: skip

    def _make_pruner(self) -> Any:
        run = self.space.base.run
        return make_pruner(
            self._pruner,
            objectives=len(self.objectives),
            seeds=self.seeds,
            steps=run.steps,
            every=run.evaluate_every,
        )

    # ---- the study ------------------------------------------------------------------------------------------------

    def _open(self) -> Study:
        where = open_storage(self._storage or self.out / "study.journal")
        directions = [StudyDirection[objective.direction.upper()] for objective in self.objectives]
        study = open_study(where, self._name, directions, self._make_sampler(0), self._make_pruner())
        study.sampler = self._make_sampler(len(study.get_trials(deepcopy=False)))
        plan, there = self.plan(), study.user_attrs.get(PLAN)
        if there is None:
            study.set_user_attr(PLAN, plan)
            study.set_user_attr("objectives", [objective.name for objective in self.objectives])
        elif there != plan:
            changed = ", ".join(key for key in plan if there.get(key) != plan[key])
            raise ConfigError(
                f"the study in {self.out} has other {changed}: choose another --out, or the same settings"
            )
        return study

    def plan(self) -> dict[str, Any]:
        """What makes the trials of a study comparable."""
        return {
            "experiment": identity(as_mapping(self.space.base)),
            "space": {name: _words(domain) for name, domain in self.space.distributions.items()},
            "objectives": [f"{objective.name} {objective.direction}" for objective in self.objectives],
            "seeds": self.seeds,
            "version": version(),
        }

    # ---- running --------------------------------------------------------------------------------------------------

    def run(self, display: Display | None = None) -> Outcome:
        """Search until the budget is spent, then train the best settings on fresh seeds.

        Raises:
            ConfigError: if another search writes to the folder, or trial after trial fails.
            OSError: if the folder cannot be written.
        """
        display = display or Quiet()
        self.out.mkdir(parents=True, exist_ok=True)
        with only_writer(self.out):
            self.rows, self.study = Rows(self.out), self._open()
            self._under_way.clear()
            lost = self._requeue_lost()
            if lost:
                display.note(f"{lost} trials were cut off; their settings are enqueued again")
            if self._sampler == "grid":
                enqueue(self.study, shuffled_grid(self.space.distributions, self._seed))
            else:
                enqueue(self.study, self.space.defaults())
            self._began, self._spent = time.monotonic(), _operations(counted(self.study))
            try:
                interrupted, finalists = self._both_phases(display)
            except StorageInternalError as error:
                raise ConfigError(
                    f"the storage cannot be reached ({one_line(error)[:120]}): start it, and repeat the command; "
                    "finished trials are kept"
                ) from error
            finally:
                display.stop()
        if interrupted:
            return Outcome(status="interrupted", study=self.study, failures=self.failures)
        status = "waiting" if self._others() else "complete"
        return Outcome(status=status, study=self.study, finalists=finalists, failures=self.failures)

    def _both_phases(self, display: Display) -> tuple[bool, list[Finalist]]:
        with Interrupt() as interrupt, self._make_pool(self.workers, None, serve, pin=True) as pool:

            def stop() -> bool:
                return interrupt.requested

            try:
                for done in pool.feed(self._take, stop, lambda: self._look(pool, display), self._hear):
                    self._keep(done, display)
                    self._refuse_hopeless()
            finally:
                if sys.exc_info()[0] is not StorageInternalError:  # nothing could be written
                    self._hand_back()
            if stop() or self._others():
                return stop(), []
            finalists = self._finalists()
            self._train_finalists(finalists, pool, stop, display)
        return interrupt.requested, [] if interrupt.requested else self._finalists()

    def _hand_back(self) -> None:
        """Enqueue again what was under way when the search was stopped."""
        for under_way in self._under_way.values():
            repeat(self.study, self._frozen(under_way.trial))
        self._under_way.clear()

    def _frozen(self, trial: Trial) -> FrozenTrial:
        return self.study.get_trials(deepcopy=False)[trial.number]

    def _requeue_lost(self) -> int:
        # The journal in the folder is locked with it.
        return requeue_lost(self.study, self._under_way, alone=self._storage is None)

    def _others(self) -> bool:
        """Whether other processes are at trials of the study."""
        return bool(self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)))

    def _look(self, pool: Pool[Run], display: Display) -> None:
        """Show where the search is, and give a sign of life."""
        if time.monotonic() - self._signed > _SIGN_SECONDS:
            self._signed = time.monotonic()
            give_sign(self.study)
            self._requeue_lost()
        done, total = len(counted(self.study)), self._total()
        left = None
        if self._seconds and total:
            left = statistics.median(self._seconds) * self.seeds * (total - done) / self.workers
        if self.budget.minutes is not None:
            rest = max(0.0, 60 * self.budget.minutes - (time.monotonic() - self._began))
            left = rest if left is None else min(left, rest)
        display.update(done, total or max(done, 1), left, [run.name for run in pool.running.values()])

    def _total(self) -> int | None:
        if self._sampler != "grid":
            return self.budget.trials
        waiting = len(self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))
        whole = len(counted(self.study)) + len(self._under_way) + waiting
        return whole if self.budget.trials is None else min(whole, self.budget.trials)

    # ---- trials ---------------------------------------------------------------------------------------------------

    def _take(self) -> Run | None:
        """The next run: of a trial that has begun, else of a new one."""
        while True:
            under_way = self._ready.pop() if self._ready else self._ask()
            if under_way is None:
                return None
            run = self._next_run(under_way)
            if run is not None:
                return run

    def _ask(self) -> _UnderWay | None:
        total = self._total()
        spent = self.budget.flops is not None and self._spent >= self.budget.flops
        late = self.budget.minutes is not None and time.monotonic() - self._began >= 60 * self.budget.minutes
        if spent or late or (total is not None and len(counted(self.study)) + len(self._under_way) >= total):
            return None
        trial = self.study.ask()
        sign(trial)
        under_way = _UnderWay(trial, self.space.draw(trial))
        self._under_way[trial.number] = under_way
        return under_way

    def _next_run(self, under_way: _UnderWay) -> Run | None:
        """The next run of a trial that was not made before; ``None`` if the trial has ended by that."""
        trial = under_way.trial
        while trial.number in self._under_way:
            seed = FIRST_SEED + len(under_way.rows)
            try:
                run = self._run_of(under_way.values, seed, trial.number)
            except (ValueError, TypeError) as error:
                self._fail(under_way, str(error))
                return None
            row = self.rows.get(run.key)
            if row is None or any(name not in row for name in run.extra):
                return run
            self._add(under_way, row)
        return None

    def _run_of(self, values: Mapping[str, Any], seed: int, trial: int | None, name: str = "") -> Run:
        base = self.space.base.run
        more: dict[str, Any] = {"seed": seed, "split_seed": base.data_seed, "threads": 1, "checkpoint_every": _NEVER}
        if not any("monitors" in layer for layer in self.space.layers):
            more["monitors"] = "none"
        config = self.space.config(values, **more)
        shown = name or f"trial {trial}" + (f" seed {seed - FIRST_SEED + 1}" if self.seeds > 1 else "")
        # With several seeds, the pruners over steps decide on the first one's curve.
        follows = self._pruner in ("median", "hyperband") and trial is not None and seed == FIRST_SEED
        extra = (ROBUST,) if any(objective.name == ROBUST for objective in self.objectives) else ()
        return Run(shown, config, trial, seed, self.objectives[0].reports if follows else None, extra)

    def _hear(self, run: Run, step: int, value: float) -> bool:
        """A number of an evaluation; whether the pruner gives the trial up."""
        under_way = self._under_way[run.trial] if run.trial is not None else None
        if under_way is None:
            return False
        under_way.trial.report(value, step)
        return under_way.trial.should_prune()

    def _keep(self, done: Done[Run], display: Display) -> None:
        run = done.cell
        assert run.trial is not None
        under_way = self._under_way[run.trial]
        if done.row is not None and PRUNED not in done.row:
            self._write(run, done.row)  # before the storage is asked for anything
        if done.row is None:
            self._fail(under_way, str(done.error))
            display.note(f"failed: {run.name}: {done.error}")
        elif PRUNED in done.row:
            self._spend(under_way, done.row)
            self._prune(under_way, f"stopped by the pruner after step {done.row[PRUNED]}")
        else:
            self._spend(under_way, done.row)
            self._seconds.append(done.row["seconds"])
            before = self._best()
            self._add(under_way, done.row)
            best = self._best()
            if best is not None and best != before:
                display.note(f"best so far: trial {best[0]}, {self.objectives[0].title} {best[1]:.6g}")
        if run.trial in self._under_way:
            self._ready.append(under_way)

    def _write(self, run: Run, row: Mapping[str, Any]) -> None:
        facts = {"key": run.key, "trial": run.trial, "seed": run.seed, "version": version()}
        self.rows.append({**facts, **row, "config": identity(as_mapping(run.config))})

    def _spend(self, under_way: _UnderWay, row: Mapping[str, Any]) -> None:
        self._spent += row["flops"]
        flops = under_way.trial.user_attrs.get("flops", 0.0) + row["flops"]
        under_way.trial.set_user_attr("flops", flops)

    def _add(self, under_way: _UnderWay, row: Mapping[str, Any]) -> None:
        """Take the row of a trial's next seed, and end the trial if it was the last one, or is hopeless."""
        trial, rows = under_way.trial, under_way.rows
        rows.append(row)
        try:
            values = values_of_rows(self.objectives, [row])
            if self._pruner == "wilcoxon":
                trial.report(values[0], len(rows) - 1)
                if len(rows) < self.seeds and trial.should_prune():
                    self._prune(under_way, f"stopped by the pruner after {len(rows)} of {self.seeds} seeds")
                    return
            if len(rows) == self.seeds:
                trial.set_user_attr("values_by_seed", [values_of_rows(self.objectives, [r]) for r in rows])
                self._end(under_way, values_of_rows(self.objectives, rows))
        except ArithmeticError as error:
            # Pruned, not failed: the sampler then knows that it is bad there.
            self._prune(under_way, str(error))

    def _end(self, under_way: _UnderWay, values: Sequence[float]) -> None:
        del self._under_way[under_way.trial.number]
        self.study.tell(under_way.trial, list(values), skip_if_finished=True)

    def _prune(self, under_way: _UnderWay, reason: str) -> None:
        del self._under_way[under_way.trial.number]
        under_way.trial.set_user_attr(REASON, reason)
        self.study.tell(under_way.trial, state=TrialState.PRUNED, skip_if_finished=True)

    def _fail(self, under_way: _UnderWay, reason: str) -> None:
        del self._under_way[under_way.trial.number]
        self.failures[f"trial {under_way.trial.number}"] = reason
        fail(self.study, self._frozen(under_way.trial), reason)

    def _refuse_hopeless(self) -> None:
        ended = counted(self.study)
        if len(ended) >= _IN_A_ROW and all(trial.state is TrialState.FAIL for trial in ended):
            raise ConfigError(f"the first {len(ended)} trials all failed: {ended[-1].user_attrs.get(REASON)}")

    def _best(self) -> tuple[int, float] | None:
        """Number and value of the best trial; ``None`` without one, or with several objectives."""
        if len(self.objectives) > 1:
            return None
        complete = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        turn = 1 if self.objectives[0].direction == "maximize" else -1
        best = max(complete, key=lambda trial: turn * reached(trial, 0), default=None)
        return None if best is None else (best.number, reached(best, 0))

    # ---- the end --------------------------------------------------------------------------------------------------

    def _finalists(self) -> list[Finalist]:
        """The best settings, or points of the front, and the experiment as it is; with the rows that are there."""
        complete = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if not complete or not self.fresh:
            return []
        best = self._best()
        front = [complete_by_number(complete, best[0])] if best else spread(self.study.best_trials, FINALISTS)
        chosen: list[tuple[str, int | None, Mapping[str, Any]]] = [
            (BEST if best else f"trial {trial.number}", trial.number, trial.params) for trial in front
        ]
        found = []
        for name, number, params in [(DEFAULT, None, {}), *chosen]:
            runs = self._fresh_runs(name, params)
            rows = [row for run in runs if (row := self.rows.get(run.key)) is not None]
            config = self.space.config(params)
            found.append(Finalist(name=name, number=number, params=params, config=config, rows=rows))
        return found

    def _fresh_runs(self, name: str, params: Mapping[str, Any]) -> list[Run]:
        return [self._run_of(params, seed, None, f"{name} fresh seed {seed}") for seed in range(self.fresh)]

    def _train_finalists(
        self, finalists: Sequence[Finalist], pool: Pool[Run], stop: Callable[[], bool], display: Display
    ) -> None:
        """Train them seed by seed, so that they are paired at any time."""
        by_name = [self._fresh_runs(finalist.name, finalist.params) for finalist in finalists]
        runs = {run.key: run for seed in zip(*by_name, strict=True) for run in seed}
        missing = [run for run in runs.values() if run.key not in self.rows]
        done = len(runs) - len(missing)

        def look() -> None:
            display.update(done, len(runs), None, [run.name for run in pool.running.values()])

        for ended in pool.run(missing, stop, look):
            done += 1
            if ended.row is None:
                self.failures[ended.cell.name] = str(ended.error)
                display.note(f"failed: {ended.cell.name}: {ended.error}")
            else:
                self._write(ended.cell, ended.row)


def complete_by_number(trials: Sequence[FrozenTrial], number: int) -> FrozenTrial:
    """The trial of a number."""
    return next(trial for trial in trials if trial.number == number)


def spread(trials: Sequence[FrozenTrial], most: int) -> list[FrozenTrial]:
    """At most so many points of a front, evenly by rank along its first objective, both ends among them."""
    front = sorted({tuple(trial.values or ()): trial for trial in trials}.values(), key=lambda trial: reached(trial, 0))
    if len(front) <= most:
        return front
    return [front[round(place * (len(front) - 1) / (most - 1))] for place in range(most)]


def _operations(trials: Sequence[FrozenTrial]) -> float:
    return math.fsum(trial.user_attrs.get("flops", 0.0) for trial in trials)


def _words(domain: Any) -> str:
    return " ".join(str(domain).split())
