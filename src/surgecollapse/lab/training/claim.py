"""One run directory, one process that trains in it."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from filelock import FileLock, SoftFileLock, Timeout

from surgecollapse.record import RunStore, RunStoreError, heartbeat

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

LOCK = "run.lock"
"""Stays in the run directory; what counts is who holds it, which ends with the process, however it ends."""
_SECONDS = 1.0
_TRIES = 3


@contextmanager
def claimed(folder: Path, note: Callable[[str], None]) -> Generator[None]:
    """Hold a run directory for the length of a block.

    The lock is the operating system's (:mod:`filelock`): a process that is killed cannot leave it behind.

    Args:
        folder: a directory that is there.
        note: is told where the file system cannot lock.

    Raises:
        FileExistsError: if another process holds it, with its process id.
        RunStoreError: if the directory cannot be written.
    """
    place = folder / LOCK
    lock = FileLock(place)
    for _ in range(_TRIES):
        _acquire(lock, folder)
        if place.exists():
            break
        lock.release()  # another process failed to start and took its lock file away
    if isinstance(lock, SoftFileLock):
        note(f"note: the file system of {folder} cannot lock files: see to it that nothing else trains there")
    try:
        yield
    finally:
        lock.release()


def _acquire(lock: FileLock, folder: Path) -> None:
    try:
        lock.acquire(timeout=_SECONDS)
    except Timeout as error:
        who = _holder(folder)
        process = "another process" if who is None else f"process {who}"
        raise FileExistsError(
            f"{folder}: {process} trains this run: wait until it ends, stop it, or choose another --out"
        ) from error
    except (OSError, NotImplementedError) as error:
        raise RunStoreError(f"cannot write {folder} ({error}): choose another --out") from error


def _holder(folder: Path) -> int | None:
    """The process that holds a directory, once its record says so."""
    with suppress(OSError, ValueError), RunStore(folder / "run.db") as store:
        return heartbeat.pid_of(store.get("heartbeat"))
    return None
