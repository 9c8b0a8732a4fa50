"""The agent protocol: the state of a run and the outcome of a command as JSON."""

from __future__ import annotations

import json
import math
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgecollapse.commands.schema import VERSION

if TYPE_CHECKING:
    from surgecollapse.record import QueuedCommand

_SERIES = ("loss/train", "loss/validation", "accuracy/train", "accuracy/validation", "learning_rate", "gradient_norm")
_KEPT = ("status", "step", "total", "name", "cause", "phase", "why", "sparsity", "entropy", "held", "paused",
         "checkpoints", "kept", "touched", "alarm")  # fmt: skip
_TAIL = 20


def state_of(run: Path) -> dict[str, Any]:
    """What an agent sees of a run.

    Raises:
        FileNotFoundError: if the directory holds no run.
        ValueError: if its record is damaged.
    """
    from surgecollapse.dashboard import reading, run_state
    from surgecollapse.dashboard.runs import changed

    path = run / "run.db"
    if not path.is_file():
        raise FileNotFoundError(f"{run} holds no run: expected a directory made by `surgecollapse run`")
    with closing(reading.look(path)) as connection:
        state = run_state.state(connection, changed(path))
        ids = {one["name"]: one["id"] for one in reading.series_of(connection) if not one["layer"]}
        curves = {name: reading.points(connection, ids[name]) for name in _SERIES if name in ids}
        return {
            "version": VERSION,
            "run": run.absolute().name,
            "state": {key: state.get(key) for key in _KEPT},
            "curves": {name: {axis: part[axis][-_TAIL:] for axis in ("x", "y")} for name, part in curves.items()},
            "commands": [outcome_values(one) for one in reading.commands(connection, _TAIL)],
            "branch": run_state.lineage(connection) or None,
        }


def outcome_of(asked: QueuedCommand) -> dict[str, Any]:
    """What became of a command."""
    return {"version": VERSION, "command": outcome_values(asdict(asked))}


def outcome_values(asked: dict[str, Any]) -> dict[str, Any]:
    """The part of a queued command that agents see."""
    return {key: asked[key] for key in ("id", "kind", "body", "source", "status", "step", "reason")}


def as_line(value: Any) -> str:
    """One line of strict JSON: what is not finite is ``null``."""
    return json.dumps(_finite(value), separators=(",", ":"), allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(key): _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return value
