"""Directories of runs that branch off from another, beside it: what they say of where they come from."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from surgecollapse.commands import READ_ONLY
from surgecollapse.lab.training.checkpoint import step_checkpoints, step_of
from surgecollapse.record import CommandQueue, RunStore, copy_record
from surgecollapse.record.filesystem import way

if TYPE_CHECKING:
    from surgecollapse.record import QueuedCommand

BEST = "best.pt"


def keep_left(folder: Path, *, since: int, now: int) -> Path:
    """Keep what a roll-back leaves as a branch beside the run: its record, and the checkpoints after ``since``.

    Args:
        folder: the run, whose record is on the disk, with a checkpoint of ``now``.
        since: step that the run goes back to.
        now: completed steps.

    Returns:
        The directory of the branch, which can be resumed.

    Raises:
        OSError: if it cannot be written.
    """
    branch = free_folder(folder, f"left-at-{now}")
    branch.mkdir()
    try:
        (branch / "checkpoints").mkdir()
        copy_record(folder / "run.db", branch / "run.db", step=now, commands=_settled(folder))
        for name in ("config.toml", "env.json"):
            shutil.copyfile(folder / name, branch / name)
        best = folder / "checkpoints" / BEST
        if best.exists():
            shutil.copyfile(best, branch / "checkpoints" / BEST)
        with RunStore(branch / "run.db", mode="a") as store:
            describe(store, branch, folder, since, "roll-back")
            later = [path for path in step_checkpoints(folder / "checkpoints") if step_of(path) > since]
            store.set("checkpoints", sorted(map(step_of, later)))
            store.set("kept_checkpoints", [at for at in store.get("kept_checkpoints", []) if at > since])
    except BaseException:
        shutil.rmtree(branch, ignore_errors=True)
        raise
    for path in later:
        path.rename(branch / "checkpoints" / path.name)
    return branch


def free_folder(run: Path, what: str) -> Path:
    """A directory beside a run that is not there yet."""
    place = run if run.name not in ("", "..") else Path(os.path.abspath(run))
    found, number = place.with_name(f"{place.name}-{what}"), 2
    while found.exists():
        found, number = place.with_name(f"{place.name}-{what}-{number}"), number + 1
    return found


def describe(store: RunStore, folder: Path, parent: Path, step: int, why: str) -> None:
    """Say what a branch is a branch of; the way there is relative, so that both may move together."""
    store.set("parent", way(parent, folder))
    store.set("forked_at", step)
    store.set("forked_by", why)
    store.set("status", "interrupted")


def applied(folder: Path) -> list[QueuedCommand]:
    """What was carried out in a run and changed what it computes, in order."""
    queue = CommandQueue(folder / "run.db")
    try:
        return [one for one in queue.applied() if one.kind not in READ_ONLY]
    finally:
        queue.close()


def _settled(folder: Path) -> list[int]:
    """Ids of the commands that do not wait: the next one of a copy must have a greater id than all of them."""
    queue = CommandQueue(folder / "run.db")
    try:
        return [one.id for one in queue.all() if one.status != "queued"]
    finally:
        queue.close()
