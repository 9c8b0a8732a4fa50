"""Tells a tracker what a run recorded: afterwards, or while it trains, as one more reader of its record."""

from __future__ import annotations

import logging
import tempfile
import time
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from surgecollapse.events import Alarm, Intervention, Reading, Request
from surgecollapse.record import RunStore, RunStoreError, Tail, heartbeat

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from surgecollapse.events import Event
    from surgecollapse.record import NewRecords
    from surgecollapse.trackers.protocol import Tracker

logger = logging.getLogger(__name__)
SECONDS = 1.0
"""Between two looks at a run that trains."""
_READING = ("entropy", "on_off", "prediction_confidence", "target_entropy", "grad_norm", "sparsity")
_LAYER = ("entropy", "on_off", "energy", "dead")
_BINS = 64
_ENDED = ("complete", "diverged", "failed", "interrupted")


def follow(run: Path, tracker: Tracker, *, until: Callable[[], bool] | None = None, seconds: float = SECONDS) -> str:
    """Tell a tracker everything that a run has recorded, and then, if asked, all that it records until it ends.

    Args:
        run: run directory.
        tracker: who is told; closed at the end.
        until: follows the run until it says that it ended, or this is true; ``None``: what is there now, and no more.
        seconds: between two looks.

    Returns:
        What the tracker says about how to look at it.

    Raises:
        FileNotFoundError: if there is no run.
    """
    tail = Tail(run / "run.db")
    while True:
        last = until is None or _ended(run) or until()  # before the look, so that none is too few
        try:
            _tell(tail.read(), tracker)
        except RunStoreError:  # locked for a moment, or its disk is full: the next look tells
            if last:
                raise
        if last:
            break
        time.sleep(seconds)
    with RunStore(run / "run.db") as store:
        facts = store.meta()
    summary, checkpoints = facts.get("summary"), facts.get("checkpoints")
    steps = [step for step in checkpoints if type(step) is int] if isinstance(checkpoints, list) else []
    if steps:  # else there is nothing to load torch for
        _weights(run, tracker)
        _pictures(run, max(steps), tracker)
    return tracker.finish(summary if isinstance(summary, dict) else {})


def _ended(run: Path) -> bool:
    """Whether a run has said that it ended, or was killed before it could."""
    with RunStore(run / "run.db") as store:
        facts = store.meta()
    return facts.get("status") in _ENDED or heartbeat.gone(facts.get("heartbeat")) is not None


def _tell(news: NewRecords, tracker: Tracker) -> None:
    if news.back is not None:
        tracker.back(news.back)
    points = [
        (point.step, {point.name if point.layer is None else f"{point.name}/{point.layer}": point.value})
        for point in news.measurements
    ]
    points += [(step, _numbers(event)) for step, event in news.events if isinstance(event, Reading)]
    for step, parts in groupby(sorted(points, key=lambda part: part[0]), key=lambda part: part[0]):
        tracker.scalars(step, {tag: value for _, values in parts for tag, value in values.items()})
    for step, event in news.events:
        told = _words(event)
        if told is not None:
            tracker.text(step, *told)
    for step, name, values in news.arrays:
        _array(step, name, values, tracker)


def _numbers(event: Reading) -> dict[str, float]:
    """Every number of a reading, by the name of its series."""
    found = {f"reading/{key}": getattr(event, key) for key in _READING}
    found |= {f"layer_{key}/{layer.layer}": getattr(layer, key) for layer in event.layers for key in _LAYER}
    return {tag: value for tag, value in found.items() if value is not None}


def _words(event: Event) -> tuple[str, str] | None:
    """Title and text of an event that a person wants to read."""
    if isinstance(event, Intervention):
        change = f"sparsity {event.sparsity_before:.4f} → {event.sparsity_after:.4f}"
        return f"intervention/{event.kind}", f"{event.reason} ({change})"
    if isinstance(event, Request):
        return f"request/{event.kind}", f"{event.status}: {event.reason}"
    if isinstance(event, Alarm):
        return f"alarm/{event.detector}", f"{event.forecast}: {event.reason}"
    return None


def _array(step: int, name: str, values: NDArray[Any], tracker: Tracker) -> None:
    """What ``inspect`` recorded: histograms, and a confusion matrix."""
    if name.startswith("histogram/") and values.ndim == 2 and len(values) == 3:
        tracker.histogram(step, name.removeprefix("histogram/"), values[0], values[1, :-1])
    elif name.startswith("confusion/") and values.ndim == 2:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "matrix.png"
            if _draw(values, path):
                tracker.picture(step, name, path)


def _draw(matrix: NDArray[Any], path: Path) -> bool:
    """Draw a recorded confusion matrix, where the extra for plots is installed."""
    try:
        from surgecollapse.report.classification import confusion_figure
        from surgecollapse.report.style import save_png
    except ModuleNotFoundError:
        return False
    save_png(confusion_figure(matrix, [str(k) for k in range(len(matrix))]), path)
    return True


def _weights(run: Path, tracker: Tracker) -> None:
    """Histograms of the weights at every checkpoint that is there."""
    from surgecollapse.lab.training.checkpoint import CheckpointError, load_checkpoint, step_checkpoints

    for path in reversed(step_checkpoints(run / "checkpoints")):
        try:
            state: Mapping[str, Any] = load_checkpoint(path)
        except CheckpointError as error:
            logger.warning("left out: %s", error)
            continue
        for name, value in state["model"].items():
            if value.is_floating_point() and value.numel() > 1:
                finite = value.float().numpy().ravel()
                counts, edges = np.histogram(finite[np.isfinite(finite)], bins=_BINS)
                tracker.histogram(state["step"], f"weights/{name}", edges, counts)


def _pictures(run: Path, step: int, tracker: Tracker) -> None:
    """The plots of the run's report; drawn now where it has none and they can be drawn."""
    pictures = sorted((run / "report").glob("*.png"))
    with tempfile.TemporaryDirectory() as folder:
        if not pictures:
            from surgecollapse.report import write_report

            try:
                write_report([run], Path(folder))
            except ModuleNotFoundError:  # without the extra for plots there are none
                return
            pictures = sorted(Path(folder).glob("*.png"))
        for picture in pictures:
            tracker.picture(step, f"report/{picture.stem}", picture)
