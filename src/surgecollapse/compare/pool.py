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
from typing import TYPE_CHECKING, Any

from surgecollapse.compare.worker import serve
from surgecollapse.lab.config import as_mapping

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

    from surgecollapse.compare.plan import Cell

_LOOK = 0.5
"""Seconds between two looks at whether the person wants to stop."""
_PATIENCE = 10.0
"""Seconds that a worker has to end its step."""


@dataclass(frozen=True)
class Done:
    """How a cell ended: with a row, or with an error in one line."""

    cell: Cell
    row: dict[str, Any] | None
    error: str | None


class _Worker:
    """One process and the cell that it is at."""

    def __init__(self, scratch: str) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process: SpawnProcess = context.Process(target=serve, args=(theirs, scratch), daemon=True)
        self.process.start()
        theirs.close()
        self.cell: Cell | None = None

    def begin(self, cell: Cell) -> None:
        self.cell = cell
        self.connection.send(dict(as_mapping(cell.config)))

    def answer(self) -> Done | None:
        """What came of the cell; ``None`` if it was interrupted."""
        cell, self.cell = self.cell, None
        assert cell is not None
        try:
            row, error = self.connection.recv()
        except (EOFError, OSError):
            self.process.join(_PATIENCE)
            code = self.process.exitcode
            how = f"was killed by signal {-code}" if code is not None and code < 0 else f"ended with exit code {code}"
            return Done(cell, None, f"its process {how}; if memory is short, use fewer --jobs")
        return None if row is None and error is None else Done(cell, row, error)

    def close(self) -> None:
        self.connection.close()


class Pool:
    """Runs cells in spawned processes; a context manager, which ends them.

    Args:
        jobs: how many processes.
        work: folder for their temporary files; the system's by default.
    """

    def __init__(self, jobs: int, work: Path | None = None) -> None:
        self._jobs, self._workers = jobs, []  # type: tuple[int, list[_Worker]]
        if work is not None:
            work.mkdir(parents=True, exist_ok=True)
        self._scratch = tempfile.TemporaryDirectory(
            dir=work, prefix="surgecollapse-compare-", ignore_cleanup_errors=True
        )

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End all workers: those at a cell are asked to stop after their step."""
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
    def running(self) -> dict[int | None, Cell]:
        """The cell that each process is at, by process id."""
        return {worker.process.pid: worker.cell for worker in self._workers if worker.cell is not None}

    def run(self, cells: Sequence[Cell], stop: Callable[[], bool], look: Callable[[], None]) -> Iterator[Done]:
        """Train cells in their order, as many at a time as there are processes.

        Args:
            cells: what to train.
            stop: asked often; once it says so, nothing more is begun and nothing more is yielded.
            look: called at least every half second, for showing progress.

        Yields:
            Each cell as it ends.
        """
        waiting = deque(cells)
        while (waiting or self.running) and not stop():
            self._fill(waiting)
            look()
            busy: dict[Connection, _Worker] = {w.connection: w for w in self._workers if w.cell is not None}
            for connection in wait(list(busy), timeout=_LOOK):
                worker = busy[connection]  # type: ignore[index]
                done = worker.answer()
                if done is not None:
                    yield done
                if not worker.process.is_alive():
                    worker.close()
                    self._workers.remove(worker)

    def _fill(self, waiting: deque[Cell]) -> None:
        """Give every idle worker a cell, and start workers while there are fewer than wanted."""
        while waiting:
            idle = next((worker for worker in self._workers if worker.cell is None), None)
            if idle is None:
                if len(self._workers) >= self._jobs:
                    return
                idle = _Worker(self._scratch.name)
                self._workers.append(idle)
            try:
                idle.begin(waiting[0])
            except OSError:  # it died between two cells
                idle.cell = None
                idle.close()
                self._workers.remove(idle)
                continue
            waiting.popleft()
