"""The budget keeper: how often the passive monitors may run, so that they cost at most a share of the training time.

Host numbers only. Readings that decide anything are none of its business: their cadence is fixed.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from statistics import median, median_low
from typing import Any

_STEPS, _EVENTS = 101, 5
RESERVE = 0.25
"""Share of the budget that is not spent: what events leave cold in the caches costs the steps that follow, and of few
events the costliest are not known yet."""
PAUSE = 3.0
"""Times the median step beyond which the time between two steps is no training: an evaluation, a save, a sleep."""
GUESS = 0.002, 0.15
"""What a part of an event is thought to cost before it was timed: seconds, and training steps. The ten default monitors
took 20 ms and 1.2 to 1.5 steps at their first event in all, on nets from a few hundred to 25 M parameters."""
MOST = 10.0
"""Times what was expected that an event is charged at most: the rest was not its own (a machine put to sleep)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetReport:
    """What the keeper measured and did."""

    limit: float | None
    """Most that the monitors may take of the training time; ``None``: they run at the cadence asked for."""
    share: float
    """What they took, over the whole time watched: their seconds over those of the steps."""
    asked: int
    """Steps between two events, as asked for."""
    every: int
    """Steps between two events, as kept."""
    turns: int
    """In so many parts the rotating monitors go through the layers, one part an event."""
    step_seconds: float | None
    """Median time of a training step without the monitors; ``None`` before two steps."""
    seconds: Mapping[str, float]
    """Seconds of an event by monitor (lower median of the last few), rotating ones over all layers."""


