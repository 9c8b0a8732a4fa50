"""The cart with a pole on it, many at a time."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_GRAVITY, _CART, _POLE, _HALF, _FORCE, _SECONDS = 9.8, 1.0, 0.1, 0.5, 10.0, 0.02
_FAR, _TILTED = 2.4, math.radians(12)


class CartPole:
    """``count`` carts, each pushed to the left (0) or to the right (1) to keep its pole up.

    The equations of Barto, Sutton and Anderson (1983), with constants, limits, start and reward as in CartPole-v1 of
    Gymnasium: 1 for every step, an end beyond 2.4 m or 12°, and a cut after 500 steps.

    Args:
        count: carts.
        generator: of the first states.
        longest: steps after which an episode is cut.

    Raises:
        ValueError: if a count is not positive.

    >>> carts = CartPole(2, torch.Generator().manual_seed(0))
    >>> states, ended, cut = carts.step(torch.tensor([0, 1]))
    >>> tuple(states.shape), ended.tolist(), bool(states[0, 1] < states[1, 1])
    ((2, 4), [False, False], True)
    """

    def __init__(self, count: int, generator: torch.Generator, longest: int = 500) -> None:
        if count < 1 or longest < 1:
            raise ValueError(f"expected at least one cart and one step, got {count} and {longest}")
        self._draws, self._longest = generator, longest
        self.states = torch.zeros(count, 4, dtype=torch.float64)
        """Place, speed, angle from upright, angular speed: ``(count, 4)``, float64."""
        self.ages = torch.zeros(count, dtype=torch.long)
        self.reset(torch.ones(count, dtype=torch.bool))

    def reset(self, which: Tensor) -> None:
        """Begin new episodes for the carts of a mask: all four values uniform on [−0.05, 0.05]."""
        fresh = torch.rand(self.states.shape, generator=self._draws, dtype=torch.float64) * 0.1 - 0.05
        self.states = torch.where(which[:, None], fresh, self.states)
        self.ages = torch.where(which, 0, self.ages)

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Push every cart once.

        Args:
            actions: 0 or 1 ``(count,)``.

        Returns:
            The states after it; which poles fell or carts left; which episodes were cut for their length and did not
            end. Begin them anew with :meth:`reset`.
        """
        self.states = pushed(self.states, actions)
        self.ages = self.ages + 1
        ended = (self.states[:, 0].abs() > _FAR) | (self.states[:, 2].abs() > _TILTED)
        return self.states, ended, (self.ages >= self._longest) & ~ended


def pushed(states: Tensor, actions: Tensor) -> Tensor:
    """States one step of 0.02 s later, by Euler's rule: places move with the old speeds.

    >>> after = pushed(torch.zeros(1, 4, dtype=torch.float64), torch.tensor([1]))
    >>> [round(value, 6) for value in after[0].tolist()]
    [0.0, 0.195122, 0.0, -0.292683]
    """
    place, speed, angle, spin = states.unbind(1)
    total, moment = _CART + _POLE, _POLE * _HALF
    force = _FORCE * (2 * actions - 1)
    pull = (force + moment * spin**2 * angle.sin()) / total
    turn = (_GRAVITY * angle.sin() - angle.cos() * pull) / (_HALF * (4 / 3 - _POLE * angle.cos() ** 2 / total))
    push = pull - moment * turn * angle.cos() / total
    return torch.stack(
        [place + _SECONDS * speed, speed + _SECONDS * push, angle + _SECONDS * spin, spin + _SECONDS * turn], 1
    )
