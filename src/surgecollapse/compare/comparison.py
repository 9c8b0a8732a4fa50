"""The whole comparison: tune, train what is missing, write what is there."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgecollapse.compare.display import Display, OnceEach, Quiet
from surgecollapse.compare.equal_flops import equal_steps
from surgecollapse.compare.plan import Cell, Plan, identity, unique
from surgecollapse.compare.pool import Pool
from surgecollapse.compare.results import Panel, Tuned, choose_trial, panels
from surgecollapse.compare.rows import Rows, only_writer
from surgecollapse.compare.session import describe_session
from surgecollapse.compare.table import as_csv, markdown
from surgecollapse.lab.config import ConfigError, as_mapping
from surgecollapse.lab.training.interrupt import Interrupt
from surgecollapse.record.machine import cores, machine
from surgecollapse.record.whole_files import write_whole

if TYPE_CHECKING:
    from surgecollapse.compare.cluster import ClusterPool
    from surgecollapse.compare.methods import Method
    from surgecollapse.compare.pool import Done
    from surgecollapse.compare.suites import Entry

    AnyPool = Pool[Cell] | ClusterPool[Cell]

REFERENCE = "cyclic_pruning"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a comparison ended."""

    status: str
    """``complete``, ``failed`` (some runs did) or ``interrupted``."""
    done: int
    total: int
    failures: Mapping[str, str] = field(default_factory=dict)
    """Error in one line, by the name of the run."""
    panels: Sequence[Panel] = ()


