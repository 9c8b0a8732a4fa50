"""Where the events of a run go while it trains."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from surgecollapse.controller.rules import Rule, RuleWatch
from surgecollapse.events import Measurement
from surgecollapse.lab.training.forecasts import GrokkingForecast
from surgecollapse.training_status import REMEMBERED, StatusReader

if TYPE_CHECKING:
    from collections.abc import Callable

    from surgecollapse.events import Alarm, Event
    from surgecollapse.lab.config import RunConfig
    from surgecollapse.lab.training.progress import Progress
    from surgecollapse.record import RunStore


DIVERGED = Rule("loss is not finite for 3 readings", "stop")
"""By which a run has diverged."""


class EventSink:
    """Takes every event of a run: the store keeps it, the state of training follows from it, the detectors hear it.

    It is made before the store, which is made only once everything else is in order.

    Args:
        config: the run.
        progress: who is shown alarms.
        follow: does what a rule says.
        classes: of the task, if its loss is a cross-entropy; for the forecast.

    Attributes:
        forecast: the detectors, if the run has any.
        rules: the rules of the run, and that by which it has diverged.
    """

    def __init__(
        self, config: RunConfig, progress: Progress, follow: Callable[[Rule], None], classes: int | None = None
    ) -> None:
        self._every, self._progress = config.method.every, progress
        self._store: RunStore | None = None
        self.state = StatusReader(config.method.every)
        forecast = config.run.forecast
        self.forecast = None if forecast == "none" else GrokkingForecast(forecast, self._alarm, classes)
        diverged = [DIVERGED] if config.run.stop_when_diverged else []
        self.rules = RuleWatch([*diverged, *(part.rule() for part in config.run.rules)], self._follow)
        self._do = follow

    @property
    def store(self) -> RunStore:
        """The record, between :meth:`open` and :meth:`close`."""
        if self._store is None:
            raise RuntimeError("no store: use `with training.recorded(store)`")
        return self._store

    def open(self, store: RunStore) -> None:
        """Keep events in ``store`` from now on."""
        self._store = store
        self.recall()

    def close(self) -> None:
        """Keep nothing more."""
        self._store = None

    def record(self, event: Event) -> None:
        """Take an event."""
        self.store.record(event)
        self.state.take(event)
        if self.forecast is not None and isinstance(event, Measurement):
            self.forecast.take(event)
        self.rules.take(event)

    def recall(self) -> None:
        """Judge the state by what the record has, after a resume or a roll-back."""
        self.state, store = StatusReader(self._every), self.store
        known: list[Any] = [*store.readings()[-REMEMBERED:], *store.interventions(), *store.alarms()]
        for event in sorted(known, key=lambda event: event.step):
            self.state.take(event)

    def _follow(self, rule: Rule, alarm: Alarm) -> None:
        self.store.record(alarm)
        self.state.take(alarm)
        self._progress.note(f"step {alarm.step}: {alarm.detector}: {rule.do} ({alarm.reason})")
        self._do(rule)

    def _alarm(self, alarm: Alarm) -> None:
        self.store.record(alarm)
        self.state.take(alarm)
        self._progress.note(f"step {alarm.step}: {alarm.detector}: {alarm.forecast} ({alarm.reason})")
