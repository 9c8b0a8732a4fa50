"""The folder of a run's checkpoints: what is in it, what is kept, and which process writes."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any

from surgecollapse.lab.training.branch_folders import BEST, keep_left
from surgecollapse.lab.training.checkpoint import (
    checkpoint_path,
    drop_old_checkpoints,
    load_checkpoint,
    save_checkpoint,
    step_checkpoints,
    step_of,
)
from surgecollapse.lab.training.processes import own_states

if TYPE_CHECKING:
    from pathlib import Path

    from surgecollapse.torch_utils.distributed import Ranks


class CheckpointFolder:
    """The checkpoints of one run. The first rank writes and deletes; the others wait for it.

    Args:
        folder: where they lie.
        ranks: the processes of the run.
        keep: how many of the newest are kept; 0 for all.

    Attributes:
        kept: steps of checkpoints that a user asked for, which stay until they are deleted.
    """

    def __init__(self, folder: Path, ranks: Ranks, *, keep: int) -> None:
        self._folder, self._ranks, self._keep = folder, ranks, keep
        self.kept: set[int] = set()

    @property
    def steps(self) -> list[int]:
        """Steps of which there are checkpoints, ascending."""
        return sorted(map(step_of, step_checkpoints(self._folder)))

    def load(self, step: int) -> dict[str, Any]:
        """The checkpoint of a step.

        Raises:
            ValueError: if there is none that can be used.
        """
        path = checkpoint_path(self._folder, step)
        if not path.is_file():
            there = ", ".join(str(at) for at in self.steps) or "none yet"
            raise ValueError(f"no checkpoint of step {step}: there are {there}")
        return load_checkpoint(path)

    def load_best(self) -> dict[str, Any]:
        """The checkpoint of the best evaluation."""
        return load_checkpoint(self._best)

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Write ``step-N.pt``, and drop the old ones."""
        self._write(checkpoint_path(self._folder, step), state)
        if self._ranks.first:
            drop_old_checkpoints(self._folder, keep=self._keep, asked=self.kept)

    def save_best(self, state: dict[str, Any]) -> None:
        """Write ``best.pt``."""
        self._write(self._best, state)

    def leave(self, step: int, now: int, state: dict[str, Any]) -> str:
        """Keep what comes after a step as a branch; all ranks have read its checkpoint by then.

        Args:
            step: that the run goes back to.
            now: completed steps.
            state: the state of the run now.

        Returns:
            The name of the branch; empty on other ranks than the first.

        Raises:
            ValueError: if the branch cannot be written.
        """
        left, fault = "", ""
        self._write(checkpoint_path(self._folder, now), state)
        if self._ranks.first:
            try:
                left = keep_left(self._folder.parent, since=step, now=now).name
            except (OSError, sqlite3.Error) as error:
                fault = f"what would be left cannot be kept as a branch ({error}): free space, or fork instead"
        fault = self._ranks.from_first(fault)
        if fault:
            raise ValueError(fault)
        return left

    def forget_after(self, step: int, *, best: bool) -> None:
        """Know of no checkpoint after a step any more.

        Args:
            step: whose checkpoint stays.
            best: delete that of the best evaluation, too.
        """
        if best and self._ranks.first:
            self._best.unlink(missing_ok=True)
        self._ranks.from_first(None)
        self.kept = {at for at in self.kept if at <= step}

    def delete(self, step: int) -> None:
        """Delete a checkpoint that is not the newest.

        Raises:
            ValueError: if there is none of that step, or it is the one that a resume needs.
        """
        there = self.steps
        if step not in there:
            raise ValueError(f"no checkpoint of step {step}: there are {', '.join(map(str, there)) or 'none yet'}")
        if step == there[-1]:
            raise ValueError(f"the checkpoint of step {step} is the newest, which a resume needs")
        self._ranks.from_first(None)  # all have looked
        if self._ranks.first:
            checkpoint_path(self._folder, step).unlink()
        self.kept.discard(step)

    @property
    def _best(self) -> Path:
        return self._folder / BEST

    def _write(self, path: Path, state: dict[str, Any]) -> None:
        if not self._ranks.alone:
            state["ranks"] = own_states(self._ranks, state)
        if self._ranks.first:
            save_checkpoint(path, state)
        self._ranks.from_first(None)
