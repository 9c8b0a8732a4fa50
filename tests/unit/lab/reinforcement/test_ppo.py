"""Proximal policy optimization: advantages, loss and its gradient by hand, values at known returns."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from surgecollapse.lab.reinforcement.acrobot import Acrobot
from surgecollapse.lab.reinforcement.dqn import greedy
from surgecollapse.lab.reinforcement.environment import Environment
from surgecollapse.lab.reinforcement.ppo import ActorCritic, Rounds, advantages, clipped_loss, learn_policy
from surgecollapse.lab.reinforcement.returns import returns


def column(*values):
    return torch.tensor(values, dtype=torch.float64)[:, None]


def flags(*values):
    return torch.tensor(values)[:, None]


def test_advantages_of_a_trajectory_by_hand():
    # γ = 0.5, λ = 0.5. Errors: 1 + 0.5·4 − 2 = 1, 2 + 0.5·6 − 4 = 1, 3 + 0.5·8 − 6 = 1.
    # A₃ = 1, A₂ = 1 + 0.25·1 = 1.25, A₁ = 1 + 0.25·1.25 = 1.3125.
    values, following = column(2, 4, 6), column(4, 6, 8)
    no = flags(False, False, False)
    found = advantages(column(1, 2, 3), values, following, no, no, 0.5, 0.5)
    assert found[:, 0].tolist() == [1.3125, 1.25, 1.0]
    # The second step ends the episode: its error is 2 − 4 = −2, and nothing of the third comes back.
    found = advantages(column(1, 2, 3), values, following, flags(False, True, False), no, 0.5, 0.5)
    assert found[:, 0].tolist() == [0.5, -2.0, 1.0]
    # The second step is cut: its error keeps the value of what follows, and nothing of the third comes back.
    found = advantages(column(1, 2, 3), values, following, no, flags(False, True, False), 0.5, 0.5)
    assert found[:, 0].tolist() == [1.25, 1.0, 1.0]


def test_a_trace_of_one_gives_returns_minus_values_and_of_zero_gives_errors():
    draws = torch.Generator().manual_seed(0)
    rewards, states = (torch.randn(n, 3, generator=draws, dtype=torch.float64) for n in (12, 13))
    values, following = states[:-1], states[1:]
    no = torch.zeros(12, 3, dtype=torch.bool)
    plain = advantages(rewards, values, following, no, no, 0.9, 0.0)
    assert torch.allclose(plain, rewards + 0.9 * following - values, rtol=0, atol=1e-14)
    whole = advantages(rewards, values, following, no, no, 0.9, 1.0)
    for start in range(12):
        powers = 0.9 ** torch.arange(12 - start, dtype=torch.float64)
        discounted = (powers[:, None] * rewards[start:]).sum(0) + 0.9 ** (12 - start) * following[-1]
        assert torch.allclose(whole[start], discounted - values[start], rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [
        (1.0, 2.0, -2.0, -2.0),  # inside: the gradient by the log-probability is −r·A
        (1.1, 2.0, -2.2, -2.2),
        (1.5, 2.0, -2.4, 0.0),  # a gain is clipped at 1 + ε
        (0.5, 2.0, -1.0, -1.0),  # a loss of a good action is not clipped
        (0.5, -2.0, 1.6, 0.0),  # a bad action is clipped at 1 − ε
        (1.5, -2.0, 3.0, 3.0),
    ],
)
def test_the_clipped_loss_and_its_gradient_by_hand(ratio, advantage, loss, slope):
    old = torch.tensor([-0.7], dtype=torch.float64)
    new = (old + torch.tensor(ratio, dtype=torch.float64).log()).requires_grad_()
    found = clipped_loss(new, old, torch.tensor([advantage], dtype=torch.float64), 0.2)
    found.backward()
    assert float(found.detach()) == pytest.approx(loss, rel=1e-12)
    assert float(new.grad) == pytest.approx(slope, rel=1e-12, abs=1e-15)


def test_the_gradient_at_the_old_policy_is_that_of_the_plain_policy_gradient():
    draws = torch.Generator().manual_seed(1)
    logits = torch.randn(50, 3, generator=draws, dtype=torch.float64, requires_grad=True)
    actions = torch.randint(0, 3, (50, 1), generator=draws)
    advantage = torch.randn(50, generator=draws, dtype=torch.float64)
    chosen = logits.log_softmax(1).gather(1, actions)[:, 0]
    (clipped,) = torch.autograd.grad(clipped_loss(chosen, chosen.detach(), advantage, 0.2), logits, retain_graph=True)
    (plain,) = torch.autograd.grad(-(chosen * advantage).mean(), logits)
    assert torch.allclose(clipped, plain, rtol=0, atol=1e-15)


class _Bandit(Environment):
    """One step an episode: the second action earns 1, the first nothing."""

    observed, actions, inside = 1, 2, 1

    @property
    def observations(self):
        return torch.ones_like(self.states)

    def _first(self, which):
        del which
        return self._uniform()

    def _moved(self, actions):
        return actions[:, None].double()

    def _judged(self):
        return self.states[:, 0].float(), torch.ones(len(self.states), dtype=torch.bool)


class _Endless(_Bandit):
    """Every step earns 1, whatever is done, and no episode ends: each state is worth 1/(1 − γ)."""

    def _moved(self, actions):
        return self.states

    def _judged(self):
        return torch.ones(len(self.states)), torch.zeros(len(self.states), dtype=torch.bool)


def linear(kind):
    torch.manual_seed(0)
    return ActorCritic(nn.Linear(kind.observed, kind.actions), nn.Linear(kind.observed, 1))


def test_it_finds_the_better_action_and_what_it_is_worth():
    model = linear(_Bandit)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    learn_policy(model, optimizer, Rounds(rounds=40, passes=4, batch=64), seed=0, kind=_Bandit)
    logits, values = (part.detach() for part in model(torch.ones(1, 1)))
    assert float(logits.softmax(1)[0, 1]) > 0.9
    assert float(values) == pytest.approx(float(logits.softmax(1)[0, 1]), abs=0.1)


def test_values_reach_those_of_an_endless_reward():
    # Episodes are cut after three steps; a cut that counted as an end would leave values of at most 1 + γ + γ² = 1.75.
    class Short(_Endless):
        def __init__(self, count, generator):
            super().__init__(count, generator, longest=3)

    model = linear(Short)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    learn_policy(model, optimizer, Rounds(rounds=60, passes=4, batch=64, discount=0.5), seed=0, kind=Short)
    # Noise-free: every state is the same and every reward 1, so that V = 1 + γV is the only fixed point.
    assert float(model(torch.ones(1, 1))[1].detach()) == pytest.approx(2.0, abs=0.02)


def test_learning_repeats_itself_counts_its_steps_and_leaves_the_mode():
    rounds = Rounds(rounds=3, copies=4, horizon=5, passes=2, batch=8)
    assert (rounds.steps, rounds.updates) == (60, 18)
    found = []
    for _ in range(2):
        model, seen = linear(Acrobot), []
        optimizer = torch.optim.Adam(model.parameters())
        observed = learn_policy(model, optimizer, rounds, seed=1, kind=Acrobot, each=seen.append)
        assert seen == [1, 2, 3]
        assert tuple(observed.shape) == (20, 6)
        assert model.training
        assert {int(state["step"]) for state in optimizer.state.values()} == {rounds.updates}
        found.append(copy.deepcopy(model.state_dict()))
    assert all(torch.equal(a, b) for a, b in zip(found[0].values(), found[1].values(), strict=True))


@pytest.mark.slow
def test_it_learns_to_hold_the_pole():
    best = 0.0
    for seed in range(3):  # one run may fail; random actions hold the pole for 22 steps
        torch.manual_seed(seed)
        parts = [nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, count)) for count in (2, 1)]
        model, found = ActorCritic(*parts), []

        def look(turn, model=model, found=found):
            if turn % 15 == 0:
                found.append(float(returns(lambda x: greedy(model.actor, x), episodes=16, seed=5).mean()))

        learn_policy(model, torch.optim.Adam(model.parameters(), lr=1e-3), Rounds(rounds=60), seed=seed, each=look)
        best = max(best, *found)
    assert best > 100
