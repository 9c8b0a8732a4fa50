"""The runs of a comparison on the workers of a Dask cluster, which may lie on many machines.

Dask is chosen for what it leaves alone. A scheduler and workers are two commands, and it needs no daemon of a service.
A cluster of Slurm, Kubernetes or SSH is made by packages of its own. Ray brings its own store and dashboard, submitit
Slurm alone. The rows, their keys and the resume are those of the process pool: the process that compares writes them.
"""

from __future__ import annotations

import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Generic

from distributed.comm.core import CommClosedError

from distributed import Client, KilledWorker
from surgecollapse.compare.pool import AnyJob, Done
from surgecollapse.compare.worker import Answer, answer_of, train_cell
from surgecollapse.errors import ConfigError

_LOOK = 0.5
_CONNECT_SECONDS = 15.0
_AWAY_SECONDS = 600.0
"""Time for which a scheduler may be away before the comparison gives up."""
_LOST = ("cancelled", "lost")


def train_job(message: dict[str, Any]) -> Answer:
    """Train one configuration on a worker, and answer as a process of the pool does."""
    return answer_of(lambda values: train_cell(values, Path(tempfile.gettempdir())), message)


class ClusterPool(Generic[AnyJob]):
    """Runs jobs on a Dask cluster, as :class:`~surgecollapse.compare.pool.Pool` does in processes here.

    A job whose worker is lost is done again by another, and a job that takes three workers down is recorded as failed.
    If the scheduler is lost, all jobs without a row are sent again once it is back.

    Args:
        address: of the scheduler, as ``tcp://host:8786``.
        note: is told when the scheduler goes and comes.

    Raises:
        ConfigError: if no scheduler answers there.
    """

    def __init__(self, address: str, note: Callable[[str], None] = lambda _line: None) -> None:
        self._address, self._note = address, note
        self._client = self._connect()
        self._pending: list[AnyJob] = []

    def __enter__(self) -> ClusterPool[AnyJob]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the cluster; jobs that were not finished are taken back."""
        self._client.close(timeout=_CONNECT_SECONDS)

    @property
    def running(self) -> Mapping[int | None, AnyJob]:
        """Jobs that are probably under way: as many of the next ones as there are workers."""
        return dict(enumerate(self._pending[: self._workers()]))

    def _connect(self) -> Any:
        try:
            return Client(self._address, timeout=_CONNECT_SECONDS, set_as_default=False)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"no Dask scheduler answers at {self._address}: start one (dask scheduler), and workers "
                f"(dask worker {self._address} --nthreads 1)"
            ) from error

    def _workers(self) -> int:
        try:
            workers = self._client.scheduler_info(n_workers=-1)["workers"]
        except (OSError, CommClosedError, KeyError):
            return 0
        wide = [name for name, facts in workers.items() if facts["nthreads"] > 1]
        if wide:
            raise ConfigError(f"worker {wide[0]} has several threads: start workers with --nthreads 1")
        return len(workers)

    def run(
        self, cells: Sequence[AnyJob], stop: Callable[[], bool], look: Callable[[], None]
    ) -> Iterator[Done[AnyJob]]:
        """Do jobs, as many at a time as the cluster has workers.

        Args:
            cells: the jobs.
            stop: asked often; once it says so, nothing more is yielded.
            look: called at least every half second, for showing progress.

        Yields:
            Each job as it ends, once.
        """
        self._pending = list(cells)
        futures: dict[int, Any] = {}
        while self._pending and not stop():
            look()
            if self._client.status != "running":
                self._wait_for_scheduler(stop)
                futures.clear()
                continue
            for cell in self._pending:
                if id(cell) not in futures:
                    futures[id(cell)] = self._submit(cell)
            for cell in list(self._pending):
                done = self._ended(cell, futures)
                if done is not None:
                    self._pending.remove(cell)
                    yield done
            time.sleep(_LOOK / 5)

    def _submit(self, cell: AnyJob) -> Any:
        # A key of its own each time: a result of before is never taken for this one.
        return self._client.submit(train_job, cell.message, key=f"surgecollapse-{uuid.uuid4().hex}", pure=False)

    def _ended(self, cell: AnyJob, futures: dict[int, Any]) -> Done[AnyJob] | None:
        future = futures[id(cell)]
        if future.status in _LOST:
            del futures[id(cell)]  # it is sent again
        if future.status == "error":
            error = future.exception()
            if not isinstance(error, KilledWorker):
                raise error
            return Done(cell, None, "its workers were killed again and again; memory may be short")
        if future.status != "finished":
            return None
        try:
            row, failure, warned = future.result(timeout=_CONNECT_SECONDS)
        except (OSError, CommClosedError):  # the worker that has it, or the scheduler, is gone
            futures.pop(id(cell), None)
            return None
        return Done(cell, row, failure, warned)

    def _wait_for_scheduler(self, stop: Callable[[], bool]) -> None:
        """Connect anew; what the scheduler knew is gone."""
        self._note(f"the scheduler at {self._address} is away: waiting for it")
        self._client.close(timeout=_LOOK)
        until = time.monotonic() + _AWAY_SECONDS
        while not stop():
            try:
                self._client = self._connect()
            except ConfigError:
                if time.monotonic() > until:
                    raise
                time.sleep(_LOOK)
            else:
                self._note("the scheduler is back")
                return
