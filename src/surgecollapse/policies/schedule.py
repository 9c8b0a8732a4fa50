"""The frame of a run in cycles: where its phases begin, in whole steps."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise


def to_step(position: float) -> int:
    """Round a position in the run to a step, halves up; 1e-6 absorbs the rounding of the product behind it.

    >>> to_step(2.5), to_step(0.15 * 1010), to_step(7.4)
    (3, 152, 7)
    """
    return math.floor(position + 0.5 + 1e-6)


@dataclass(frozen=True, slots=True, kw_only=True)
class Boundary:
    """Where a phase of the schedule begins."""

    position: float
    """In steps, before rounding."""
    step: int
    phase: str
    """``sparse | open | frozen``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CycleSchedule:
    """The boundaries of a run: dense, alternating phases, open, frozen.

    The last phase of the cycles takes what the division leaves over, so that it ends exactly at
    ``cycles_until``.
    """

    boundaries: tuple[Boundary, ...]

    @classmethod
    def of(
        cls, total_steps: int, *, dense_until: float, cycles_until: float, freeze_at: float, phase: float
    ) -> CycleSchedule:
        """Lay the fractions out over a run.

        Args:
            total_steps: length of the run.
            dense_until: fraction at which the first sparse phase begins.
            cycles_until: fraction from which the weights stay open.
            freeze_at: fraction at which the mask becomes final.
            phase: nominal length of a phase, as a fraction.

        Raises:
            ValueError: if two boundaries would fall on one step.

        >>> schedule = CycleSchedule.of(100, dense_until=0.1, cycles_until=0.25, freeze_at=0.4, phase=0.05)
        >>> [(boundary.step, boundary.phase) for boundary in schedule.boundaries]
        [(10, 'sparse'), (15, 'open'), (20, 'sparse'), (25, 'open'), (40, 'frozen')]
        """
        count = max(1, round((cycles_until - dense_until) / phase))
        marks = [(dense_until + i * phase, "open" if i % 2 else "sparse") for i in range(count)]
        marks += [(cycles_until, "open"), (freeze_at, "frozen")]
        boundaries = tuple(
            Boundary(position=at * total_steps, step=to_step(at * total_steps), phase=name) for at, name in marks
        )
        steps = [0, *(boundary.step for boundary in boundaries)]
        if any(later <= earlier for earlier, later in pairwise(steps)):
            gap = min(phase, freeze_at - cycles_until, dense_until)
            raise ValueError(
                f"total_steps={total_steps} is too short for phases of {phase:g} of the run: two boundaries "
                f"fall on one step; use at least about {math.ceil(1.0 / gap)} steps, or a longer phase"
            )
        return cls(boundaries=boundaries)

    @property
    def dense_end(self) -> int:
        """Step of the first collapse."""
        return self.boundaries[0].step

    @property
    def cycles_end(self) -> int:
        """Step from which the weights stay open."""
        return self.boundaries[-2].step

    @property
    def freeze(self) -> int:
        """Step at which the mask becomes final."""
        return self.boundaries[-1].step

    def at(self, step: int) -> Boundary | None:
        """The boundary of the phase that ``step`` is in; ``None`` in the dense start."""
        index = bisect_right(self.boundaries, step, key=lambda boundary: boundary.step)
        return self.boundaries[index - 1] if index else None

    def marks(self, step: int) -> bool:
        """Whether a phase begins exactly at ``step``."""
        boundary = self.at(step)
        return boundary is not None and boundary.step == step

    def position(self, step: int) -> float:
        """``step`` before rounding where it is a boundary: phases counted from it end on boundaries too."""
        boundary = self.at(step)
        return boundary.position if boundary is not None and boundary.step == step else float(step)
