"""Runs that branch off from another: from any of its steps, with other settings, beside it and leaving it alone."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgecollapse.controller.command_loop import effective
from surgecollapse.lab.config import ConfigError, RunConfig, as_mapping, read_config, write_config
from surgecollapse.lab.training.branch_folders import BEST, applied, describe, free_folder
from surgecollapse.lab.training.branch_state import changed_config, changed_state, reseeded
from surgecollapse.lab.training.checkpoint import (
    CheckpointError,
    checkpoint_path,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
    step_checkpoints,
    step_of,
)
from surgecollapse.lab.training.environment import environment
from surgecollapse.lab.training.evaluation import ENDED
from surgecollapse.lab.training.progress import Silent
from surgecollapse.lab.training.run import RunResult, train
from surgecollapse.record import CommandQueue, RunStore, copy_record, last_step

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from surgecollapse.lab.training.progress import Progress
    from surgecollapse.record import QueuedCommand


@dataclass(frozen=True, kw_only=True)
class Branch:
    """A run that is ready to go on from a step of another."""

    directory: Path
    parent: Path
    step: int
    changes: dict[str, Any] = field(default_factory=dict)
    """Values of the configuration that differ from the parent's."""


def fork(
    run: str | Path,
    at: int,
    *,
    out: str | Path | None = None,
    changes: Mapping[str, Any] | None = None,
    seed: int | None = None,
    progress: Progress | None = None,
) -> RunResult:
    """Train a branch of a run: as the run up to a step, then on with other settings; the run itself is left alone.

    Without changes, the branch is bitwise the run's own continuation. The step need not have a checkpoint. The branch
    starts from the newest one before it and repeats the steps between, with the commands that people gave in them.

    Args:
        run: a run directory, finished or still training.
        at: completed steps at which the branch leaves.
        out: the branch's own directory; by default beside the run.
        changes: keys of the configuration, see :data:`~surgecollapse.lab.training.branch_state.CHANGEABLE`.
        seed: of what is random from there on; by default the run's own draws go on.
        progress: who is shown how it goes.

    Returns:
        How the branch ended.

    Raises:
        FileNotFoundError: if the directory holds no run.
        FileExistsError: if ``out`` holds a run.
        ValueError: if the run never came to this step, or the changes cannot be used.
        RunStoreError: if the branch cannot be written.
    """
    branch = begin_branch(run, at, out=out, changes=changes, seed=seed, progress=progress)
    return train(None, branch.directory, resume=True, progress=progress)


