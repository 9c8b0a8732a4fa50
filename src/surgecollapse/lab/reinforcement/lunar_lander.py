"""LunarLander of Gymnasium, several copies of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from surgecollapse.errors import needs
from surgecollapse.lab.reinforcement.environment import Environment


def _made() -> Any:
    with needs("LunarLander", "reinforcement"):
        import Box2D  # type: ignore[import-not-found,import-untyped,unused-ignore]  # noqa: F401
        import gymnasium  # type: ignore[import-not-found,unused-ignore]

    return gymnasium.make("LunarLander-v3", disable_env_checker=True).unwrapped


class LunarLander(Environment):
    """A lander with two side engines and a main one, which is to come down softly between two flags.

    Each copy is a LunarLander-v3 of Gymnasium (extra ``reinforcement``), here without its limit of time. Eight numbers
    are observed. An episode is cut after 1,000 steps, as Gymnasium does.

    Args:
        count: copies.
        generator: of the seeds of the first states.
        longest: steps after which an episode is cut.
        make: makes one copy, in Gymnasium's terms; for tests.
    """

    observed, actions, inside = 8, 4, 8

    def __init__(
        self, count: int, generator: torch.Generator, longest: int = 1000, make: Callable[[], Any] = _made
    ) -> None:
        self._worlds = [make() for _ in range(count)]
        self._rewards = torch.zeros(count)
        self._ended = torch.zeros(count, dtype=torch.bool)
        super().__init__(count, generator, longest)

    @property
    def observations(self) -> Tensor:
        """The states."""
        return self.states

    def _first(self, which: Tensor) -> Tensor:
        states = self.states.clone()
        for at in which.nonzero().flatten().tolist():
            seed = int(torch.randint(2**31 - 1, (), generator=self._draws))
            states[at] = torch.as_tensor(self._worlds[at].reset(seed=seed)[0], dtype=torch.float64)
        return states

    def _moved(self, actions: Tensor) -> Tensor:
        came = [world.step(action) for world, action in zip(self._worlds, actions.tolist(), strict=True)]
        self._rewards = torch.tensor([float(reward) for _, reward, *_ in came])
        self._ended = torch.tensor([bool(ended) for _, _, ended, *_ in came])
        return torch.stack([torch.as_tensor(state, dtype=torch.float64) for state, *_ in came])

    def _judged(self) -> tuple[Tensor, Tensor]:
        return self._rewards, self._ended
