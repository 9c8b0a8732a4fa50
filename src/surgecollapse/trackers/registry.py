"""From the name of a tracker to a run in it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from surgecollapse.lab.config import ConfigError, flat_values
from surgecollapse.plugins import Registry
from surgecollapse.record import RunStore
from surgecollapse.trackers.following import follow
from surgecollapse.trackers.protocol import Tracker

tracker: Registry[Any] = Registry("trackers", "tracker", "surgecollapse.trackers")
"""Decorator that gives a tracker its name, also that of the extra that installs it, and the mapping of all of them."""
TRACKERS = tracker
"""The trackers that have a name. A new one is a new file in this package."""


def export_to(
    name: str, run: str | Path, out: str | Path | None = None, *, until: Callable[[], bool] | None = None
) -> str:
    """Write a run for a tracker: its whole record, as one new run there.

    Numbers of every step, readings by layer, interventions, requests and alarms as texts, histograms of the weights and
    what ``inspect`` recorded. The plots of the report with the confusion matrix, configuration and final numbers go
    there, too, as far as the tracker has such things. No request leaves this machine, unless ``MLFLOW_TRACKING_URI``
    asks for that.

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


def check_tracker(name: str, *, also: Collection[str] = ()) -> None:
    """Check that a tracker can be told anything.

    Args:
        name: of the tracker.
        also: further words that the caller understands, for the error.

    Raises:
        ConfigError: if there is none of that name.
        ModuleNotFoundError: if its package is not installed.

    >>> check_tracker("wanb")
    Traceback (most recent call last):
    ...
    surgecollapse.lab.config.ConfigError: unknown tracker 'wanb': expected one of mlflow, ... Did you mean 'wandb'?
    """
    package = getattr(_find(name, also), "package", None)
    if package is not None and find_spec(package) is None:
        how = f"surgecollapse[{name}]" if name in TRACKERS else package
        raise ModuleNotFoundError(f"{name} needs {package}: pip install '{how}'", name=package)


def _tracker(name: str, run: Path, out: Path | None) -> Tracker:
    """Open a run in the tracker."""
    with RunStore(run / "run.db") as store:
        found = store.meta().get("config")
    config = flat_values(found) if isinstance(found, dict) else {}
    title = run.resolve().name
    kind = _find(name)
    place = getattr(kind, "place", None)
    opened: Tracker = kind(title, config, out if out is not None or place is None else place(run))
    return opened


def _find(name: str, also: Collection[str] = ()) -> Any:
    """The class of a tracker.

    Raises:
        ConfigError: if there is none of that name.
    """
    try:
        return TRACKERS.find(name, also=also)
    except ValueError as error:
        raise ConfigError(str(error)) from error
