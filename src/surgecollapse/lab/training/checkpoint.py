"""Checkpoint files: written whole or not at all, checked before they are trusted.

A checkpoint is a dictionary of tensors, numbers, strings and containers of these, so that
``torch.load(weights_only=True)`` reads it and nothing in it can run code.
"""

from __future__ import annotations

import io
import os
import pickle
import re
import struct
import zipfile
import zlib
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import torch

from surgecollapse.record.whole_files import is_sealed, seal_of, write_whole

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

CHECKPOINT_VERSION = 1
"""Version of the layout of a checkpoint."""
_KIND = "surgecollapse.checkpoint"
_NAME = re.compile(r"step-(\d+)\.pt")
_TEXT_FLAGS = 0x0808
"""UTF-8 names, and sizes after the data."""
_DAMAGE = (ArithmeticError, AssertionError, AttributeError, EOFError, ImportError, LookupError, MemoryError, OSError,
           RuntimeError, TypeError, ValueError, pickle.UnpicklingError, struct.error, zipfile.BadZipFile,
           zlib.error)  # fmt: skip
"""What readers of archives, pickles and tensors raise over damaged bytes."""

_START = b"PK"
"""Of an archive; what older versions of torch wrote begins with a pickle."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be used: which file, why, and the way out."""


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write ``state`` atomically: a temporary file, flushed to the disk, then renamed.

    The file ends in the SHA-256 of all that comes before, as the comment of the archive that ``torch.save`` writes.

    Raises:
        OSError: if it cannot be written; a file of that name from before stays whole.
    """
    # Into memory first: torch's own writer turns a full disk into a RuntimeError without its cause.
    buffer = io.BytesIO()
    torch.save({"kind": _KIND, "version": CHECKPOINT_VERSION, **state}, buffer)
    content = buffer.getbuffer()
    path.parent.mkdir(exist_ok=True)  # not its parents: a run whose folder was deleted is not made anew
    write_whole(path, content[:-2], seal_of(content))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint, after checking the whole file against the checksum at its end.

    Files of version 0.1.0 have none: of those, each part is checked, and that the archive has the form that torch
    gives it.

    Raises:
        CheckpointError: if it is damaged, not a checkpoint of this library, or of a newer version.
    """
    state = _read(path)
    if not isinstance(state, dict) or state.get("kind") != _KIND:
        raise CheckpointError(f"{path} is no surgecollapse checkpoint: {_way_out(path)}")
    version = state.get("version")
    if not isinstance(version, int):
        raise CheckpointError(f"{path} is damaged (it has the version {version!r}): {_way_out(path)}")
    if version > CHECKPOINT_VERSION:
        raise CheckpointError(
            f"{path} has version {version}, this library reads up to {CHECKPOINT_VERSION}: update surgecollapse"
        )
    return state


def load_weights(path: Path) -> dict[str, Any]:
    """The weights that a file holds: a checkpoint of a run, or what a loop of one's own saved.

    Of a run that averages its weights they are the averages, which are what it evaluates.

    Args:
        path: a checkpoint, or a file of ``torch.save`` with a state dict, alone or under ``model``, ``state_dict`` or
            ``model_state_dict``.

    Raises:
        CheckpointError: if it is damaged, or holds nothing of that.
    """
    state = _read(path)
    for name in ("model", "state_dict", "model_state_dict"):
        if isinstance(state, dict) and isinstance(state.get(name), dict):
            averaged = state.get("averaged") if state.get("kind") == _KIND else None
            return {**state[name], **(averaged["average"] if averaged else {})}
    if isinstance(state, dict) and state and all(isinstance(value, torch.Tensor) for value in state.values()):
        return dict(state)
    raise CheckpointError(f"{path} holds no weights: expected model.state_dict(), alone or under 'model'")


def _read(path: Path) -> Any:
    """What a file holds, after checking all of it against the checksum at its end, or each part against its own.

    Raises:
        CheckpointError: if it is damaged.
    """
    try:
        with path.open("rb") as file:
            if file.read(len(_START)) == _START and not is_sealed(file):
                _check_parts(file)
            file.seek(0)
            return torch.load(file, map_location="cpu", weights_only=True)
    except _DAMAGE as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise CheckpointError(f"{path} is damaged or no checkpoint ({reason}): {_way_out(path)}") from error


def _way_out(path: Path) -> str:
    """What to do about a checkpoint that cannot be used, with the newest of those before it."""
    match = _NAME.fullmatch(path.name)
    older = [other for other in step_checkpoints(path.parent) if match is None or step_of(other) < int(match[1])]
    if older:
        return f"use the earlier checkpoint {older[0].name}, or start again with another --out"
    return "there is no earlier checkpoint, start again with another --out"


def step_of(path: Path) -> int:
    """The step of a ``step-N.pt``."""
    return int(path.stem.removeprefix("step-"))


def _check_parts(file: BinaryIO) -> None:
    """Check each part of an archive without a checksum of its own, before torch sees it.

    Raises:
        zipfile.BadZipFile: if one is damaged or compressed, or claims to be what torch never writes, such as a folder.
    """
    size = file.seek(0, os.SEEK_END)
    with zipfile.ZipFile(file) as archive:
        parts = archive.infolist()
        for part in parts:
            odd = part.is_dir() or part.external_attr or part.flag_bits & ~_TEXT_FLAGS or part.comment
            if odd or part.compress_type != zipfile.ZIP_STORED or part.compress_size != part.file_size:
                raise zipfile.BadZipFile(f"{part.filename[:80]!r} is not stored as torch does")
        if sum(part.file_size for part in parts) > size or len({part.filename for part in parts}) < len(parts):
            raise zipfile.BadZipFile("its parts overlap")
        damaged = archive.testzip()
        if damaged is not None:
            raise zipfile.BadZipFile(f"{damaged[:80]!r} does not have its checksum")


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
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        reason = f"no {lines[0]} in it" if isinstance(error, KeyError) else " ".join(lines[:2])
        raise CheckpointError(
            f"the newest checkpoint in {folder} does not fit the run ({reason}): use an earlier one, or "
            "start again with another --out"
        ) from error


def drop_old_checkpoints(folder: Path, *, keep: int = 2, asked: Collection[int] = ()) -> None:
    """Delete all but the newest ``keep`` step checkpoints, or none of them if that is 0; ``best.pt`` stays.

    What a killed process left half written goes, too.

    Args:
        folder: of checkpoints.
        keep: how many of the run's own.
        asked: steps of checkpoints that stay whatever comes, as a person asked for them.
    """
    own = [path for path in step_checkpoints(folder) if int(path.stem.removeprefix("step-")) not in asked]
    for path in (*(own[keep:] if keep else ()), *folder.glob(".*.tmp")):
        path.unlink()
