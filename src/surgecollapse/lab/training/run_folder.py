"""The folder of a run: made, left as it was where the run fails, and checked before a run goes on in it."""

from __future__ import annotations

import json
import shutil
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from surgecollapse.lab.config import as_mapping, flat_values, read_config, write_config
from surgecollapse.lab.references import fingerprint
from surgecollapse.lab.training.checkpoint import CheckpointError
from surgecollapse.lab.training.claim import LOCK, claimed
from surgecollapse.lab.training.environment import environment
from surgecollapse.lab.training.flops import step_costs
from surgecollapse.lab.training.optim import loss_name
from surgecollapse.record import RunStore, RunStoreError
from surgecollapse.record.filesystem import is_network

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from surgecollapse.lab.config import RunConfig
    from surgecollapse.lab.training.trainer import Training

_OURS = ("run.db", "config.toml", "env.json", "checkpoints")


@dataclass
class NewFolder:
    """A folder in which a run begins."""

    kept: bool = False
    """Whether it stays after the block: a run that made a step can be resumed."""


@contextmanager
def new_folder(folder: Path, note: Callable[[str], None]) -> Iterator[NewFolder]:
    """Make a folder for a run and hold it; unless it is to be kept, what was made is removed at the end.

    Raises:
        FileExistsError: if it holds a run, or another process trains in it.
        RunStoreError: if it cannot be written.
    """
    _refuse_occupied(folder)
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    made, ours = NewFolder(), False
    try:
        _make_folder(folder)
        with claimed(folder, note):
            try:
                _refuse_occupied(folder)
                ours = True  # from here on, what is there of a run was made by this process
                yield made
            finally:
                if ours and not made.kept:
                    _discard(folder)
    finally:
        if not made.kept:
            _remove_empty(missing)


def new_record(folder: Path, config: RunConfig, training: Training) -> RunStore:
    """Write the configuration and the environment of a run, and begin its record.

    Raises:
        RunStoreError: if the folder cannot be written.
    """
    try:
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        write_config(config, folder / "config.toml")
        facts = environment()
        (folder / "env.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise unwritable(folder, error) from error
    store = RunStore(folder / "run.db", mode="w")
    store.set("config", as_mapping(config))
    store.set("started", time.time())
    store.set("environment", facts)
    if not training.ranks.alone:
        store.set("processes", training.ranks.size)
    store.set("data", training.data.described())
    store.set("loss", loss_name(config, training.data))
    store.set("project", fingerprint([config.data.task, config.model.name, config.run.loss]))
    store.set("costs", step_costs(config, training.data, training.controller))
    return store


def explain_place(folder: Path, note: Callable[[str], None]) -> None:
    """Say so where a folder lies on a network file system."""
    if is_network(folder):
        note(
            f"note: {folder} lies on a network file system: its record is kept without a write-ahead log, so that "
            "pages and reports that read it meanwhile may make it wait; a local disk does not"
        )


def config_to_resume(folder: Path) -> RunConfig:
    """The configuration of a run that is to go on.

    Raises:
        FileNotFoundError: if the folder holds no run.
        ConfigError: if its configuration cannot be used.
    """
    if not (folder / "run.db").is_file():
        raise FileNotFoundError(f"{folder} holds no run to resume: expected a directory made by --out")
    return read_config(folder / "config.toml")


def refuse_changed(config: RunConfig, state: dict[str, Any], folder: Path) -> None:
    """Check that a checkpoint is of the run that its configuration says.

    Raises:
        CheckpointError: if it is not.
    """
    found = state.get("config")
    if not isinstance(found, dict):
        raise CheckpointError(f"the newest checkpoint of {folder} holds no configuration: start a new run")
    now, then = flat_values(as_mapping(config)), flat_values(found)
    # Keys that are younger than the checkpoint, and what decides nothing, are taken as they are.
    ignored = {"data_dir", "device", "monitors", "monitor_budget", "gradient_trace_every"}
    changed = [key for key in now if key not in ignored and key in then and now[key] != then[key]]
    if changed:
        raise CheckpointError(
            f"{folder / 'config.toml'} differs from the run that the checkpoint is of ({', '.join(changed)}): "
            "undo that, or start a new run with another --out"
        )


def unwritable(folder: Path, error: OSError, way_out: str = "free space or choose another --out") -> OSError:
    """Say what to do where writing failed; errors that say it already pass through."""
    if isinstance(error, RunStoreError):
        return error
    return RunStoreError(f"cannot write {folder} ({error.strerror or error}): {way_out}")


def _refuse_occupied(folder: Path) -> None:
    if any((folder / name).exists() for name in _OURS):
        raise FileExistsError(
            f"{folder} already holds a run: choose another --out, or continue it with --resume {folder}"
        )


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from error


def _discard(folder: Path) -> None:
    """Remove what :func:`new_record` wrote, and the lock, which is held while this runs."""
    logs = [path.name for path in folder.glob("export-*.log")]
    for name in (*_OURS, "run.db-wal", "run.db-shm", "run.db-journal", *logs, LOCK):
        if (folder / name).is_dir():
            shutil.rmtree(folder / name, ignore_errors=True)
        else:
            with suppress(OSError):
                (folder / name).unlink()


def _remove_empty(made: list[Path]) -> None:
    """Remove the folders that were not there before, if nothing is in them."""
    for place in made:
        with suppress(OSError):
            place.rmdir()
