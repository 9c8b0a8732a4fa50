"""The cart with a pole on it, many at a time."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from surgecollapse.lab.reinforcement.environment import Environment

_GRAVITY, _CART, _POLE, _HALF, _FORCE, _SECONDS = 9.8, 1.0, 0.1, 0.5, 10.0, 0.02
_FAR, _TILTED = 2.4, math.radians(12)


class CartPole(Environment):
    """Carts, each pushed to the left (0) or to the right (1) to keep its pole up.

    The equations of Barto, Sutton and Anderson (1983), with constants, limits, start and reward as in CartPole-v1 of
    Gymnasium: 1 for every step, an end beyond 2.4 m or 12°, and a cut after 500 steps. A state is the place, the speed,
    the angle from upright and the angular speed. All four are observed, and are uniform on [−0.05, 0.05] at the start.

    >>> carts = CartPole(2, torch.Generator().manual_seed(0))
    >>> rewards, ended, cut = carts.step(torch.tensor([0, 1]))
    >>> rewards.tolist(), ended.tolist(), bool(carts.states[0, 1] < carts.states[1, 1])
    ([1.0, 1.0], [False, False], True)
    """

    observed, actions = 4, 2

    @property
    def observations(self) -> Tensor:
        """The states."""
        return self.states

    def _first(self, which: Tensor) -> Tensor:  # noqa: ARG002
        return self._uniform() * 0.1 - 0.05

    def _moved(self, actions: Tensor) -> Tensor:
        return pushed(self.states, actions)

    def _judged(self) -> tuple[Tensor, Tensor]:
        ended = (self.states[:, 0].abs() > _FAR) | (self.states[:, 2].abs() > _TILTED)
        return torch.ones(len(ended)), ended


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
