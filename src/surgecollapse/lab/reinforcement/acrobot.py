"""The two-link swing-up, many at a time."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from surgecollapse.lab.reinforcement.environment import Environment

_GRAVITY, _SECONDS, _FASTEST = 9.8, 0.2, (4 * math.pi, 9 * math.pi)


class Acrobot(Environment):
    """Two links that hang, driven at the joint between them, whose tip must swing above a line.

    The equations are those of Sutton and Barto (1998, section 11.3). Constants, start and reward are those of
    Acrobot-v1 of Gymnasium. Links are of 1 m and 1 kg. Torques are −1, 0 and 1 N·m (actions 0 to 2), each for 0.2 s.
    Every step costs 1, but the one that ends the episode, and a cut comes after 500 steps.

    A state is the angle of the first link from hanging, that of the second from the first, and their speeds. All four
    are uniform on [−0.1, 0.1] at the start. The cosine and the sine of each angle are observed, and the speeds. An
    episode ends where −cos θ₁ − cos(θ₁ + θ₂) > 1.

    >>> links = Acrobot(1, torch.Generator().manual_seed(0))
    >>> rewards, ended, cut = links.step(torch.tensor([2]))
    >>> rewards.tolist(), ended.tolist(), tuple(links.observations.shape)
    ([-1.0], [False], (1, 6))
    """

    observed, actions = 6, 3

    @property
    def observations(self) -> Tensor:
        """Cos θ₁, sin θ₁, cos θ₂, sin θ₂ and both speeds."""
        first, second, *speeds = self.states.unbind(1)
        return torch.stack([first.cos(), first.sin(), second.cos(), second.sin(), *speeds], 1)

    def _first(self, which: Tensor) -> Tensor:  # noqa: ARG002
        return self._uniform() * 0.2 - 0.1

    def _moved(self, actions: Tensor) -> Tensor:
        return swung(self.states, actions - 1.0)

    def _judged(self) -> tuple[Tensor, Tensor]:
        first, second = self.states[:, 0], self.states[:, 1]
        ended = -first.cos() - (first + second).cos() > 1
        return ended.float() - 1, ended


def swung(states: Tensor, torques: Tensor, seconds: float = _SECONDS) -> Tensor:
    """States ``seconds`` later by one step of Runge and Kutta's fourth order.

    Angles are brought into [−π, π), speeds are held within 4π and 9π rad/s.

    >>> hanging = torch.zeros(1, 4, dtype=torch.float64)
    >>> swung(hanging, torch.zeros(1)).tolist()
    [[0.0, 0.0, 0.0, 0.0]]
    """
    half = seconds / 2
    one = moving(states, torques)
    two = moving(states + half * one, torques)
    three = moving(states + half * two, torques)
    four = moving(states + seconds * three, torques)
    after = states + seconds / 6 * (one + 2 * two + 2 * three + four)
    angles = torch.remainder(after[:, :2] + math.pi, 2 * math.pi) - math.pi
    limits = torch.tensor(_FASTEST, dtype=after.dtype)
    return torch.cat([angles, after[:, 2:].clamp(-limits, limits)], 1)


def moving(states: Tensor, torques: Tensor) -> Tensor:
    """Time derivatives of states: speeds, then accelerations.

    With m = l = I = 1, centers of mass at l/2, c = cos θ₂ and s = sin θ₂:

        d₁ = 7/2 + c
        d₂ = 5/4 + c/2
        φ₂ = g/2 · sin(θ₁ + θ₂)
        φ₁ = −s/2 · θ̇₂² − s · θ̇₂ θ̇₁ + 3g/2 · sin θ₁ + φ₂
        θ̈₂ = (τ + d₂/d₁ · φ₁ − s/2 · θ̇₁² − φ₂) / (5/4 − d₂²/d₁)
        θ̈₁ = −(d₂ θ̈₂ + φ₁) / d₁

    Args:
        states: ``(n, 4)``.
        torques: at the second joint ``(n,)``.

    Returns:
        ``(n, 4)``.

    >>> moving(torch.zeros(1, 4, dtype=torch.float64), torch.ones(1, dtype=torch.float64)).round(decimals=4).tolist()
    [[0.0, 0.0, -0.6829, 1.7561]]
    """
    first, second, fast, faster = states.unbind(1)
    c, s = second.cos(), second.sin()
    one, two = 3.5 + c, 1.25 + c / 2
    below = _GRAVITY / 2 * (first + second).sin()
    above = -s / 2 * faster**2 - s * faster * fast + 1.5 * _GRAVITY * first.sin() + below
    turn = (torques + two / one * above - s / 2 * fast**2 - below) / (1.25 - two**2 / one)
    return torch.stack([fast, faster, -(two * turn + above) / one, turn], 1)
