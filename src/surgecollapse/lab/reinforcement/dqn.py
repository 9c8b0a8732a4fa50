"""Deep Q-learning with a replay memory and a target network (Mnih et al. 2015; van Hasselt et al. 2016)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from surgecollapse.lab.reinforcement.cartpole import CartPole
from surgecollapse.lab.reinforcement.environment import Environment


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long and how fast the agent learns."""

    updates: int
    """Gradient steps; between two of them every copy of the environment is stepped once."""
    copies: int = 16
    batch: int = 128
    discount: float = 0.99
    copy_every: int = 100
    """Updates between copies to the target network."""
    explore_until: float = 0.3
    """Share of the updates over which the share of random actions falls from 1 to ``explore``."""
    explore: float = 0.05
    memory: int = 30_000
    anneal: bool = False
    """Whether learning rates fall linearly to zero."""


class Replay:
    """The last ``size`` transitions, with observations of ``observed`` numbers.

    >>> memory, no = Replay(3, 4), torch.tensor([0])
    >>> for turn in range(5):
    ...     memory.add(torch.zeros(1, 4), no, torch.ones(1), torch.zeros(1, 4), torch.tensor([turn % 2 == 0]))
    >>> len(memory), sorted(memory.ended[:3].tolist())
    (3, [False, True, True])
    """

    def __init__(self, size: int, observed: int) -> None:
        self._size, self._next, self._count = size, 0, 0
        self.states, self.after = torch.zeros(2, size, observed).unbind(0)
        self.rewards = torch.zeros(size)
        self.actions, self.ended = torch.zeros(size, dtype=torch.long), torch.zeros(size, dtype=torch.bool)

    def __len__(self) -> int:
        return self._count

    def add(self, states: Tensor, actions: Tensor, rewards: Tensor, after: Tensor, ended: Tensor) -> None:
        """Keep transitions, in place of the oldest."""
        at = (torch.arange(len(states)) + self._next) % self._size
        self.states[at], self.actions[at], self.rewards[at] = states.float(), actions, rewards
        self.after[at], self.ended[at] = after.float(), ended
        self._next = (self._next + len(states)) % self._size
        self._count = min(self._size, self._count + len(states))

    def sample(self, count: int, draws: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Observations, actions, rewards, observations after, and ends, drawn with replacement."""
        at = torch.randint(self._count, (count,), generator=draws)
        return self.states[at], self.actions[at], self.rewards[at], self.after[at], self.ended[at]


@torch.no_grad()
def targets(
    network: nn.Module, late: nn.Module, rewards: Tensor, after: Tensor, ended: Tensor, discount: float
) -> Tensor:
    """Double Q-learning: r + γ·Q′(s′, argmax Q(s′, ·)), and r where the episode ended."""
    best = network(after).argmax(1, keepdim=True)
    following: Tensor = late(after).gather(1, best)[:, 0]
    return rewards + discount * following * ~ended


def learn(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    *,
    seed: int,
    kind: type[Environment] = CartPole,
    each: Callable[[int], None] = lambda update: None,  # noqa: ARG005
) -> Replay:
    """Train a network of action values by the squared error to :func:`targets`.

    The Huber loss of Mnih et al. does not suit rewards that are not scaled. Values of 100 make nearly every error
    larger than its bound of 1, so that a value follows the median of its targets. Ends of episodes are rarer than half,
    and do not move a median: values run away.

    Args:
        network: from observations ``(n, observed)`` to values ``(n, actions)``.
        optimizer: of its parameters.
        schedule: lengths and rates.
        seed: of starts, exploration and replay.
        kind: of the environment.
        each: called after every update with its number, from 1.

    Returns:
        The memory.
    """
    draws = torch.Generator().manual_seed(seed)
    worlds, memory = kind(schedule.copies, draws), Replay(schedule.memory, kind.observed)
    late = copy.deepcopy(network).requires_grad_(requires_grad=False)
    first_rates = [group["lr"] for group in optimizer.param_groups]
    for update in range(1, schedule.updates + 1):
        done = update / (schedule.explore_until * schedule.updates)
        explore = max(schedule.explore, 1 - (1 - schedule.explore) * done)
        if schedule.anneal:
            for group, rate in zip(optimizer.param_groups, first_rates, strict=True):
                group["lr"] = rate * (1 - (update - 1) / schedule.updates)
        seen = worlds.observations
        actions = greedy(network, seen)
        random = torch.rand(len(actions), generator=draws) < explore
        actions = torch.where(random, torch.randint(0, kind.actions, actions.shape, generator=draws), actions)
        gained, ended, cut = worlds.step(actions)
        memory.add(seen, actions, gained, worlds.observations, ended)
        worlds.reset(ended | cut)
        x, chosen, rewards, following, over = memory.sample(schedule.batch, draws)
        wanted = targets(network, late, rewards, following, over, schedule.discount)
        optimizer.zero_grad()
        F.mse_loss(network(x).gather(1, chosen[:, None])[:, 0], wanted).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if update % schedule.copy_every == 0:
            with torch.no_grad():
                for old, new in zip(late.parameters(), network.parameters(), strict=True):
                    old.copy_(new)
        each(update)
    return memory


@torch.no_grad()
def greedy(network: nn.Module, states: Tensor) -> Tensor:
    """The action of the highest value, in evaluation mode."""
    training = network.training
    network.eval()
    found: Tensor = network(states.float()).argmax(1)
    network.train(training)
    return found
