"""One study in a folder: what is missing is run in processes, and the page is written from the rows."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
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
    """What one run measured, with its seconds."""
    import torch

    torch.set_num_threads(1)
    began = time.perf_counter()
    found = dict(registered()[name].measure(config))
    return {**found, "seconds": round(time.perf_counter() - began, 2)}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a session ended."""

    status: str
    """``complete``, ``failed`` (some runs did) or ``interrupted``."""
    done: int
    total: int
    page: Path
    failures: dict[str, str] = field(default_factory=dict)


def run_study(
    study: Study, out: Path, *, quick: bool = False, jobs: int = 1, command: str = "", display: Display | None = None
) -> Outcome:
    """Run what is missing of a study, and write its page; interrupted, it keeps what is finished.

    Args:
        study: which one.
        out: folder of ``rows.jsonl``, ``page.md`` and ``plot.svg``.
        quick: the small form, for tests; give it a folder of its own.
        jobs: processes of one thread each; 0: this one.
        command: the command line, for the page.
        display: shows progress.

    Raises:
        OSError: if the folder cannot be written.
        ConfigError: if another process is writing there.
    """
    display = display or Quiet()
    out.mkdir(parents=True, exist_ok=True)
    runs = [StudyRun(study.name, config) for config in study.runs(quick)]
    failures: dict[str, str] = {}
    with only_writer(out):
        rows = rows_of(out)
        interrupted = _run_missing(runs, rows, failures, jobs, display)
        page = write_page(study, out, [row for run in runs if (row := rows.get(run.key))], len(runs), command)
    status = "interrupted" if interrupted else "failed" if failures else "complete"
    done = sum(run.key in rows for run in runs)
    return Outcome(status=status, done=done, total=len(runs), page=page, failures=failures)


def _run_missing(runs: Sequence[StudyRun], rows: Rows, failures: dict[str, str], jobs: int, display: Display) -> bool:
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

            for done in pool.run(list(missing.values()), lambda: interrupt.requested, look):
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

    def run(
        self, runs: Sequence[StudyRun], stop: Callable[[], bool], look: Callable[[], None]
    ) -> Iterator[Done[StudyRun]]:
        for run in runs:
            if stop():
                return
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


def remaining_seconds(missing: Sequence[StudyRun], rows: Iterable[Row], jobs: int) -> float | None:
    """Estimate from the runs that are there: of the same method, else of all."""
    same: dict[Any, list[float]] = {}
    for row in rows:
        same.setdefault(row["config"].get("method"), []).append(row["seconds"])
    every = [seconds for times in same.values() for seconds in times]
    if not every:
        return None
    return sum(statistics.median(same.get(run.config.get("method"), every)) for run in missing) / jobs


def write_page(study: Study, out: Path, rows: Sequence[Row], total: int, command: str = "") -> Path:
    """Write ``page.md`` and ``plot.svg`` from rows; returns the path of the page."""
    page = out / "page.md"
    image = draw(study, rows, out / "plot.svg")
    write_whole(page, markdown(study, rows, total, image="plot.svg" if image else "", command=command))
    return page
