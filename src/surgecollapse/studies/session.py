"""One study in a folder: what is missing is run in processes, and the page is written from the rows."""

from __future__ import annotations

import statistics
import time
from collections import Counter, deque
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from json import dumps
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from surgecollapse.compare.display import Display, OnceEach, Quiet
from surgecollapse.compare.plan import version
from surgecollapse.compare.pool import Done, Pool
from surgecollapse.compare.rows import Row, Rows, only_writer
from surgecollapse.compare.worker import FAILURES, serve_with
from surgecollapse.errors import one_line
from surgecollapse.lab.training.interrupt import Interrupt
from surgecollapse.record.machine import machine
from surgecollapse.record.whole_files import write_whole
from surgecollapse.studies.page import draw, markdown
from surgecollapse.studies.registry import Settings, Study, registered


def key_of(study: str, config: Settings) -> str:
    """A hash of a study's name and of the settings; rows of another version are kept apart by :class:`Rows`.

    >>> key_of("a", {"x": 1, "y": 2}) == key_of("a", {"y": 2, "x": 1}) != key_of("b", {"x": 1, "y": 2})
    True
    """
    return sha256(dumps([study, config], sort_keys=True).encode()).hexdigest()[:16]


def _key_of_row(row: Row) -> str | None:
    return None if "error" in row else key_of(row["study"], row["config"])


def rows_of(folder: Path) -> Rows:
    """The finished runs of a study's folder, by key."""
    return Rows(folder, _key_of_row)


@dataclass(frozen=True)
class StudyRun:
    """One run of a study, as a process is sent it."""

    study: str
    config: Settings

    @property
    def message(self) -> dict[str, Any]:
        """What the process is sent."""
        return {"study": self.study, "config": dict(self.config)}

    @property
    def key(self) -> str:
        """Equal for equal runs."""
        return key_of(self.study, self.config)

    @property
    def name(self) -> str:
        """For progress: the settings in short.

        >>> StudyRun("plasticity", {"method": "plain", "seed": 3}).name
        'plain 3'
        """
        return " ".join(str(value) for value in self.config.values() if isinstance(value, str | int | float))


def serve(connection: Connection, scratch: str, core: int | None = None) -> None:  # noqa: ARG001
    """Measure the runs that come, as a process of the pool."""
    serve_with(lambda message: measure_run(message["study"], message["config"]), connection, core)