class BudgetKeeper:
    """Spends on passive monitors what training has earned for them: at no event more than that.

    With t the seconds of a step and L three quarters of ``limit``, every step earns L·t. An event is due after
    max(asked, c/(L·t)) steps, c being its cost. It happens once what it is expected to cost has been earned. Part by
    part that is the costliest but one of its last five, as the costliest may have been disturbed. It is a guess where
    none is known yet. So the cost of all events stays below ``limit`` of the training time from the first one on. This
    holds as long as none costs much more than was expected. One that does is paid back before the next. What lies
    between two steps and takes more than three times the median step (an evaluation, a save) is not training. It earns
    what one median step does.

    Where c/(L·t) is more than was asked for, monitors that rotate first do one n-th of the layers an event. There n =
    ⌈c/(L·t·asked)⌉, at most the number of layers. The cadence does the rest. Both times are medians of its own
    measurements, so that a disturbance of one step or one event moves neither. Of few events it is the lower median,
    since what disturbs only adds.

    Args:
        every: steps between two events, as asked for.
        limit: most of the training time, in (0, 1); ``None`` keeps the cadence whatever it costs.

    Raises:
        ValueError: if ``every`` or ``limit`` is out of range.

    >>> keeper = BudgetKeeper(every=10, limit=0.02)
    >>> for _ in range(10):
    ...     keeper.step_took(0.010)
    >>> keeper.wait({"norms": 0.3})  # 5 ms may be needed, 1.5 ms are earned, .15 ms more a step
    24
    >>> keeper.event_took({"norms": 0.004})  # 4 ms a hundred ms: more than twice the budget
    >>> keeper.every
    27
    """

    def __init__(self, every: int, limit: float | None = 0.02) -> None:
        if every < 1:
            raise ValueError(f"every must be at least 1, got {every}")
        if limit is not None and not 0.0 < limit < 1.0:
            raise ValueError(
                f"the monitors' budget must lie in (0, 1), a share of the step time, or be None: got {limit}"
            )
        self.asked, self.limit = every, limit
        self.every, self.turns = every, 1
        self._steps: deque[float] = deque(maxlen=_STEPS)
        self._costs: dict[str, deque[float]] = {}
        self._frequency: dict[str, float] = {}
        self._rotating: set[str] = set()
        self._layers = 1
        self._training = self._own = self._charged = 0.0

    def step_took(self, seconds: float, own: float = 0.0) -> None:
        """Take the time of one training step, and what the keeper's own hook added to it."""
        usual = median(self._steps) if self._steps else seconds
        self._steps.append(seconds)
        self._training += seconds if seconds <= PAUSE * usual else usual
        self._own += own
        self._charged += own

    def wait(self, parts: Mapping[str, float]) -> int:
        """Training steps until an event is earned; 0: now.

        Args:
            parts: what it consists of, and for each the training steps that it is thought to take, where that is not
                known yet.
        """
        if self.limit is None:
            return 0
        if not self._steps:
            return 1
        earned = (1 - RESERVE) * self.limit
        lack = sum(self._expected(name, guess) for name, guess in parts.items()) + self._charged
        lack -= earned * self._training
        a_step = earned * median(self._steps)
        return max(1, math.ceil(lack / a_step - 1e-9)) if lack > 0.0 < a_step else int(lack > 0.0)

    def _expected(self, name: str, guess: float) -> float:
        """Seconds that a part may take at the next event."""
        if name not in self._costs:
            return GUESS[0] + guess * (median(self._steps) if self._steps else 0.0)
        second_most = sorted(self._costs[name])[-2:][0]
        return second_most / (self.turns if name in self._rotating else 1)

    def event_took(
        self,
        seconds: Mapping[str, float],
        *,
        rotating: Collection[str] = (),
        layers: int = 1,
        periods: Mapping[str, int] | None = None,
    ) -> None:
        """Take the times of one event, and settle when the next one comes.

        Args:
            seconds: by part of the event.
            rotating: the parts that did one n-th of the layers, n being :attr:`turns`.
            layers: most parts into which the layers can be divided.
            periods: events between two turns of a part; 1 where it is not named.
        """
        self._own += sum(seconds.values())
        self._charged += sum(min(spent, MOST * self._expected(name, GUESS[1])) for name, spent in seconds.items())
        for name, spent in seconds.items():
            whole = spent * self.turns if name in rotating else spent
            self._costs.setdefault(name, deque(maxlen=_EVENTS)).append(whole)
            self._frequency[name] = 1.0 / (periods or {}).get(name, 1)
        self._rotating, self._layers = set(rotating), layers
        self._settle()

    def ask(self, every: int) -> None:
        """Ask for another cadence.

        Raises:
            ValueError: if it is below 1.
        """
        if every < 1:
            raise ValueError(f"every must be at least 1, got {every}")
        self.asked = every
        self._settle()

    def _settle(self) -> None:
        self.every, self.turns = self.asked, 1
        if self.limit is None or not self._steps:
            return
        allowed = (1 - RESERVE) * self.limit * median(self._steps)
        cost = {name: median_low(costs) * self._frequency[name] for name, costs in self._costs.items()}
        if allowed <= 0.0:
            return
        if any(name in self._rotating for name in cost):
            self.turns = max(1, min(self._layers, math.ceil(sum(cost.values()) / (allowed * self.asked) - 1e-9)))
        event = sum(spent / self.turns if name in self._rotating else spent for name, spent in cost.items())
        self.every = max(self.asked, math.ceil(event / allowed - 1e-9))

    def report(self) -> BudgetReport:
        """Say what was measured and done."""
        return BudgetReport(
            limit=self.limit,
            share=self._own / self._training if self._training else 0.0,
            asked=self.asked,
            every=self.every,
            turns=self.turns,
            step_seconds=median(self._steps) if self._steps else None,
            seconds={name: median_low(costs) for name, costs in self._costs.items()},
        )

    def state_dict(self) -> dict[str, Any]:
        """The cadence, and all that was measured, so that what is known need not be guessed again."""
        return {
            "asked": self.asked,
            "every": self.every,
            "turns": self.turns,
            "steps": list(self._steps),
            "costs": {name: list(costs) for name, costs in self._costs.items()},
            "frequency": dict(self._frequency),
            "rotating": sorted(self._rotating),
            "layers": self._layers,
            "totals": [self._training, self._own, self._charged],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned; of older checkpoints the cadence alone."""
        self.asked, self.every, self.turns = state["asked"], state["every"], state["turns"]
        self._steps = deque(state.get("steps", ()), maxlen=_STEPS)
        self._costs = {name: deque(costs, maxlen=_EVENTS) for name, costs in state.get("costs", {}).items()}
        self._frequency = dict.fromkeys(self._costs, 1.0) | state.get("frequency", {})
        self._rotating, self._layers = set(state.get("rotating", ())), state.get("layers", 1)
        self._training, self._own, self._charged = state.get("totals", (0.0, 0.0, 0.0))
