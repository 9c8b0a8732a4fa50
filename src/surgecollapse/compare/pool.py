"""Worker processes: each with one thread, each replaceable when it dies."""

from __future__ import annotations

import multiprocessing
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from surgecollapse.compare.worker import serve
from surgecollapse.record.machine import usable_cores

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

_LOOK = 0.5
"""Seconds between two looks at whether the person wants to stop."""
_PATIENCE = 10.0
"""Seconds that a worker has to end its step."""


class Job(Protocol):
    """What a process works on."""

    @property
    def message(self) -> dict[str, Any]:
        """What the process is sent."""
        ...


AnyJob = TypeVar("AnyJob", bound=Job)


@dataclass(frozen=True)
class Done(Generic[AnyJob]):
    """How a job ended: with a row, or with an error in one line."""

    cell: AnyJob
    row: dict[str, Any] | None
    error: str | None
    warned: tuple[str, ...] = ()
    """What it warned of, each in one line."""


@dataclass(frozen=True)
class Reported:
    """What a process says of its job meanwhile; it waits to be told whether to stop."""

    step: int
    value: float


class _Worker(Generic[AnyJob]):
    """One process and the job that it is at."""

    def __init__(self, target: Callable[..., None], scratch: str, core: int | None) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.core = core
        self.process: SpawnProcess = context.Process(target=target, args=(theirs, scratch, core), daemon=True)
        self.process.start()
        theirs.close()
        self.cell: AnyJob | None = None

    def begin(self, cell: AnyJob) -> None:
        self.cell = cell
        self.connection.send(cell.message)

    def answer(self, hear: Callable[[AnyJob, int, float], bool]) -> Done[AnyJob] | None:
        """What came of the job; ``None`` if it was interrupted, or goes on."""
        cell = self.cell
        assert cell is not None
        warned: tuple[str, ...] = ()
        try:
            said = self.connection.recv()
            if isinstance(said, Reported):
                self.connection.send(hear(cell, said.step, said.value))
                return None
            row, error, warned = said
        except (EOFError, OSError):
            self.process.join(_PATIENCE)
            code = self.process.exitcode
            how = f"was killed by signal {-code}" if code is not None and code < 0 else f"ended with exit code {code}"
            row, error = None, f"its process {how}; if memory is short, use fewer processes"
        self.cell = None
        return None if row is None and error is None else Done(cell, row, error, warned)

    def close(self) -> None:
        self.connection.close()


def _go_on(_job: Any, _step: int, _value: float) -> bool:
    return False


class Pool(Generic[AnyJob]):
    """Runs jobs in spawned processes; a context manager, which ends them.

    Args:
        jobs: how many processes.
        work: folder for their temporary files; the system's by default.
        target: what each process does with its connection, its folder and its core.
        pin: give each process a core of its own, where there are as many.
    """

    def __init__(
        self, jobs: int, work: Path | None = None, target: Callable[..., None] = serve, *, pin: bool = False
    ) -> None:
        self._jobs, self._target = jobs, target
        self._workers: list[_Worker[AnyJob]] = []
        cores = usable_cores()
        self._cores: list[int] = cores[:jobs] if pin and jobs <= len(cores) else []
        if work is not None:
            work.mkdir(parents=True, exist_ok=True)
        self._scratch = tempfile.TemporaryDirectory(
            dir=work, prefix="surgecollapse-compare-", ignore_cleanup_errors=True
        )

    def __enter__(self) -> Pool[AnyJob]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End all workers: those at a job are asked to stop after their step."""
        for worker in self._workers:
            if worker.cell is not None:
                worker.process.terminate()
            worker.close()
        for worker in self._workers:
            worker.process.join(_PATIENCE)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
        self._workers.clear()
        self._scratch.cleanup()

    @property
    def running(self) -> dict[int | None, AnyJob]:
        """The job that each process is at, by process id."""
        return {worker.process.pid: worker.cell for worker in self._workers if worker.cell is not None}

    def run(
        self, cells: Sequence[AnyJob], stop: Callable[[], bool], look: Callable[[], None]
    ) -> Iterator[Done[AnyJob]]:
        """Do jobs in their order, as many at a time as there are processes.

        Args:
            cells: the jobs.
            stop: asked often; once it says so, nothing more is begun and nothing more is yielded.
            look: called at least every half second, for showing progress.

        Yields:
            Each job as it ends.
        """
        waiting = deque(cells)
        return self.feed(lambda: waiting.popleft() if waiting else None, stop, look)

    def feed(
        self,
        take: Callable[[], AnyJob | None],
        stop: Callable[[], bool],
        look: Callable[[], None],
        hear: Callable[[AnyJob, int, float], bool] = _go_on,
    ) -> Iterator[Done[AnyJob]]:
        """Do jobs that are made when a process is free, until there is none and none is under way.

        Args:
            take: makes the next job; ``None`` if there is none now.
            stop: asked often; once it says so, nothing more is begun and nothing more is yielded.
            look: called at least every half second, for showing progress.
            hear: told a job, a step and a number that its process reports; says whether it is to stop.

        Yields:
            Each job as it ends.
        """
        while not stop():
            self._fill(take)
            if not self.running:
                return
            look()
            busy: dict[Connection, _Worker[AnyJob]] = {w.connection: w for w in self._workers if w.cell is not None}
            for connection in wait(list(busy), timeout=_LOOK):
                worker = busy[connection]  # type: ignore[index]
                done = worker.answer(hear)
                if done is not None:
                    yield done
                if not worker.process.is_alive():
                    worker.close()
                    self._workers.remove(worker)

    def _fill(self, take: Callable[[], AnyJob | None]) -> None:
        """Give every idle worker a job, and start workers while there are fewer than wanted."""
        cell: AnyJob | None = None
        while True:
            idle = next((worker for worker in self._workers if worker.cell is None), None)
            if idle is None and len(self._workers) >= self._jobs:
                return
            cell = take() if cell is None else cell
            if cell is None:
                return
            if idle is None:
                idle = _Worker(self._target, self._scratch.name, self._free_core())
                self._workers.append(idle)
            try:
                idle.begin(cell)
            except OSError:  # it died between two jobs
                idle.cell = None
                idle.close()
                self._workers.remove(idle)
                continue
            cell = None

    def _free_core(self) -> int | None:
        taken = {worker.core for worker in self._workers}
        return next((core for core in self._cores if core not in taken), None)
