"""Deep Q-learning with a replay memory and a target network (Mnih et al. 2015; van Hasselt et al. 2016)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from surgecollapse.lab.reinforcement.cartpole import CartPole


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long and how fast the agent learns."""

    updates: int
    """Gradient steps; between two of them every cart is pushed once."""
    carts: int = 16
    batch: int = 128
    discount: float = 0.99
    copy_every: int = 100
    """Updates between copies to the target network."""
    explore_until: float = 0.3
    """Share of the updates over which the share of random actions falls from 1 to ``explore``."""
    explore: float = 0.05
    memory: int = 30_000


class Replay:
    """The last ``size`` transitions.

    >>> memory = Replay(3)
    >>> for reward in range(5):
    ...     memory.add(torch.zeros(1, 4), torch.tensor([0]), torch.zeros(1, 4), torch.tensor([reward % 2 == 0]))
    >>> len(memory), sorted(memory.ended[:3].tolist())
    (3, [False, True, True])
    """

    def __init__(self, size: int) -> None:
        self._size, self._next, self._count = size, 0, 0
        self.states, self.after = torch.zeros(2, size, 4).unbind(0)
        self.actions, self.ended = torch.zeros(size, dtype=torch.long), torch.zeros(size, dtype=torch.bool)

    def __len__(self) -> int:
        return self._count

    def add(self, states: Tensor, actions: Tensor, after: Tensor, ended: Tensor) -> None:
        """Keep transitions, in place of the oldest."""
        at = (torch.arange(len(states)) + self._next) % self._size
        self.states[at], self.actions[at] = states.float(), actions
        self.after[at], self.ended[at] = after.float(), ended
        self._next = (self._next + len(states)) % self._size
        self._count = min(self._size, self._count + len(states))

    def sample(self, count: int, draws: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """States, actions, states after, and ends, drawn with replacement."""
        at = torch.randint(self._count, (count,), generator=draws)
        return self.states[at], self.actions[at], self.after[at], self.ended[at]


@torch.no_grad()
def targets(network: nn.Module, late: nn.Module, after: Tensor, ended: Tensor, discount: float) -> Tensor:
    """Double Q-learning: 1 + γ·Q′(s′, argmax Q(s′, ·)), and 1 where the episode ended; every reward is 1."""
    best = network(after).argmax(1, keepdim=True)
    following: Tensor = late(after).gather(1, best)[:, 0]
    return 1 + discount * following * ~ended


def learn(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    *,
    seed: int,
    each: Callable[[int], None] = lambda update: None,  # noqa: ARG005
) -> Replay:
    """Train a network of action values on :class:`~surgecollapse.lab.reinforcement.cartpole.CartPole`.

    Args:
        network: from states ``(n, 4)`` to values ``(n, 2)``.
        optimizer: of its parameters.
        schedule: lengths and rates.
        seed: of starts, exploration and replay.
        each: called after every update with its number, from 1.

    Returns:
        The memory.
    """
    draws = torch.Generator().manual_seed(seed)
    carts, memory, late = CartPole(schedule.carts, draws), Replay(schedule.memory), copy.deepcopy(network)
    late.requires_grad_(requires_grad=False)
    for update in range(1, schedule.updates + 1):
        done = update / (schedule.explore_until * schedule.updates)
        explore = max(schedule.explore, 1 - (1 - schedule.explore) * done)
        states = carts.states
        actions = greedy(network, states)
        random = torch.rand(len(actions), generator=draws) < explore
        actions = torch.where(random, torch.randint(0, 2, actions.shape, generator=draws), actions)
        after, ended, cut = carts.step(actions)
        memory.add(states, actions, after, ended)
        carts.reset(ended | cut)
        x, chosen, following, over = memory.sample(schedule.batch, draws)
        wanted = targets(network, late, following, over, schedule.discount)
        optimizer.zero_grad()
        F.smooth_l1_loss(network(x).gather(1, chosen[:, None])[:, 0], wanted).backward()  # type: ignore[no-untyped-call]
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


def returns(choose: Callable[[Tensor], Tensor], *, episodes: int, seed: int, noise: float = 0.0) -> Tensor:
    """Length of each episode under a rule, which is its return.

    Args:
        choose: from observations ``(n, 4)`` to actions ``(n,)``.
        episodes: at a time.
        seed: of their starts and of the noise.
        noise: σ of Gaussian noise on what is observed, in m, m/s, rad and rad/s.

    Returns:
        ``(episodes,)``, from 1 to 500.

    >>> returns(lambda x: (x[:, 2] + x[:, 3] > 0).long(), episodes=4, seed=0).tolist()
    [500, 500, 500, 500]
    """
    draws = torch.Generator().manual_seed(seed)
    carts, lengths = CartPole(episodes, draws), torch.zeros(episodes, dtype=torch.long)
    running = torch.ones(episodes, dtype=torch.bool)
    while bool(running.any()):
        seen = carts.states
        if noise:
            seen = seen + noise * torch.randn(seen.shape, generator=draws, dtype=seen.dtype)
        _, ended, cut = carts.step(choose(seen))
        lengths += running
        running &= ~(ended | cut)
    return lengths
