"""The time that a policy lives in: that of the run, until a person makes it go slower or faster."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyClock:
    """Which step the policy is told at a step of the run, from when its pace was last set.

    At the pace f the time after that is v(t) = v₀ + ⌊f·(t − t₀)⌋. Where the schedule's last step e is known, v is at
    least e − (T − t). So a slow schedule still ends with the run, at step T.

    >>> clock = PolicyClock(step=20, time=20, factor=0.5)
    >>> [clock.at(step, last=75, total=100) for step in (20, 21, 22, 60, 70, 71, 100)]
    [20, 20, 21, 40, 45, 46, 75]
    >>> clock.ends(last=75, total=100), PolicyClock(step=20, time=20, factor=2.0).ends(last=75, total=100)
    (100, 48)
    """

    step: int = 0
    """Steps of the run that were completed when the pace was set."""
    time: int = 0
    """The policy's step then."""
    factor: float = 1.0

    @property
    def is_real(self) -> bool:
        """Whether it is the time of the run."""
        return self.factor == 1.0 and self.time == self.step

    def at(self, step: int, last: int | None, total: int | None) -> int:
        """The policy's step at a step of the run, not before the pace was set.

        Args:
            step: of the run.
            last: the policy's step after which its mask is final, where that is known.
            total: steps of the run.
        """
        if self.is_real or (total is not None and step > total):
            return step
        found = self.time + math.floor(self.factor * max(0, step - self.step) + 1e-9)
        return found if last is None or total is None else max(found, last - (total - step))

    def ends(self, last: int, total: int) -> int:
        """The step of the run at which the policy's last step comes."""
        return min(total, self.step + math.ceil(max(0, last - self.time) / self.factor - 1e-9))

    def state_dict(self) -> list[Any]:
        """In plain values."""
        return [self.step, self.time, self.factor]
