"""When a phase of the cycles ends: by entropy, at random times, or at fixed ones."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Literal, get_args

from surgecollapse.errors import one_of
from surgecollapse.policies import validation
from surgecollapse.policies.schedule import to_step
from surgecollapse.policies.signals import Signals

Timing = Literal["entropy", "random", "fixed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseTiming:
    """Says whether the present phase ends; all lengths are fractions of the run.

    ``entropy``: never before ``shortest``, always at ``longest``. In between, an open phase ends at a plateau or high
    entropy, a sparse one under the floor. Both end at the nominal length unless entropy speaks against it. ``random``:
    after a length drawn uniformly from [shortest, longest], whatever entropy does. It is a function of the run's seed
    and of the step at which the phase began. ``fixed``: after the nominal length. The last two are the ablations of the
    first.

    Args:
        shortest: least length, in (0, nominal].
        nominal: usual length.
        longest: greatest length, in [nominal, 1].
        timing: ``entropy | random | fixed``.

    Raises:
        ValueError: if an option is out of range or the lengths do not ascend.

    >>> timing = PhaseTiming(shortest=0.025, nominal=0.05, longest=0.1, timing="fixed")
    >>> timing.ends("open", 100.0, 149, 1000, Signals()), timing.ends("open", 100.0, 150, 1000, Signals())
    ((False, 'open phase goes on: 49 steps of nominally 50'), (True, 'open phase reached its nominal 50 steps'))
    """

    shortest: float
    nominal: float
    longest: float
    timing: Timing

    def __post_init__(self) -> None:
        validation.fraction("shortest", self.shortest, zero=False)
        validation.fraction("longest", self.longest, zero=False)
        one_of("timing", self.timing, get_args(Timing))
        if not self.shortest <= self.nominal <= self.longest:
            raise ValueError(
                f"expected shortest <= phase <= longest, got {self.shortest!r}, {self.nominal!r}, {self.longest!r}"
            )

    def shortest_steps(self, total: int) -> int:
        """Least length of a phase, in whole steps, of a run of ``total``."""
        return max(1, to_step((self.nominal if self.timing == "fixed" else self.shortest) * total))

    def ends(
        self, phase: str, since: float, step: int, total: int, signals: Signals, *, seed: int = 0
    ) -> tuple[bool, str]:
        """Whether the phase ends at ``step``, and why or why not.

        Args:
            phase: ``sparse`` or ``open``.
            since: position at which it began, before rounding where that was a boundary of the schedule.
            step: now.
            total: steps of the run.
            signals: what the last reading says.
            seed: of the run.
        """

        def reached(length: float) -> bool:
            return step >= to_step(since + length * total)

        lasted, nominal = step - to_step(since), to_step(self.nominal * total)
        if self.timing == "random":
            length = Random(f"{seed} {to_step(since)}").uniform(self.shortest, self.longest)
            drawn = f"{lasted} steps of {to_step(length * total)} drawn at random"
            return reached(length), f"{phase} phase {'ends' if reached(length) else 'goes on'}: {drawn}"
        if self.timing == "entropy":
            if reached(self.longest):
                return True, f"{phase} phase reached its longest after {lasted} steps"
            low = f"low entropy: {signals.low}" if signals.low is not None else None
            early = low if phase == "sparse" else signals.high or signals.plateau
            if early is not None and reached(self.shortest):
                return True, f"{early} after {lasted} steps of the {phase} phase"
        if not reached(self.nominal):
            return False, f"{phase} phase goes on: {lasted} steps of nominally {nominal}"
        late = signals.rising if phase == "sparse" else signals.low
        if self.timing == "entropy" and late is not None:
            return False, f"{phase} phase goes on past its nominal {nominal} steps: {late}"
        return True, f"{phase} phase reached its nominal {nominal} steps"