def begin_branch(
    run: str | Path,
    at: int,
    *,
    out: str | Path | None = None,
    changes: Mapping[str, Any] | None = None,
    seed: int | None = None,
    progress: Progress | None = None,
    commands: Sequence[QueuedCommand] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Branch:
    """Make the directory of a branch, up to its step; ``surgecollapse run --resume`` goes on with it.

    Args:
        run: as in :func:`fork`, like the next five.
        at: likewise.
        out: likewise.
        changes: likewise.
        seed: likewise.
        progress: likewise.
        commands: what is repeated after the step, in the place of nothing.
        facts: further values for the record of the branch.

    Raises:
        KeyboardInterrupt: if it was interrupted before it came to the step; nothing is left of it then.
        ValueError: as :func:`fork`; the others, too.
    """
    parent, config = Path(run), config_of(run)
    new = changed_config(config, changes or {})
    if changes and new == config and progress is not None:
        progress.note("the changes are what the run has already: the branch will be its own continuation")
    _check_step(parent, at)
    folder = free_folder(parent, f"fork-at-{at}") if out is None else Path(out)
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty: choose another name for the branch")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        _copy(parent, folder, at)
        since = _newest(folder)
        if since != at:
            if progress is not None and at > max(since, 0):
                earlier = any(since < step_of(path) < at for path in step_checkpoints(parent / "checkpoints"))
                why = (
                    "the best weights at the checkpoints between have been overwritten since"
                    if earlier
                    else f"no checkpoint of step {at} is there"
                )
                progress.note(f"training steps {max(since, 0) + 1} to {at} again, as {why}")
            result = train(None, folder, resume=True, until=at)
            if result.step < at:
                raise KeyboardInterrupt
        _settle(folder, at, config, new, seed, commands or (), facts or {})
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return Branch(directory=folder, parent=parent, step=at, changes=dict(changes or {}))


def config_of(run: str | Path) -> RunConfig:
    """The configuration of a run of the lab.

    Raises:
        FileNotFoundError: if the directory holds no run.
        ConfigError: if it is one of a loop of one's own, which cannot be trained without that loop.
    """
    folder = Path(run)
    if not (folder / "run.db").is_file():
        raise FileNotFoundError(f"{folder} holds no run: expected a directory made by `surgecollapse run`")
    if not (folder / "config.toml").is_file():
        raise ConfigError(f"{folder} has no config.toml: only runs that `surgecollapse run` trains can branch")
    return read_config(folder / "config.toml")


def final_step(run: Path) -> int | None:
    """The step at which a run ended for good; ``None`` if it has not."""
    with RunStore(run / "run.db") as store:
        if store.get("status") not in ENDED:
            return None
        return int(store.get("summary", {}).get("steps", 0))


def _check_step(parent: Path, at: int) -> None:
    end, reached = final_step(parent), last_step(parent / "run.db")
    if at < 0 or at > reached:
        raise ConfigError(f"--at {at}: {parent} is at step {reached}; expected a step from 0 to {reached}")
    if end is not None and at >= end:
        raise ConfigError(f"--at {at}: {parent} ended at step {end} with a final mask; expected a step before it")
    with RunStore(parent / "run.db") as store:
        if store.get("processes", 1) != 1:
            raise ConfigError(f"{parent} was trained by several processes: a branch of it cannot be made by one")


def _copy(parent: Path, folder: Path, at: int) -> None:
    """Copy a run up to the newest checkpoint at or before a step, and what is to be repeated from there to the step."""
    places = folder / "checkpoints"
    places.mkdir()
    state = _state_before(parent, at)
    since = -1 if state is None else state["step"]
    chosen = [one for one in effective(applied(parent)) if (one.step or 0) <= at]
    copy_record(parent / "run.db", folder / "run.db", step=since, commands=[one.id for one in chosen])
    shutil.copyfile(parent / "config.toml", folder / "config.toml")
    (folder / "env.json").write_text(json.dumps(environment(), indent=2) + "\n", encoding="utf-8")
    if state is not None:
        save_checkpoint(checkpoint_path(places, since), state)
        if state["best"] is not None:
            shutil.copyfile(parent / "checkpoints" / BEST, places / BEST)
    with RunStore(folder / "run.db", mode="a") as store:
        describe(store, folder, parent, at, "fork")
        store.set("environment", environment())
        store.set("checkpoints", [] if state is None else [since])
        store.set("unfinished_branch", at)


def _settle(
    folder: Path,
    at: int,
    config: RunConfig,
    new: RunConfig,
    seed: int | None,
    commands: Sequence[QueuedCommand],
    facts: Mapping[str, Any],
) -> None:
    """Give a branch that has come to its step what it has otherwise than the run that it leaves."""
    path = checkpoint_path(folder / "checkpoints", at)
    state = load_checkpoint(path)
    if new != config:
        state = changed_state(state, config, new)
        write_config(new, folder / "config.toml")
    if seed is not None:
        state = reseeded(state, seed)
    queue = CommandQueue(folder / "run.db")
    there = [one.id for one in queue.all()]
    # What comes has greater ids than what is there, and what is there was carried out.
    asked = {"last": max(there, default=0), "to_repeat": []}
    save_checkpoint(path, {**state, "asked": {**state.get("asked", {"rate_factor": 1.0}), **asked}})
    if commands:
        queue.adopt(commands)
    queue.close()
    changes = {
        f"{section}.{key}": value
        for section, values in as_mapping(new).items()
        for key, value in values.items()
        if as_mapping(config).get(section, {}).get(key) != value
    }
    with RunStore(folder / "run.db", mode="a") as store:
        store.set("status", "interrupted")
        store.set("config", as_mapping(new))
        store.set("fork_changes", changes)
        if seed is not None:
            store.set("fork_seed", seed)
        store.set("kept_checkpoints", [at])
        for key, value in facts.items():
            store.set(key, value)
        store.set("unfinished_branch", None)


def _state_before(parent: Path, at: int) -> dict[str, Any] | None:
    """The newest good checkpoint at or before a step whose best weights are still there; ``None``: from the start."""
    end = final_step(parent)
    folder = parent / "checkpoints"
    best = load_checkpoint(folder / BEST)["step"] if (folder / BEST).exists() else None
    for path in step_checkpoints(folder):
        if step_of(path) > at or step_of(path) == end:
            continue
        try:
            state = load_checkpoint(path)
        except CheckpointError:
            continue
        if state["best"] is None or state["best_step"] == best:
            return state
    return None


def _newest(folder: Path) -> int:
    state = latest_checkpoint(folder / "checkpoints", Silent().note)
    return -1 if state is None else int(state["step"])
