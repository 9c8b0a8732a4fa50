"""From the name of a tracker to a run in it."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from surgecollapse.lab.config import ConfigError, flat_values
from surgecollapse.record import RunStore
from surgecollapse.trackers.following import follow
from surgecollapse.trackers.protocol import Tracker

TRACKERS = {"tensorboard": "tensorboardX", "trackio": "trackio", "wandb": "wandb", "mlflow": "mlflow"}
"""Name of a tracker, also of the extra that installs it → the package that it needs."""


def export_to(
    name: str, run: str | Path, out: str | Path | None = None, *, until: Callable[[], bool] | None = None
) -> str:
    """Write a run for a tracker: its whole record, as one new run there.

    Numbers of every step, readings by layer, interventions, requests and alarms as texts, histograms of the weights and
    what ``inspect`` recorded, the plots of the report with the confusion matrix, configuration and final numbers, as
    far as the tracker has such things. No request leaves this machine, unless ``MLFLOW_TRACKING_URI`` asks for that.

    Args:
        name: one of :data:`TRACKERS`.
        run: run directory.
        out: where the tracker keeps its files. By default: ``tensorboard`` in the run; beside the run for ``wandb``
            and ``mlruns``; trackio's own place.
        until: follow a run that trains until it ends or this is true, see
            :func:`~surgecollapse.trackers.following.follow`; ``None`` writes what is there.

    Returns:
        How to look at it.

    Raises:
        ConfigError: if no tracker has this name.
        FileNotFoundError: if there is no run.
        ModuleNotFoundError: if the tracker's package is not installed.
    """
    check_tracker(name)
    folder = Path(run)
    if not (folder / "run.db").is_file():
        raise FileNotFoundError(f"{folder} holds no run: expected a directory made by `surgecollapse run`")
    return follow(folder, _tracker(name, folder, None if out is None else Path(out)), until=until)


def to_tensorboard(run: str | Path, out: str | Path | None = None) -> Path:
    """Write a run's record for TensorBoard; the same as :func:`export_to`, but returns the folder.

    >>> to_tensorboard("nowhere")
    Traceback (most recent call last):
    ...
    FileNotFoundError: nowhere holds no run: expected a directory made by `surgecollapse run`
    """
    export_to("tensorboard", run, out)
    return Path(out) if out is not None else Path(run) / "tensorboard"


def check_tracker(name: str) -> None:
    """Check that a tracker can be told anything.

    Raises:
        ConfigError: if there is none of that name.
        ModuleNotFoundError: if its package is not installed.

    >>> check_tracker("wanb")
    Traceback (most recent call last):
    ...
    surgecollapse.lab.config.ConfigError: unknown tracker 'wanb': expected one of tensorboard, ... Did you mean 'wandb'?
    """
    if name not in TRACKERS:
        near = difflib.get_close_matches(name, TRACKERS, 1)
        hint = f". Did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"unknown tracker {name!r}: expected one of {', '.join(TRACKERS)}{hint}")
    if find_spec(TRACKERS[name]) is None:
        raise ModuleNotFoundError(
            f"{name} needs {TRACKERS[name]}: pip install 'surgecollapse[{name}]'", name=TRACKERS[name]
        )


def _tracker(name: str, run: Path, out: Path | None) -> Tracker:
    """Open a run in the tracker."""
    with RunStore(run / "run.db") as store:
        found = store.meta().get("config")
    config = flat_values(found) if isinstance(found, dict) else {}
    title = run.resolve().name
    if name == "tensorboard":
        from surgecollapse.trackers.tensorboard import TensorBoard

        return TensorBoard(title, config, out or run / "tensorboard")
    if name == "trackio":
        from surgecollapse.trackers.trackio import Trackio

        return Trackio(title, config, out)
    if name == "wandb":
        from surgecollapse.trackers.wandb import Wandb

        return Wandb(title, config, out or run.parent)
    from surgecollapse.trackers.mlflow import MLflow

    return MLflow(title, config, out or run.parent / "mlruns")
