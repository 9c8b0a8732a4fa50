"""Learning rates that a person changes while a schedule goes on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch.optim import Optimizer

if TYPE_CHECKING:
    from surgecollapse import commands as ask


class LiveRates:
    """The rate of every group: the scheduled one, or the held one, times a factor of its own.

    They hold for each step alone: schedulers see nothing of them.

    Args:
        optimizers: whose groups they are, in the order in which they step.
        where: says how many steps are completed, and of how many.

    Raises:
        ValueError: from every method, with the reason why it cannot be done.
    """

    def __init__(self, optimizers: Sequence[Optimizer], where: Callable[[], tuple[int, int]]) -> None:
        self._optimizers, self._where = optimizers, where
        self._factors: dict[int, float] = {}
        self._held: list[float] | None = None
        self._shape: tuple[str, int, int] | None = None

    @property
    def changed(self) -> bool:
        """Whether any group's rate is another than the scheduled one."""
        return bool(self._factors) or self._held is not None

    def of_step(self, scheduled: Sequence[float]) -> list[float]:
        """The rate of every group for one step, from those that the schedule gives."""
        base = scheduled if self._held is None else self._falling(self._held)
        return [rate * self._factors.get(number, 1.0) for number, rate in enumerate(base)]

    def _falling(self, peaks: Sequence[float]) -> list[float]:
        """The rates of the schedule that a person chose, which falls from these."""
        if self._shape is None:
            return list(peaks)
        shape, start, steps = self._shape
        progress = min(1.0, max(0.0, (self._where()[0] - start) / steps))
        left = 1.0 - progress if shape == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))
        return [peak * left for peak in peaks]

    def replace(self, command: ask.ReplaceSchedule) -> str:
        """Follow another schedule, which begins at the present rates."""
        step, total = self._where()
        steps = total - step if command.steps is None else command.steps
        if steps < 1 and command.shape != "constant":
            raise ValueError("no steps are left: give steps, until the rate is 0")
        scheduled = [float(group["lr"]) for group in self._groups()]
        self._held = scheduled if self._held is None else self._falling(self._held)
        self._shape = None if command.shape == "constant" else (command.shape, step, steps)
        end = "" if self._shape is None else f" to 0 in {steps} steps"
        return f"{command.shape} schedule from {shown(self._held)}{end}"

    def hold(self) -> str:
        """Keep the rates that the schedule gives now."""
        if self._held is not None and self._shape is None:
            raise ValueError("the schedule is held already")
        if self._held is not None:
            self._held, self._shape = self._falling(self._held), None
            return f"learning rate held at {shown(self._held)}"
        self._held = [float(group["lr"]) for group in self._groups()]
        return f"learning rate held at {shown(self._held)}"

    def release(self) -> str:
        """Follow the schedule again."""
        if self._held is None:
            raise ValueError("the schedule is not held")
        self._held = self._shape = None
        return "the learning rate follows the schedule again"

    def set(self, value: Any, chosen: Iterable[int]) -> str:
        """Bring the rates of some groups to a value; the schedule goes on from there."""
        if isinstance(value, tuple) or value < 0:
            raise ValueError(f"lr must be a number of at least 0, got {value}")
        now = [float(group["lr"]) for group in self._groups()] if self._held is None else self._falling(self._held)
        if flat := [number for number in chosen if not now[number]]:
            raise ValueError(f"the scheduled rate of group {flat[0]} is 0: hold or release the schedule first")
        for number in chosen:
            self._factors[number] = value / now[number]
        return f"lr {value:g}; the schedule goes on from there"

    def _groups(self) -> list[dict[str, Any]]:
        return [group for optimizer in self._optimizers for group in optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """What differs from the schedule."""
        return {
            "factors": {str(number): factor for number, factor in self._factors.items()},
            "held": None if self._held is None else list(self._held),
            "schedule": None if self._shape is None else list(self._shape),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what :meth:`state_dict` returned."""
        self._factors = {int(number): factor for number, factor in state.get("factors", {}).items()}
        held, shape = state.get("held"), state.get("schedule")
        self._held = None if held is None else list(held)
        self._shape = None if shape is None else (str(shape[0]), int(shape[1]), int(shape[2]))


def shown(values: Sequence[float]) -> str:
    """The different ones of some numbers, in a line."""
    return ", ".join(f"{value:g}" for value in dict.fromkeys(values))
