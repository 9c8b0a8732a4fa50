"""The state of training in one word and why, from what was recorded: one definition for the page and the terminal."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

from surgecollapse.events import Alarm, Decision, Event, Intervention, Measurement, Reading
from surgecollapse.policies.trend import Trend

STATES = {
    "alarm": "a gradient, an activation or the loss is not finite, or a detector spoke within the last readings",
    "pump": "the inputs get noise, as entropy was low",
    "collapse": "weights were closed within the last readings",
    "surge": "weights were reopened within the last readings",
    "plateau": "entropy stands still",
    "stable": "none of these",
}
"""What a state means; the first that holds is shown."""
SETTLING = 3
"""Readings after which a collapse or a surge is over."""
ALARMED = 5
"""Readings for which what a detector said is the state."""
REMEMBERED = 60
"""Readings that are judged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingStatus:
    """The state of training."""

    name: str
    """A key of :data:`STATES`."""
    why: str
    """In words, with the numbers."""


class StatusReader:
    """Takes the events of a run in their order, and says in which state training is.

    A plateau is what :class:`~surgecollapse.policies.trend.Trend` calls one: the moving average of entropy changes by
    less than 1e-3 per 10 readings. It is taken over the readings since weights were last closed or reopened. A net
    whose mask is final is stable from then on, also just after the collapse that made it final: nothing is waited for.

    >>> reader = StatusReader(every=50)
    >>> reader.take(Reading(step=50, entropy=0.5))
    >>> reader.state
    TrainingStatus(name='stable', why='nothing was done yet')
    >>> reader.take(Intervention(step=50, kind="collapse", phase="sparse", reason="high entropy",
    ...                          sparsity_before=0.0, sparsity_after=0.9))
    >>> reader.state.name, reader.state.why, reader.next_step
    ('collapse', 'step 50: high entropy', 100)
    """

    def __init__(self, every: int | None = None) -> None:
        self._every = every
        self._readings: deque[Reading] = deque(maxlen=REMEMBERED)
        self._act: Intervention | None = None
        self._pump: Intervention | None = None
        self._freeze: Intervention | None = None
        self._alarm: Alarm | None = None
        self._decision: Decision | None = None
        self._unsound: int | None = None

    def take(self, event: Event) -> None:
        """Learn of an event."""
        if isinstance(event, Reading):
            self._readings.append(event)
        elif isinstance(event, Decision):
            self._decision = event
        elif isinstance(event, Alarm):
            self._alarm = event
        elif isinstance(event, Measurement) and event.name == "loss/train":
            self._unsound = None if math.isfinite(event.value) else event.step
        elif isinstance(event, Intervention):
            self._take_act(event)

    def _take_act(self, event: Intervention) -> None:
        if event.kind in ("collapse", "surge"):
            self._act = event
        elif event.kind == "pump":
            self._pump = event
        elif event.kind == "freeze":
            self._freeze = event

    @property
    def state(self) -> TrainingStatus:
        """The state now."""
        found = self._alarmed() or self._acted() or self._flat()
        return found or TrainingStatus(name="stable", why=self._calm())

    @property
    def next_step(self) -> int | None:
        """The first step at which the policy may act again; ``None`` where it never will, or nothing is known."""
        if self._freeze is not None or not self._readings:
            return None
        last = self._readings[-1].step
        if self._decision is not None and (self._decision.eligible or 0) > last:
            return self._decision.eligible
        return None if self._every is None else last + self._every

    def _since(self, step: int) -> int:
        """How many readings came after a step."""
        return sum(reading.step > step for reading in self._readings)

    def _alarmed(self) -> TrainingStatus | None:
        if self._unsound is not None:
            return TrainingStatus(name="alarm", why=f"step {self._unsound}: the training loss is not finite")
        last = self._readings[-1] if self._readings else None
        if last is not None and not last.finite:
            why = f"step {last.step}: a gradient, an activation or the loss is not finite"
            return TrainingStatus(name="alarm", why=why)
        if (alarm := self._alarm) is not None and self._since(alarm.step) < ALARMED:
            why = f"step {alarm.step}: {alarm.detector}: {alarm.forecast} ({alarm.reason})"
            return TrainingStatus(name="alarm", why=why)
        return None

    def _acted(self) -> TrainingStatus | None:
        noise_std = 0.0 if self._pump is None else self._pump.details.get("noise_std", 0.0)
        if (pump := self._pump) is not None and isinstance(noise_std, int | float) and noise_std > 0.0:
            return TrainingStatus(name="pump", why=f"step {pump.step}: {pump.reason}")
        final = self._freeze is not None and (self._act is None or self._freeze.step >= self._act.step)
        if (act := self._act) is not None and not final and self._since(act.step) < SETTLING:
            return TrainingStatus(name=act.kind, why=f"step {act.step}: {act.reason}")
        return None

    def _flat(self) -> TrainingStatus | None:
        if self._freeze is not None:
            return None
        trend, begun = Trend(), 0 if self._act is None else self._act.step
        for reading in self._readings:
            if reading.step > begun and reading.entropy is not None and math.isfinite(reading.entropy):
                trend.update(reading.entropy)
        return TrainingStatus(name="plateau", why=trend.words()) if trend.plateau else None

    def _calm(self) -> str:
        if self._freeze is not None:
            return f"the mask is final since step {self._freeze.step}"
        if self._act is not None:
            return f"{self._since(self._act.step)} readings since the {self._act.kind} at step {self._act.step}"
        return "nothing was done yet"
