"""What agents learn on: many copies of one environment, stepped at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor


class Environment(ABC):
    """``count`` copies of an environment with a few actions, whose episodes are cut after ``longest`` steps.

    Args:
        count: copies.
        generator: of the first states.
        longest: steps after which an episode is cut.

    Raises:
        ValueError: if a count is not positive.
    """

    observed: ClassVar[int]
    """Numbers of an observation."""
    actions: ClassVar[int]
    """Number of actions."""
    inside: ClassVar[int] = 4
    """Numbers of a state."""

    def __init__(self, count: int, generator: torch.Generator, longest: int = 500) -> None:
        if count < 1 or longest < 1:
            raise ValueError(f"expected at least one copy and one step, got {count} and {longest}")
        self._draws, self._longest = generator, longest
        self.states = torch.zeros(count, self.inside, dtype=torch.float64)
        """What the equations move: ``(count, inside)``, float64."""
        self.ages = torch.zeros(count, dtype=torch.long)
        self.reset(torch.ones(count, dtype=torch.bool))

    @property
    @abstractmethod
    def observations(self) -> Tensor:
        """What the agent sees of the states: ``(count, observed)``, float64."""

    @abstractmethod
    def _first(self, which: Tensor) -> Tensor:
        """States like :attr:`states`, in which the copies of a mask begin; those of the others are not looked at."""

    def _uniform(self) -> Tensor:
        """Fresh values on [0, 1) in the shape of the states."""
        return torch.rand(self.states.shape, generator=self._draws, dtype=torch.float64)

    @abstractmethod
    def _moved(self, actions: Tensor) -> Tensor:
        """The states after one step."""

    @abstractmethod
    def _judged(self) -> tuple[Tensor, Tensor]:
        """Rewards for coming into the states, and which of them end an episode."""

    def reset(self, which: Tensor) -> None:
        """Begin new episodes for the copies of a mask."""
        self.states = torch.where(which[:, None], self._first(which), self.states)
        self.ages = torch.where(which, 0, self.ages)

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Act once in every copy.

        Args:
            actions: numbers below ``actions`` ``(count,)``.

        Returns:
            Rewards; which episodes ended; which were cut for their length and did not end. The states after it stay
            in place: begin new episodes with :meth:`reset`.
        """
        self.states = self._moved(actions)
        self.ages = self.ages + 1
        rewards, ended = self._judged()
        return rewards, ended, (self.ages >= self._longest) & ~ended
