"""A game of pixels: fruit to catch and stones to avoid, many games at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from surgecollapse.lab.reinforcement.environment import Environment

SIDE = 10
"""Rows and columns."""
_BASKET, _TURN, _LAST, _ROWS = 0, 1, 2, 3  # where a state has the basket, its steps, the last fruit's column, the rows
_LONGEST = 206


class Harvest(Environment):
    """A basket in the lowest row of 10 × 10 pixels catches fruit and keeps clear of stones.

    In every step the basket moves one column to the left (0), stays (1), or moves to the right (2). Walls stop it. All
    that falls comes down by one row. Then:

    - Steps 1, 5, 9, … of an episode put a fruit into the highest row. Steps 3, 7, 11, … put a stone there.
    - A fruit is at most three columns from the fruit before. That distance is uniform on −3 to 3, reflected at the
      walls, which leaves each column equally probable. The column of a stone is uniform.
    - A fruit that comes into the lowest row, in the column of the basket, earns 1. Missed fruit costs nothing.
    - A stone there ends the episode.

    Three channels of ones and zeros are observed: the basket, fruit and stones. All of a state can be seen in them, as
    nothing falls but straight down. Basket and first fruit start in any column.

    **Known returns.** An episode is cut after 206 steps, in which 50 fruits come down. They can all be caught: four
    steps reach three columns in at least two ways, of which a stone closes one. A rule that does not look, such as
    random actions, catches a fruit with probability 1/10, and meets a stone with 1/10. It earns 1 − 0.9⁵⁰ = 0.995.

    >>> games = Harvest(2, torch.Generator().manual_seed(0))
    >>> rewards, ended, cut = games.step(torch.tensor([0, 2]))
    >>> rewards.tolist(), ended.tolist(), tuple(games.observations.shape)
    ([0.0, 0.0], [False, False], (2, 300))
    >>> games.observations.view(2, 3, SIDE, SIDE).sum((2, 3)).tolist()  # a basket and a fruit
    [[1.0, 1.0, 0.0], [1.0, 1.0, 0.0]]
    """

    observed, actions, inside = 3 * SIDE * SIDE, 3, _ROWS + SIDE

    def __init__(self, count: int, generator: torch.Generator, longest: int = _LONGEST) -> None:
        super().__init__(count, generator, longest)

    @property
    def observations(self) -> Tensor:
        """Basket, fruit and stones, each of 10 × 10 pixels."""
        columns = torch.arange(SIDE)
        falling = self.states[:, _ROWS:, None] == columns
        fruit = falling & _is_fruit(self.states)[:, :, None]
        basket = torch.zeros_like(falling)
        basket[:, -1] = self.states[:, _BASKET, None] == columns
        return torch.stack([basket, fruit, falling & ~fruit], 1).flatten(1).double()

    def _first(self, which: Tensor) -> Tensor:  # noqa: ARG002
        states = torch.full_like(self.states, -1)
        states[:, : _TURN + 2] = (self._uniform()[:, : _TURN + 2] * SIDE).floor()
        states[:, _TURN] = 0
        return states

    def _moved(self, actions: Tensor) -> Tensor:
        draws = torch.rand(len(self.states), generator=self._draws, dtype=torch.float64)
        return dropped(self.states, actions, draws)

    def _judged(self) -> tuple[Tensor, Tensor]:
        met = self.states[:, -1] == self.states[:, _BASKET]
        fruit = _is_fruit(self.states)[:, -1]
        return (met & fruit).float(), met & ~fruit


def dropped(states: Tensor, actions: Tensor, draws: Tensor) -> Tensor:
    """States one step later.

    A state begins with the column of the basket, the steps of the episode, and the column of the last fruit. For each
    row, from the highest, follows the column of what falls there, or −1. The step at which it came tells fruit from
    stones.

    Args:
        states: ``(n, 13)``.
        actions: 0 to 2 ``(n,)``.
        draws: on [0, 1), of the column of what comes ``(n,)``.

    Returns:
        ``(n, 13)``.

    >>> start = torch.tensor([[4.0, 0.0, 8.0, *[-1.0] * 10]])
    >>> after = dropped(start, torch.tensor([2]), torch.tensor([0.99]))  # a fruit three columns on, off the wall
    >>> after[0, :5].tolist()
    [5.0, 1.0, 8.0, 8.0, -1.0]
    """
    basket = (states[:, _BASKET] + actions - 1).clamp(0, SIDE - 1)
    turn = states[:, _TURN] + 1
    last = states[:, _LAST]
    fruit = _reflected(last + (7 * draws).floor() - 3)
    place = turn.remainder(4)
    came = torch.where(place == 1, fruit, torch.where(place == 3, (SIDE * draws).floor(), -1.0))
    last = torch.where(place == 1, fruit, last)
    return torch.cat([torch.stack([basket, turn, last, came], 1), states[:, _ROWS:-1]], 1)


def _is_fruit(states: Tensor) -> Tensor:
    """Whether what is in each row came in a step of fruit ``(n, 10)``."""
    return (states[:, _TURN, None] - torch.arange(SIDE)).remainder(4) == 1


def _reflected(columns: Tensor) -> Tensor:
    """Columns mirrored at the walls: −1 becomes 0, −2 becomes 1, 10 becomes 9."""
    inside = torch.where(columns < 0, -1 - columns, columns)
    return torch.where(inside >= SIDE, 2 * SIDE - 1 - inside, inside)


def plan(observations: Tensor) -> Tensor:
    """Actions of a perfect rule, which misses no fruit and meets no stone.

    Rows are taken from the highest down. A column is safe if nothing forbids it, and if one within a step of it is safe
    in the row above. The basket goes to a safe column of the row that comes next.

    Args:
        observations: of :class:`Harvest` ``(n, 300)``.

    Returns:
        Actions ``(n,)``.

    >>> from surgecollapse.lab.reinforcement.returns import returns
    >>> returns(plan, episodes=3, seed=0, kind=Harvest).tolist()
    [50.0, 50.0, 50.0]
    """
    basket, fruit, stones = observations.view(-1, 3, SIDE, SIDE).bool().unbind(1)
    allowed = torch.where(fruit.any(2, keepdim=True), fruit, ~stones)
    safe = allowed[:, 0]
    for row in range(1, SIDE - 1):
        safe = allowed[:, row] & _widened(safe)
    at = basket[:, -1].double().argmax(1)
    reached = torch.stack([(at + move).clamp(0, SIDE - 1) for move in (-1, 0, 1)], 1)
    return safe.gather(1, reached).double().argmax(1)


def _widened(columns: Tensor) -> Tensor:
    """A column and its neighbors."""
    found = columns.clone()
    found[:, 1:] |= columns[:, :-1]
    found[:, :-1] |= columns[:, 1:]
    return found
