"""A run that is trained again: what people did to it is repeated, and the outcome is compared with the record."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from surgecollapse.commands import READ_ONLY
from surgecollapse.controller.command_loop import effective
from surgecollapse.lab.training.checkpoint import (
    CheckpointError,
    checkpoint_path,
    load_checkpoint,
    step_checkpoints,
    step_of,
)
from surgecollapse.record import CommandQueue, RunStore

_SERIES = "loss/train"


def repeat(source: Path, folder: Path, store: RunStore) -> None:
    """Note what people did to another run, for this one to repeat.

    Args:
        source: the run directory that is trained again.
        folder: of the new run.
        store: its record.
    """
    there, here = CommandQueue(source / "run.db"), CommandQueue(folder / "run.db")
    here.adopt([asked for asked in effective(there.applied()) if asked.kind not in READ_ONLY])
    there.close()
    store.set("replay_of", str(source))


def compare(source: Path, folder: Path, store: RunStore) -> str:
    """One line that says whether a replay is bitwise the run: its training losses, and the weights of its checkpoints.

    It is where nothing was damaged, since a run is a function of its configuration, its code and the machine's
    arithmetic. The first step that differs is kept in the record under ``replay_differs_at``.

    Args:
        source: the run directory that was trained again.
        folder: of the new run.
        store: its record.
    """
    store.flush()
    with RunStore(source / "run.db") as kept:
        one, two = kept.measurements(_SERIES), store.measurements(_SERIES)
    length = min(len(one.steps), len(two.steps))
    same = (one.steps[:length] == two.steps[:length]) & (
        one.values[:length].view(np.int64) == two.values[:length].view(np.int64)
    )
    first = None if same.all() else int(min(one.steps[np.argmin(same)], two.steps[np.argmin(same)]))
    what, checked = "training loss differs", ""
    if first is None:
        common = sorted(_checkpoints(source) & _checkpoints(folder))
        checked = f", and so are the weights at {', '.join(map(str, common))}" if common else ""
        first = next((step for step in common if not _same_weights(source, folder, step)), None)
        what = "weights differ"
    store.set("replay_differs_at", first)
    if first is None:
        return f"replay: the training loss is bitwise that of {source} at {length} steps{checked}"
    return (
        f"replay: the {what} from {source}, first seen at step {first}: other versions, another processor or number of "
        "threads, or a fault of the machine"
    )


def _checkpoints(folder: Path) -> set[int]:
    return {step_of(path) for path in step_checkpoints(folder / "checkpoints")}


def _same_weights(source: Path, folder: Path, step: int) -> bool:
    """Whether two checkpoints hold the same bytes; a damaged one does not."""
    try:
        one, two = (
            load_checkpoint(checkpoint_path(place / "checkpoints", step))["model"] for place in (source, folder)
        )
    except CheckpointError:
        return False
    return one.keys() == two.keys() and all(_bytes(value) == _bytes(two[name]) for name, value in one.items())


def _bytes(tensor: Tensor) -> tuple[object, ...]:
    return tensor.dtype, tuple(tensor.shape), tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()
