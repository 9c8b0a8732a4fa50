"""A search over the settings of lab runs: trials in worker processes, then the best settings on fresh seeds.

The parent alone touches the study. Every finished run is a line of ``rows.jsonl`` before anything else happens. So a
repeated trial takes from there what it has, and the same settings are never trained twice.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.exceptions import StorageInternalError
from optuna.study import StudyDirection
from optuna.trial import TrialState

from surgecollapse.compare.display import Display, OnceEach, Quiet
from surgecollapse.compare.plan import identity, version
from surgecollapse.compare.pool import Done, Pool
from surgecollapse.compare.rows import Rows, only_writer
from surgecollapse.errors import ConfigError, one_line
from surgecollapse.lab.config import as_mapping
from surgecollapse.lab.training.interrupt import Interrupt
from surgecollapse.tuning.finalists import Finalist, best_trial, chosen_settings
from surgecollapse.tuning.loop import enqueue, shuffled_grid
from surgecollapse.tuning.objectives import Objective
from surgecollapse.tuning.runs import Run, RunMaker
from surgecollapse.tuning.samplers import make_pruner, make_sampler
from surgecollapse.tuning.storage import counted_trials, give_sign, open_storage, open_study, reached
from surgecollapse.tuning.trials import Trials
from surgecollapse.tuning.worker import serve

if TYPE_CHECKING:
    from optuna import Study

    from surgecollapse.tuning.settings import RunSpace

_SIGN_SECONDS = 20.0
PLAN = "plan"
"""User attribute of the study: what makes its trials comparable."""


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
        self._make_run = RunMaker(space, self.objectives, pruner=pruner, seeds=seeds)
        self._began = self._signed = 0.0

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
        self._warned = OnceEach(display)
        self.out.mkdir(parents=True, exist_ok=True)
        with only_writer(self.out):
            self.rows, self.study = Rows(self.out), self._open()
            self._trials = Trials(
                self.study,
                self.rows,
                self.space,
                self.objectives,
                self._make_run,
                pruner=self._pruner,
                seeds=self.seeds,
            )
            lost = self._requeue_lost()
            if lost:
                display.note(f"{lost} trials were cut off; their settings are enqueued again")
            if self._sampler == "grid":
                enqueue(self.study, shuffled_grid(self.space.distributions, self._seed))
            else:
                enqueue(self.study, self.space.defaults())
            self._began, self._best = time.monotonic(), best_trial(self.study, self.objectives)
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
            return Outcome(status="interrupted", study=self.study, failures=self._trials.failures)
        status = "waiting" if self._others() else "complete"
        return Outcome(status=status, study=self.study, finalists=finalists, failures=self._trials.failures)

    def _both_phases(self, display: Display) -> tuple[bool, list[Finalist]]:
        with Interrupt() as interrupt, self._make_pool(self.workers, None, serve, pin=True) as pool:

            def stop() -> bool:
                return interrupt.requested

            try:
                for done in pool.feed(self._take, stop, lambda: self._look(pool, display), self._trials.should_stop):
                    self._keep(done, display)
                    self._trials.check_any_works()
            finally:
                if sys.exc_info()[0] is not StorageInternalError:  # nothing could be written
                    self._trials.hand_back()
            if stop() or self._others():
                return stop(), []
            finalists = self._finalists()
            self._train_finalists(finalists, pool, stop, display)
        return interrupt.requested, [] if interrupt.requested else self._finalists()

    def _requeue_lost(self) -> int:
        # The journal in the folder is locked with it.
        return self._trials.requeue_lost(alone=self._storage is None)

    def _others(self) -> bool:
        """Whether other processes are at trials of the study."""
        return bool(self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)))

    def _look(self, pool: Pool[Run], display: Display) -> None:
        """Show where the search is, and give a sign of life."""
        if time.monotonic() - self._signed > _SIGN_SECONDS:
            self._signed = time.monotonic()
            give_sign(self.study)
            self._requeue_lost()
        done, total = len(counted_trials(self.study)), self._total()
        left = None
        if self._trials.seconds and total:
            left = statistics.median(self._trials.seconds) * self.seeds * (total - done) / self.workers
        if self.budget.minutes is not None:
            rest = max(0.0, 60 * self.budget.minutes - (time.monotonic() - self._began))
            left = rest if left is None else min(left, rest)
        display.update(done, total or max(done, 1), left, [run.name for run in pool.running.values()])

    def _total(self) -> int | None:
        if self._sampler != "grid":
            return self.budget.trials
        waiting = len(self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))
        whole = len(self._trials) + waiting
        return whole if self.budget.trials is None else min(whole, self.budget.trials)

    # ---- trials ---------------------------------------------------------------------------------------------------

    def _take(self) -> Run | None:
        """The next run: of a trial that has begun, else of a new one."""
        while True:
            under_way = self._trials.resumed()
            if under_way is None:
                if self._over:
                    return None
                under_way = self._trials.begin()
            run = self._trials.next_run(under_way)
            if run is not None:
                return run

    @property
    def _over(self) -> bool:
        """Whether no trial is begun any more."""
        total = self._total()
        spent = self.budget.flops is not None and self._trials.spent >= self.budget.flops
        late = self.budget.minutes is not None and time.monotonic() - self._began >= 60 * self.budget.minutes
        return spent or late or (total is not None and len(self._trials) >= total)

    def _keep(self, done: Done[Run], display: Display) -> None:
        self._warned.note(done.warned)
        self._trials.take(done)  # writes the row before the storage, which may be gone, is asked for anything
        if done.row is None:
            display.note(f"failed: {done.cell.name}: {done.error}")
        before, self._best = self._best, best_trial(self.study, self.objectives)
        best = self._best
        if best is not None and (before is None or best.number != before.number):
            display.note(f"best so far: trial {best.number}, {self.objectives[0].title} {reached(best):.6g}")

    # ---- the end --------------------------------------------------------------------------------------------------

    def _finalists(self) -> list[Finalist]:
        """The best settings and the experiment as it is, with the rows that are there."""
        found = []
        for name, number, params in chosen_settings(self.study, self.objectives) if self.fresh else ():
            runs = self._make_run.fresh(name, params, self.fresh)
            rows = [row for run in runs if (row := self.rows.get(run.key)) is not None]
            config = self.space.config(params)
            found.append(Finalist(name=name, number=number, params=params, config=config, rows=rows))
        return found

    def _train_finalists(
        self, finalists: Sequence[Finalist], pool: Pool[Run], stop: Callable[[], bool], display: Display
    ) -> None:
        """Train them seed by seed, so that they are paired at any time."""
        by_name = [self._make_run.fresh(finalist.name, finalist.params, self.fresh) for finalist in finalists]
        runs = {run.key: run for seed in zip(*by_name, strict=True) for run in seed}
        missing = [run for run in runs.values() if run.key not in self.rows]
        done = len(runs) - len(missing)

        def look() -> None:
            display.update(done, len(runs), None, [run.name for run in pool.running.values()])

        for ended in pool.run(missing, stop, look):
            done += 1
            self._warned.note(ended.warned)
            if ended.row is None:
                self._trials.failures[ended.cell.name] = str(ended.error)
                display.note(f"failed: {ended.cell.name}: {ended.error}")
            else:
                self.rows.append(ended.cell.row(ended.row))


def _words(domain: Any) -> str:
    return " ".join(str(domain).split())