def measure_run(name: str, config: Settings) -> dict[str, Any]:
    """What one run measured, with its seconds by the clock and of the processor."""
    import torch

    torch.set_num_threads(1)
    began, used = time.perf_counter(), time.process_time()
    found = dict(registered()[name].measure(config))
    took, worked = time.perf_counter() - began, time.process_time() - used
    return {**found, "seconds": round(took, 2), "processor_seconds": round(worked, 2)}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a session ended."""

    status: str
    """``complete``, ``failed`` (some runs did), ``interrupted``, or ``stopped`` (its time was up)."""
    done: int
    total: int
    page: Path
    failures: dict[str, str] = field(default_factory=dict)


def run_study(
    study: Study,
    out: Path,
    *,
    quick: bool = False,
    jobs: int = 1,
    command: str = "",
    display: Display | None = None,
    until: float | None = None,
    full: bool = False,
) -> Outcome:
    """Run what is missing of a study, and write its page; interrupted, it keeps what is finished.

    Args:
        study: which one.
        out: folder of ``rows.jsonl``, ``page.md`` and ``plot.svg``.
        quick: the small form, for tests; give it a folder of its own.
        jobs: processes of one thread each; 0: this one.
        command: the command line, for the page.
        display: shows progress.
        until: value of ``time.monotonic()`` from which on no run is begun; those under way are finished.
        full: with the runs that no conclusion rests on.

    Raises:
        OSError: if the folder cannot be written.
        ConfigError: if another process is writing there.
    """
    display = display or Quiet()
    out.mkdir(parents=True, exist_ok=True)
    offered = [StudyRun(study.name, config) for config in study.listed(quick=quick, full=full)]
    failures: dict[str, str] = {}
    with only_writer(out):
        rows = rows_of(out)
        interrupted = _run_missing(offered, rows, failures, jobs, display, until)
        runs = runs_of(study, rows, quick=quick, full=full)
        if not interrupted and all(run.key in rows for run in offered):
            offered = runs
            interrupted = _run_missing(offered, rows, failures, jobs, display, until)
        page = write_page(study, out, [row for run in runs if (row := rows.get(run.key))], len(runs), command)
    done = sum(run.key in rows for run in runs)
    tried = sum(run.key in rows for run in offered) + len(failures) == len(offered)
    status = "interrupted" if interrupted else "stopped" if not tried else "failed" if failures else "complete"
    return Outcome(status=status, done=done, total=len(runs), page=page, failures=failures)


def runs_of(study: Study, rows: Rows, *, quick: bool = False, full: bool = False) -> list[StudyRun]:
    """All runs of a study, with those that follow from finished rows (:attr:`Study.then`), of any version."""
    first = [StudyRun(study.name, config) for config in study.listed(quick=quick, full=full)]
    finished = [row for run in first if (row := rows.get(run.key) or rows.earlier(run.key))]
    return [StudyRun(study.name, config) for config in study.listed(quick=quick, full=full, rows=finished)]


def _run_missing(
    runs: Sequence[StudyRun],
    rows: Rows,
    failures: dict[str, str],
    jobs: int,
    display: Display,
    until: float | None,
) -> bool:
    missing = {run.key: run for run in runs if run.key not in rows}
    if not missing:
        return False
    warned = OnceEach(display)
    try:
        with Interrupt() as interrupt, Pool[StudyRun](jobs, None, serve) if jobs else _Here() as pool:

            def look() -> None:
                left = remaining_seconds(list(missing.values()), rows, max(1, jobs))
                running = [run.name for run in pool.running.values()]
                display.update(len(runs) - len(missing), len(runs), left, running)

            waiting = deque(missing.values())

            def take() -> StudyRun | None:
                late = until is not None and time.monotonic() >= until
                return waiting.popleft() if waiting and not late else None

            for done in pool.feed(take, lambda: interrupt.requested, look):
                del missing[done.cell.key]
                warned.note(done.warned)
                _keep(done, rows, failures, display)
    finally:
        display.stop()
    return interrupt.requested


class _Here:
    """Does what the pool does, in this process."""

    def __init__(self) -> None:
        self.running: dict[int | None, StudyRun] = {}

    def __enter__(self) -> _Here:
        return self

    def __exit__(self, *_: object) -> None:
        self.running.clear()

    def feed(
        self, take: Callable[[], StudyRun | None], stop: Callable[[], bool], look: Callable[[], None]
    ) -> Iterator[Done[StudyRun]]:
        while not stop() and (run := take()) is not None:
            self.running = {None: run}
            look()
            try:
                row, error = measure_run(run.study, run.config), None
            except FAILURES as failure:
                row, error = None, one_line(failure)
            yield Done(run, row, error)


def _keep(done: Done[StudyRun], rows: Rows, failures: dict[str, str], display: Display) -> None:
    run = done.cell
    facts = {"study": run.study, "config": dict(run.config)}
    if done.row is None:
        failures[run.name] = str(done.error)
        display.note(f"failed: {run.name}: {done.error}")
        rows.append({**facts, "error": done.error})
    else:
        rows.append({**facts, "version": version(), **done.row, "machine": machine()})


def remaining_seconds(
    missing: Sequence[StudyRun],
    rows: Iterable[Row],
    jobs: int,
    *,
    of_processor: bool = False,
) -> float | None:
    """Estimate from the runs that are there: the median of the most alike (:func:`_likeness`), ``None`` without any.

    Of the processor, where any run that is alike, or of the method, was measured so: a clock also counts what other
    programs used. Where runs have steps, time goes with their number.
    """
    known: dict[object, list[Row]] = {}
    for row in rows:
        for kind in _likeness(row["config"]):
            known.setdefault(kind, []).append(row)
    if not known:
        return None
    measured = {
        kind
        for kind, found in known.items()
        if of_processor and kind != "study" and any("processor_seconds" in row for row in found)
    }
    kinds = Counter((_nearest(run.config, measured, known), _steps(run.config)) for run in missing)
    return (
        sum(
            count * statistics.median(_seconds(known[kind], of_processor, steps))
            for (kind, steps), count in kinds.items()
        )
        / jobs
    )


def _nearest(config: Settings, *known: Container[object]) -> object:
    """The most alike that is known, of the first that has any."""
    return next(kind for these in known for kind in _likeness(config) if kind in these)


def _seconds(rows: Sequence[Row], of_processor: bool, steps: int | None) -> list[float]:
    """What runs like these take, if they had so many steps."""
    measured = [row for row in rows if of_processor and "processor_seconds" in row]
    found = []
    for row in measured or rows:
        theirs = _steps(row["config"])
        scale = steps / theirs if steps and theirs else 1.0
        found.append(scale * float(row["processor_seconds"] if measured else row["seconds"]))
    return found


def _steps(config: Settings) -> int | None:
    """Steps of a run, or batches of all its tasks; ``None`` where its settings do not tell."""
    steps: int | None = config.get("steps") or config.get("tasks", 0) * config.get("batches", 0) or None
    return steps


def _likeness(config: Settings) -> list[object]:
    """What runs can have in common, the most alike first.

    All but the seed, all but seed and method, all names, the method, the study.
    """
    shared = {name: value for name, value in config.items() if name != "seed"}
    sized = {name: value for name, value in shared.items() if name != "method"}
    named = {name: value for name, value in shared.items() if isinstance(value, str)}
    same = [dumps([kind, found], sort_keys=True) for kind, found in enumerate((shared, sized, named))]
    return [*same, ("method", config.get("method")), "study"]


@dataclass(frozen=True, kw_only=True)
class Left:
    """How far a study is."""

    total: int
    done: int
    minutes: float | None
    """Of one core, for the runs that are left, from the seconds of those that are done; ``None`` without any."""


def left_of(study: Study, folder: Path, *, quick: bool = False, full: bool = False) -> Left:
    """How many runs of a study a folder has, and what the others take."""
    rows = rows_of(folder)
    runs = runs_of(study, rows, quick=quick, full=full)
    missing = [run for run in runs if run.key not in rows]
    seconds = remaining_seconds(missing, rows, 1, of_processor=True) if missing else 0.0
    return Left(total=len(runs), done=len(runs) - len(missing), minutes=None if seconds is None else seconds / 60)


def write_page(study: Study, out: Path, rows: Sequence[Row], total: int, command: str = "") -> Path:
    """Write ``page.md`` and ``plot.svg`` from rows; returns the path of the page."""
    page = out / "page.md"
    image = draw(study, rows, out / "plot.svg")
    write_whole(page, markdown(study, rows, total, image="plot.svg" if image else "", command=command))
    return page