class Comparison:
    """A comparison in a folder; what is finished there is never run again.

    Args:
        plan: what is compared.
        out: folder of ``rows.jsonl``, tables, plots and configuration.
        work: folder for temporary run directories; the system's by default.
        jobs: processes; by default one for each core that may be used.
        reference: name of the method that others are compared with; by default ``surge-collapse`` if it is among them,
            else the first.
        command: the command line, for the record.
        make_pool: what trains the cells, from the number of jobs and the folder for temporary files.

    Raises:
        ConfigError: if the plan cannot be run.
    """

    def __init__(
        self,
        plan: Plan,
        out: Path,
        *,
        work: Path | None = None,
        jobs: int | None = None,
        reference: str | None = None,
        command: str = "",
        make_pool: Callable[[int, Path | None], AnyPool] = Pool,
    ) -> None:
        names = [method.name for method in plan.methods]
        if not names:
            raise ConfigError("no method given: name at least one")
        if reference is not None and reference not in names:
            raise ConfigError(f"reference {reference!r} is not among the methods: {', '.join(names)}")
        for method in plan.methods:
            if method.longer is not None and (method.longer not in names or method.name == reference):
                raise ConfigError(f"{method.name} trains {method.longer} for longer: name both, and another reference")
        if plan.seeds < 1 or (jobs is not None and jobs < 1):
            raise ConfigError(f"seeds and jobs must be at least 1, got {plan.seeds} and {jobs}")
        self.plan, self.out, self._work, self._command, self._make_pool = plan, out, work, command, make_pool
        self.reference = reference or (REFERENCE if REFERENCE in names else names[0])
        self.jobs = jobs or cores()
        self.rows = Rows(out)
        self.tuned: dict[tuple[str, str], Tuned] = {}
        self.failures: dict[str, str] = {}
        self.drawn = False
        """Whether plots could be drawn, for which matplotlib is needed."""
        # Every cell's configuration is made and checked here, before anything is trained.
        self._tuning = list(plan.trials())
        self._trials = unique(cell for entry, _, cells in self._tuning if entry in plan.chosen for cell in cells)
        self._choose()
        plan.final({}, guess=True)

    # ---- counting ---------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        counts, names = self.counts(), ", ".join(method.name for method in self.plan.methods)
        done = counts["final"] - counts["final_missing"]
        return f"<Comparison in {self.out}: {names}; {done} of {counts['final']} runs done>"

    def counts(self) -> dict[str, int]:
        """Number of tuning and of final runs, and how many of them are missing."""
        final = self._final()
        return {
            "tuning": len(self._trials),
            "tuning_missing": sum(cell.key not in self.rows for cell in self._trials),
            "final": len(final),
            "final_missing": sum(cell.key not in self.rows for cell in final),
        }

    def _final(self) -> list[Cell]:
        """The reported runs, as far as can be told now."""
        return self.plan.final(self._choices(), length=self._length, guess=True)

    def _length(self, entry: Entry, method: Method, sparsity: float) -> int | None:
        """Steps of a method that trains for as long as costs the FLOPs of the reference."""
        return equal_steps(self.plan, self.rows, self.reference, self._choices(), entry, method, sparsity)

    def remaining_seconds(self, cells: Sequence[Cell]) -> float | None:
        """Estimate from the runs that are there, of the same entry and method or else of the same entry."""
        same: dict[tuple[str, str], list[float]] = {}
        entry: dict[str, list[float]] = {}
        for row in self.rows:
            same.setdefault((row["entry"], row["method"]), []).append(row["wall"])
            entry.setdefault(row["entry"], []).append(row["wall"])
        total = 0.0
        for cell in cells:
            times = same.get((cell.entry, cell.method)) or entry.get(cell.entry)
            if not times:
                return None
            # The median: a process's first run also loads torch, and other work on the machine comes and goes.
            total += statistics.median(times)
        return total / self.jobs

    def estimate(self) -> float | None:
        """Seconds that :meth:`run` will take, if any run is there to tell from."""
        return self.remaining_seconds([cell for cell in [*self._trials, *self._final()] if cell.key not in self.rows])

    # ---- running ----------------------------------------------------------------------------------------------

    def run(self, display: Display | None = None) -> Outcome:
        """Run what is missing; interrupted by Ctrl-C or SIGTERM it keeps what is finished.

        Raises:
            OSError: if the folder cannot be written.
            ConfigError: if another process is writing there.
        """
        display = display or Quiet()
        self._warned = OnceEach(display)
        self.out.mkdir(parents=True, exist_ok=True)
        with only_writer(self.out):
            self._record_session()
            try:
                interrupted = self._run(display)
            finally:
                display.stop()
            if not interrupted:
                self._report_untuned()
            found, cells = self.write(), unique([*self._trials, *self._final()])
        return Outcome(
            status="interrupted" if interrupted else "failed" if self.failures else "complete",
            done=sum(cell.key in self.rows for cell in cells),
            total=len(cells),
            failures=dict(self.failures),
            panels=found,
        )

    def _run(self, display: Display) -> bool:
        """Tune, then train; return whether that was interrupted."""
        with Interrupt() as interrupt, self._make_pool(self.jobs, self._work) as pool:

            def stop() -> bool:
                return interrupt.requested

            self._train(self._trials, self._final(), pool, stop, display)
            self._choose()
            self._train(self.plan.final(self._choices(), length=self._length), [], pool, stop, display)
            if any(method.longer for method in self.plan.methods):  # their lengths are known now
                self._train(self.plan.final(self._choices(), length=self._length), [], pool, stop, display)
        return interrupt.requested

    def _train(
        self, cells: Sequence[Cell], later: Sequence[Cell], pool: AnyPool, stop: Callable[[], bool], display: Display
    ) -> None:
        """Train what is missing of ``cells``; ``later`` come after them, for the estimate of time."""
        missing = {cell.key: cell for cell in cells if cell.key not in self.rows}
        ahead = [cell for cell in later if cell.key not in self.rows]
        total = len(unique([*self._trials, *cells, *later]))
        began: dict[str, float] = {}

        def look() -> None:
            running = list(pool.running.values())
            for cell in running:
                began.setdefault(cell.key, time.monotonic())
            left = self.remaining_seconds([*missing.values(), *ahead])
            display.update(total - len(missing) - len(ahead), total, left, [cell.name for cell in running])

        for done in pool.run(list(missing.values()), stop, look):
            del missing[done.cell.key]
            self._keep(done, time.monotonic() - began.get(done.cell.key, time.monotonic()), display)
            if done.cell.trial is None and not any(cell.seed == done.cell.seed for cell in missing.values()):
                self.write()

    def _keep(self, done: Done[Cell], wall: float, display: Display) -> None:
        cell = done.cell
        self._warned.note(done.warned)
        if done.row is None:
            self.failures[cell.name] = str(done.error)
            display.note(f"failed: {cell.name}: {done.error}")
            self.rows.append({**cell.facts, "error": done.error})
            return
        config = identity(as_mapping(cell.config))
        self.rows.append({**cell.facts, **done.row, "wall": round(wall, 3), "config": config})

    def _choose(self) -> None:
        """Choose settings for every method all of whose trials have ended."""
        for entry, method, cells in self._tuning:
            ended = all(cell.key in self.rows or cell.name in self.failures for cell in cells)
            tuned = choose_trial(method, cells, self.rows) if ended else None
            if tuned is not None:
                self.tuned[entry.label, method.name] = tuned

    def _choices(self) -> dict[tuple[str, str], Mapping[str, Any]]:
        return {pair: tuned.settings for pair, tuned in self.tuned.items()}

    def _report_untuned(self) -> None:
        """Name the methods none of whose trials succeeded."""
        for entry, method, cells in self._tuning:
            if all(cell.name in self.failures for cell in cells):
                self.failures[f"{entry.label} {method.name}"] = "not one of its trials could be trained"

    # ---- writing ----------------------------------------------------------------------------------------------

    def write(self) -> list[Panel]:
        """Write tables, plots and the tuned settings from the rows that are there.

        Returns:
            What was written.
        """
        found = panels(self.plan, self.tuned, self.rows, self.reference)
        if self.plan.budget != "none":
            record: dict[str, dict[str, Any]] = {}
            for (entry, method), tuned in self.tuned.items():
                record.setdefault(entry, {})[method] = tuned.record
            write_whole(self.out / "tuned.json", json.dumps(record, indent=1) + "\n")
        title = f"Comparison: {self.plan.suite.name}"
        write_whole(self.out / "table.md", markdown(found, title, self._facts()))
        write_whole(self.out / "table.csv", as_csv(found))
        self._plot(found)
        return found

    def _plot(self, found: Sequence[Panel]) -> None:
        try:
            from surgecollapse.compare.plots import write_plots
        except ModuleNotFoundError as error:
            if error.name != "matplotlib":
                raise
            return
        write_plots(found, self.out)
        self.drawn = True

    def _facts(self) -> list[str]:
        if self.plan.budget == "none":
            budget = "This comparison tuned nothing: each method has the settings that it was given."
        else:
            trials = sorted({len(method.trials) for method in self.plan.methods if method.trials})
            at = " or ".join(f"{share:.4g}" for share in sorted({self.plan.tuned_at(e) for e in self.plan.chosen}))
            budget = (
                f"Each method is tuned over {' or '.join(map(str, trials))} trials on the validation set with one seed "
                f"that is not reported, at a sparsity of {at}; the choice holds for all."
            )
        facts = machine()
        versions = f"surgecollapse {facts['surgecollapse']}, torch {facts['torch']}, python {facts['python']}"
        return [f"`{self._command}`"] * bool(self._command) + [f"{versions}. {budget}"]

    def _record_session(self) -> None:
        """Write how this comparison is run; what earlier sessions wrote of themselves stays."""
        path = self.out / "config.json"
        content = describe_session(path, self.plan, reference=self.reference, command=self._command, jobs=self.jobs)
        write_whole(path, json.dumps(content, indent=1) + "\n")
