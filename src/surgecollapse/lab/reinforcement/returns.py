"""What a rule earns in an environment."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from surgecollapse.lab.reinforcement.cartpole import CartPole
from surgecollapse.lab.reinforcement.environment import Environment


def returns(
    choose: Callable[[Tensor], Tensor],
    *,
    episodes: int,
    seed: int,
    noise: float = 0.0,
    kind: type[Environment] = CartPole,
) -> Tensor:
    """Sum of the rewards of each episode under a rule, without a discount.

    Args:
        choose: from observations ``(n, observed)`` to actions ``(n,)``.
        episodes: at a time.
        seed: of their starts and of the noise.
        noise: σ of Gaussian noise on every number that is observed.
        kind: of the environment.

    Returns:
        ``(episodes,)``, for CartPole from 1 to 500, for Acrobot from −500 to 0.

    >>> returns(lambda x: (x[:, 2] + x[:, 3] > 0).long(), episodes=4, seed=0).tolist()
    [500.0, 500.0, 500.0, 500.0]
    """
    draws = torch.Generator().manual_seed(seed)
    worlds, sums = kind(episodes, draws), torch.zeros(episodes, dtype=torch.float64)
    running = torch.ones(episodes, dtype=torch.bool)
    while bool(running.any()):
        seen = worlds.observations
        if noise:
            seen = seen + noise * torch.randn(seen.shape, generator=draws, dtype=seen.dtype)
        rewards, ended, cut = worlds.step(choose(seen))
        sums += rewards * running
        running &= ~(ended | cut)
    return sums
