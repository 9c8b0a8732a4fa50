"""Copies of an environment of Gymnasium behind our interface."""

from __future__ import annotations

import pytest
import torch

from surgecollapse.lab.reinforcement.lunar_lander import LunarLander
from surgecollapse.lab.reinforcement.returns import returns


class Counting:
    """Speaks Gymnasium's protocol: an observation is the seed and the steps; action 3 ends an episode."""

    def reset(self, *, seed):
        self.seed, self.at = seed % 1000, 0
        return [float(self.seed), *[0.0] * 7], {}

    def step(self, action):
        self.at += 1
        return [float(self.seed), float(self.at), *[0.0] * 6], 10.0 * action, action == 3, False, {}


def landers(count=2, seed=0, longest=4):
    return LunarLander(count, torch.Generator().manual_seed(seed), longest, Counting)


def test_steps_rewards_ends_and_cuts_are_those_of_the_copies():
    worlds = landers()
    first = worlds.observations.clone()
    rewards, ended, cut = worlds.step(torch.tensor([1, 3]))
    assert rewards.tolist() == [10.0, 30.0]
    assert (ended.tolist(), cut.tolist()) == ([False, True], [False, False])
    assert worlds.observations[:, 1].tolist() == [1.0, 1.0]
    worlds.reset(ended | cut)
    assert torch.equal(worlds.observations[0, 0], first[0, 0])
    assert worlds.observations[1, 1] == 0.0  # a new episode
    assert worlds.observations[1, 0] != first[1, 0]  # from another start
    for _ in range(3):
        rewards, ended, cut = worlds.step(torch.tensor([0, 0]))
    assert cut.tolist() == [True, False]  # four steps after its start; the other began one later


def test_starts_follow_from_the_generator():
    assert torch.equal(landers(3).observations, landers(3).observations)
    assert not torch.equal(landers(3).observations, landers(3, seed=1).observations)


def test_the_landers_are_gymnasiums():
    gymnasium = pytest.importorskip("gymnasium")
    pytest.importorskip("Box2D")
    draws = torch.Generator().manual_seed(0)
    worlds = LunarLander(1, draws)
    seed = int(torch.randint(2**31 - 1, (), generator=torch.Generator().manual_seed(0)))
    other = gymnasium.make("LunarLander-v3")
    state, _ = other.reset(seed=seed)
    assert worlds.observations[0].tolist() == [float(value) for value in state]
    for action in (2, 1, 0, 3, 2, 2):
        rewards, ended, _ = worlds.step(torch.tensor([action]))
        state, reward, over, *_ = other.step(action)
        assert worlds.observations[0].tolist() == [float(value) for value in state]
        assert float(rewards[0]) == pytest.approx(float(reward), rel=1e-6)
        assert bool(ended[0]) == over
    # Doing nothing crashes, which costs 100.
    assert (
        float(returns(lambda x: torch.zeros(len(x), dtype=torch.long), episodes=3, seed=0, kind=LunarLander).max()) < 0
    )
