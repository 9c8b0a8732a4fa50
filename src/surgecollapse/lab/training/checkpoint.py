"""Checkpoint files: written whole or not at all, checked before they are trusted.

A checkpoint is a dictionary of tensors, numbers, strings and containers of these, so that
``torch.load(weights_only=True)`` reads it and nothing in it can run code.
"""

from __future__ import annotations

import io
import os
import pickle
import re
import zipfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CHECKPOINT_VERSION = 1
"""Version of the layout of a checkpoint."""
_KIND = "surgecollapse.checkpoint"
_NAME = re.compile(r"step-(\d+)\.pt")


_WAY_OUT = "resume from an earlier checkpoint, or start again with another --out"


class CheckpointError(ValueError):
    """A checkpoint that cannot be used: which file, why, and the way out."""


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write ``state`` atomically: a temporary file, flushed to the disk, then renamed.

    Raises:
        OSError: if it cannot be written; a file of that name from before stays whole.
    """
    # Into memory first: torch's own writer turns a full disk into a RuntimeError without its cause.
    buffer = io.BytesIO()
    torch.save({"kind": _KIND, "version": CHECKPOINT_VERSION, **state}, buffer)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    try:
        with temporary.open("wb") as file:
            file.write(buffer.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint, after checking every byte against the file's own checksums.

    Raises:
        CheckpointError: if it is damaged, no checkpoint of this library, or of a newer version.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise CheckpointError(f"{path} is damaged (in {damaged}): {_WAY_OUT}")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (zipfile.BadZipFile, pickle.UnpicklingError, EOFError, RuntimeError, OSError) as error:
        reason = (str(error).splitlines() or ["unreadable"])[0]
        raise CheckpointError(f"{path} is damaged or no checkpoint ({reason}): {_WAY_OUT}") from error
    if not isinstance(state, dict) or state.get("kind") != _KIND:
        raise CheckpointError(f"{path} is no surgecollapse checkpoint: {_WAY_OUT}")
    if state["version"] > CHECKPOINT_VERSION:
        raise CheckpointError(
            f"{path} has version {state['version']}, this library reads up to {CHECKPOINT_VERSION}: "
            "update surgecollapse"
        )
    return state


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return folder / f"step-{step}.pt"


def step_checkpoints(folder: Path) -> list[Path]:
    """The ``step-N.pt`` files of a folder, newest first."""
    if not folder.is_dir():
        return []
    numbered = [(int(match[1]), path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(numbered, reverse=True)]


def latest_checkpoint(folder: Path, warn: Callable[[str], None]) -> dict[str, Any] | None:
    """The newest checkpoint that can be read; ``None`` if there is none at all.

    Args:
        folder: the ``checkpoints`` folder of a run.
        warn: called with one line for every damaged file that is passed over for an older one.

    Raises:
        CheckpointError: if there are checkpoints but none can be read.
    """
    failed: list[CheckpointError] = []
    for path in step_checkpoints(folder):
        try:
            state = load_checkpoint(path)
        except CheckpointError as error:
            failed.append(error)
            continue
        for unusable in failed:
            warn(f"warning: took {path.name}, as {unusable}")
        return state
    if failed:
        raise failed[0]
    return None


@contextmanager
def must_fit(folder: Path) -> Iterator[None]:
    """Turn what goes wrong while a checkpoint of ``folder`` is taken over into one line.

    Raises:
        CheckpointError: instead of the errors of torch and of missing keys: the file is whole, but of another run.
    """
    try:
        yield
    except CheckpointError:
        raise
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        reason = f"no {lines[0]} in it" if isinstance(error, KeyError) else " ".join(lines[:2])
        raise CheckpointError(
            f"the newest checkpoint in {folder} does not fit the run ({reason}): {_WAY_OUT}"
        ) from error


def drop_old_checkpoints(folder: Path, *, keep: int = 2) -> None:
    """Delete all but the newest ``keep`` step checkpoints, or none of them if that is 0; ``best.pt`` stays."""
    for path in step_checkpoints(folder)[keep:] if keep else ():
        path.unlink()
