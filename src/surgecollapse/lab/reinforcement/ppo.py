"""Proximal policy optimization with a clipped objective (Schulman et al. 2017, arXiv 1707.06347)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributions import Categorical
from torch.nn import functional as F

from surgecollapse.lab.reinforcement.cartpole import CartPole
from surgecollapse.lab.reinforcement.environment import Environment


@dataclass(frozen=True, kw_only=True)
class Rounds:
    """How long and how fast the agent learns: rounds of ``horizon`` steps in every copy, each learned several times.

    >>> rounds = Rounds(rounds=10)
    >>> rounds.updates, rounds.steps
    (200, 2560)
    """

    rounds: int
    copies: int = 8
    horizon: int = 32
    passes: int = 20
    """Over the steps of a round."""
    batch: int = 256
    discount: float = 0.98
    trace: float = 0.8
    """λ of :func:`advantages`."""
    clip: float = 0.2
    entropy: float = 0.0
    """Weight of the policy's entropy."""
    longest_gradient: float = 0.5
    """Norm to which the gradient is clipped."""

    @property
    def steps(self) -> int:
        """Steps of the environment in all."""
        return self.rounds * self.copies * self.horizon

    @property
    def updates(self) -> int:
        """Steps of the optimizer in all."""
        return self.rounds * self.passes * -(-self.copies * self.horizon // self.batch)


class ActorCritic(nn.Module):
    """A policy and a value from two networks that share nothing.

    >>> logits, values = ActorCritic(nn.Linear(4, 2), nn.Linear(4, 1))(torch.zeros(3, 4))
    >>> tuple(logits.shape), tuple(values.shape)
    ((3, 2), (3,))
    """

    def __init__(self, actor: nn.Module, critic: nn.Module) -> None:
        super().__init__()
        self.actor, self.critic = actor, critic

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits of the actions ``(n, actions)`` and values ``(n,)`` of observations ``(n, observed)``."""
        return self.actor(x), self.critic(x)[:, 0]


def advantages(
    rewards: Tensor, values: Tensor, following: Tensor, ended: Tensor, cut: Tensor, discount: float, trace: float
) -> Tensor:
    """Generalized advantage estimates (Schulman et al. 2015, arXiv 1506.02438, equation 16).

    Aₜ = δₜ + γλ·Aₜ₊₁ with δₜ = rₜ + γ·V(s′ₜ) − V(sₜ). V(s′ₜ) counts as 0 where an episode ended, and stands where it
    was only cut. Neither passes on what comes after it.

    Args:
        rewards: ``(steps, copies)``.
        values: V(sₜ), of the states that were acted in.
        following: V(s′ₜ), of the states that followed, before a reset.
        ended: where an episode ended.
        cut: where it was cut for its length.
        discount: γ.
        trace: λ.

    Returns:
        ``(steps, copies)``.

    >>> zeros, no = torch.zeros(3, 1), torch.zeros(3, 1, dtype=torch.bool)
    >>> advantages(torch.ones(3, 1), zeros, zeros, no, no, 1.0, 0.5)[:, 0].tolist()
    [1.75, 1.5, 1.0]
    """
    errors = rewards + discount * following * ~ended - values
    found, later = torch.empty_like(errors), torch.zeros_like(errors[0])
    for at in reversed(range(len(errors))):
        later = errors[at] + discount * trace * later * ~(ended[at] | cut[at])
        found[at] = later
    return found


def clipped_loss(new: Tensor, old: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """−mean min(r·A, clip(r, 1 − ε, 1 + ε)·A) with r = exp(new − old) (equation 7).

    Args:
        new: log-probabilities of the actions under the policy ``(n,)``.
        old: those under the policy that acted.
        advantage: A ``(n,)``.
        clip: ε.

    Returns:
        A scalar.

    >>> loss = clipped_loss(torch.log(torch.tensor([2.0, 0.5])), torch.zeros(2), torch.tensor([1.0, 1.0]), 0.2)
    >>> round(float(loss), 4)  # −(1.2 + 0.5) / 2
    -0.85
    """
    ratio = (new - old).exp()
    return -torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage).mean()


def learn_policy(
    model: ActorCritic,
    optimizer: torch.optim.Optimizer,
    rounds: Rounds,
    *,
    seed: int,
    kind: type[Environment] = CartPole,
    each: Callable[[int], None] = lambda turn: None,  # noqa: ARG005
) -> Tensor:
    """Train a policy and its values; learning rates fall linearly to zero.

    Advantages are normalized in each batch, values learn the returns A + V by their squared error, with a weight of a
    half. Actions are drawn in evaluation mode.

    Args:
        model: policy and values.
        optimizer: of its parameters.
        rounds: lengths and rates.
        seed: of starts, actions and batches.
        kind: of the environment.
        each: called after every round with its number, from 1.

    Returns:
        The observations of the last round ``(n, observed)``.
    """
    draws = torch.Generator().manual_seed(seed)
    worlds, seen = kind(rounds.copies, draws), torch.empty(0)
    first_rates = [group["lr"] for group in optimizer.param_groups]
    for turn in range(1, rounds.rounds + 1):
        for group, rate in zip(optimizer.param_groups, first_rates, strict=True):
            group["lr"] = rate * (1 - (turn - 1) / rounds.rounds)
        seen, actions, old, advantage, wanted = _round(model, worlds, rounds, draws)
        for _ in range(rounds.passes):
            order = torch.randperm(len(seen), generator=draws)
            for start in range(0, len(order), rounds.batch):
                at = order[start : start + rounds.batch]
                logits, values = model(seen[at])
                policy = Categorical(logits=logits, validate_args=False)
                gain = advantage[at]
                gain = (gain - gain.mean()) / (gain.std(correction=0) + 1e-8)
                chosen: Tensor = policy.log_prob(actions[at])  # type: ignore[no-untyped-call]
                loss = clipped_loss(chosen, old[at], gain, rounds.clip) + F.mse_loss(values, wanted[at]) / 2
                if rounds.entropy:
                    spread: Tensor = policy.entropy()  # type: ignore[no-untyped-call]
                    loss = loss - rounds.entropy * spread.mean()
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(model.parameters(), rounds.longest_gradient)
                optimizer.step()
        each(turn)
    return seen


@torch.no_grad()
def _round(
    model: ActorCritic, worlds: Environment, rounds: Rounds, draws: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Act; observations, actions, their log-probabilities, advantages and returns, each ``(steps · copies, …)``."""
    training = model.training
    model.eval()
    lived = []
    for _ in range(rounds.horizon):
        seen = worlds.observations.float()
        actions = torch.multinomial(model.actor(seen).softmax(1), 1, generator=draws)[:, 0]
        rewards, ended, cut = worlds.step(actions)
        lived.append((seen, actions, rewards, worlds.observations.float(), ended, cut))
        worlds.reset(ended | cut)
    seen, actions, rewards, after, ended, cut = (torch.stack(values) for values in zip(*lived, strict=True))
    logits, values = model(seen.flatten(0, 1))
    following = model.critic(after.flatten(0, 1))[:, 0].view_as(rewards)
    advantage = advantages(
        rewards, values.view_as(rewards), following, ended, cut, rounds.discount, rounds.trace
    ).flatten()
    old = logits.log_softmax(1).gather(1, actions.flatten()[:, None])[:, 0]
    model.train(training)
    return seen.flatten(0, 1), actions.flatten(), old, advantage, advantage + values
