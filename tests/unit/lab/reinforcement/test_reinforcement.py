"""Environments against their equations and Gymnasium's, Q-learning by hand, statistics against SciPy."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch
from scipy.stats import trim_mean
from torch import nn

from surgecollapse.lab.reinforcement.acrobot import Acrobot, moving, swung
from surgecollapse.lab.reinforcement.cartpole import CartPole, pushed
from surgecollapse.lab.reinforcement.dqn import Replay, Schedule, greedy, learn, targets
from surgecollapse.lab.reinforcement.environment import Environment
from surgecollapse.lab.reinforcement.reliability import interquartile_mean, stratified_bootstrap
from surgecollapse.lab.reinforcement.returns import returns


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def lagrangian_accelerations(angle, spin, force):
    """Angular and linear acceleration from the two equations of motion, solved as a linear system.

    (M + m)·ẍ + m·l·θ̈·cos θ = F + m·l·θ̇²·sin θ  and  m·l·ẍ·cos θ + 4/3·m·l²·θ̈ = m·g·l·sin θ
    """
    cart, pole, half, gravity = 1.0, 0.1, 0.5, 9.8
    a = torch.tensor(
        [[cart + pole, pole * half * math.cos(angle)], [pole * half * math.cos(angle), 4 / 3 * pole * half**2]]
    )
    b = torch.tensor([force + pole * half * spin**2 * math.sin(angle), pole * gravity * half * math.sin(angle)])
    push, turn = torch.linalg.solve(a.double(), b.double()).tolist()
    return push, turn


@pytest.mark.parametrize("action", [0, 1])
def test_a_push_is_eulers_step_of_the_equations_of_motion(action):
    states = torch.randn(20, 4, generator=generator(), dtype=torch.float64)
    after = pushed(states, torch.full((20,), action))
    for (x, speed, angle, spin), found in zip(states.tolist(), after.tolist(), strict=True):
        push, turn = lagrangian_accelerations(angle, spin, 10.0 if action else -10.0)
        expected = [x + 0.02 * speed, speed + 0.02 * push, angle + 0.02 * spin, spin + 0.02 * turn]
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-6)  # the matrix is rounded to float32 first


def test_the_cart_is_gymnasiums():
    gymnasium = pytest.importorskip("gymnasium")
    theirs = gymnasium.make("CartPole-v1").unwrapped
    draws = generator(3)
    for episode in range(5):
        theirs.reset(seed=episode)
        ours = CartPole(1, draws)
        ours.states = torch.tensor(theirs.state, dtype=torch.float64)[None]
        for _ in range(500):
            action = int(torch.randint(0, 2, (1,), generator=draws))
            _, reward, ended, _, _ = theirs.step(action)
            gained, over, _ = ours.step(torch.tensor([action]))
            state = [float(value) for value in theirs.state]
            assert ours.states[0].tolist() == pytest.approx(state, rel=1e-9, abs=1e-12)
            assert (reward, ended) == (float(gained), bool(over))
            if ended:
                break


@pytest.mark.parametrize("scale", [0.1, 3.0])
def test_the_links_obey_lagranges_equations(scale):
    # d/dt ∂L/∂θ̇ − ∂L/∂θ = (0, τ), with L from places and speeds of both centers of mass, and moments of inertia of 1.
    draws = generator(4)
    states = scale * torch.randn(20, 4, generator=draws, dtype=torch.float64)
    torques = torch.randint(-1, 2, (20,), generator=draws).double()

    def lagrangian(angles, speeds):
        first, both = angles[0], angles.sum()
        inner = speeds[0] * torch.stack([first.cos(), first.sin()])
        outer = inner + 0.5 * speeds.sum() * torch.stack([both.cos(), both.sin()])
        heights = -0.5 * first.cos() - first.cos() - 0.5 * both.cos()
        kinetic = ((0.5 * inner) ** 2).sum() + (outer**2).sum() + speeds[0] ** 2 + speeds.sum() ** 2
        return 0.5 * kinetic - 9.8 * heights

    for state, torque, found in zip(states, torques, moving(states, torques), strict=True):
        assert torch.equal(found[:2], state[2:])
        angles, speeds = state[:2].clone().requires_grad_(), state[2:].clone().requires_grad_()
        pulls, momenta = torch.autograd.grad(lagrangian(angles, speeds), (angles, speeds), create_graph=True)
        for momentum, pull, force in zip(momenta, pulls, (0.0, float(torque)), strict=True):
            by_angle, by_speed = torch.autograd.grad(momentum, (angles, speeds), retain_graph=True)
            changing = by_angle @ found[:2] + by_speed @ found[2:]
            # Sums of about ten products of values below 100, in float64.
            assert float((changing - pull).detach()) == pytest.approx(force, abs=1e-10)


def test_a_step_of_the_links_has_an_error_of_the_fifth_order():
    from scipy.integrate import solve_ivp

    state = torch.tensor([[0.4, -0.3, 0.5, 0.7]], dtype=torch.float64)
    torque = torch.ones(1, dtype=torch.float64)
    errors = []
    for seconds in (0.05, 0.025):
        exact = solve_ivp(
            lambda _, y: moving(torch.tensor(y)[None], torque)[0].numpy(),
            (0, seconds),
            state[0].numpy(),
            rtol=1e-12,
            atol=1e-13,
        ).y[:, -1]
        errors.append(float((swung(state, torque, seconds)[0] - torch.tensor(exact)).abs().max()))
    # Half the step leaves 1/32 of the error, up to terms of the next order, of 0.05 times rates of a few per second.
    assert 20 < errors[0] / errors[1] < 50


def test_links_turn_within_a_circle_and_their_limits():
    states = torch.tensor([[3.1, -3.1, 12.5, -28.2], [0.0, 0.0, 12.5, 28.2]], dtype=torch.float64)
    after = swung(states, torch.zeros(2))
    assert bool((after[:, :2].abs() <= math.pi).all())
    assert bool((after[:, 2].abs() <= 4 * math.pi).all())
    assert bool((after[:, 3].abs() <= 9 * math.pi).all())


def test_the_links_are_gymnasiums():
    gymnasium = pytest.importorskip("gymnasium")
    theirs = gymnasium.make("Acrobot-v1").unwrapped
    draws = generator(5)
    for episode in range(5):
        theirs.reset(seed=episode)
        ours = Acrobot(1, draws)
        for turn in range(200):
            # Taken over at every step: the motion is chaotic, so that rounding would grow without a bound.
            ours.states = torch.tensor([float(value) for value in theirs.state], dtype=torch.float64)[None]
            action = int(torch.randint(0, 3, (1,), generator=draws)) if turn < 20 else 2 * int(theirs.state[3] > 0)
            seen, reward, ended, _, _ = theirs.step(action)
            gained, over, _ = ours.step(torch.tensor([action]))
            assert ours.observations[0].tolist() == pytest.approx(seen.tolist(), rel=1e-6, abs=1e-6)  # theirs: float32
            assert (reward, ended) == (float(gained), bool(over))
            if ended:
                break


def test_links_start_near_hanging_and_end_above_the_line():
    links = Acrobot(1000, generator())
    assert float(links.states.abs().max()) <= 0.1
    # Uniform on [−0.1, 0.1]: six standard errors of the deviation of 4,000 values.
    assert float(links.states.std()) == pytest.approx(0.2 / math.sqrt(12), rel=6 * math.sqrt(0.2 / 4000))
    poses = [[math.pi, 0.0, 0.0, 0.0], [math.pi / 2, 0.0, 0.0, 0.0]]  # upright; level
    links.states[:2] = torch.tensor(poses, dtype=torch.float64)
    rewards, ended, _ = links.step(torch.ones(1000, dtype=torch.long))
    assert (rewards[:2].tolist(), ended[:2].tolist()) == ([0.0, -1.0], [True, False])
    assert links.observations[0].tolist()[:4] == pytest.approx([-1.0, 0.0, 1.0, 0.0], abs=1e-12)


def test_driving_along_with_the_swing_lifts_the_links():
    def pump(x):
        return 2 * (x[:, 5] > 0).long()

    found = returns(pump, episodes=20, seed=0, kind=Acrobot)
    idle = returns(lambda x: torch.ones(len(x), dtype=torch.long), episodes=20, seed=0, kind=Acrobot)
    assert idle.tolist() == [-500.0] * 20
    assert float(found.mean()) > -400


def test_episodes_start_near_upright_end_at_their_limits_and_are_cut():
    carts = CartPole(1000, generator(), longest=2)
    assert float(carts.states.abs().max()) <= 0.05
    # Uniform on [−0.05, 0.05]: six standard errors of the deviation of 4,000 values.
    assert float(carts.states.std()) == pytest.approx(0.1 / math.sqrt(12), rel=6 * math.sqrt(0.2 / 4000))
    carts.states[:5] = torch.tensor(
        [[2.41, 0, 0, 0], [-2.41, 0, 0, 0], [0, 0, 0.2096, 0], [0, 0, -0.2096, 0], [2.39, 0, 0.2093, 0]]
    )
    rewards, ended, cut = carts.step(torch.zeros(1000, dtype=torch.long))
    assert rewards.tolist() == [1.0] * 1000
    assert ended[:6].tolist() == [True, True, True, True, False, False]
    assert not bool(cut.any())
    _, ended, cut = carts.step(torch.zeros(1000, dtype=torch.long))
    assert bool((cut ^ ended).all())
    carts.reset(ended | cut)
    assert float(carts.states.abs().max()) <= 0.05
    assert carts.ages.tolist() == [0] * 1000


def test_one_action_for_ever_falls_within_a_dozen_steps():
    found = returns(lambda x: torch.ones(len(x), dtype=torch.long), episodes=200, seed=1)
    assert 7 <= int(found.min()) <= int(found.max()) <= 12


def test_noise_on_what_is_observed_hurts_a_rule_that_holds_the_pole():
    def rule(x):
        return (x[:, 2] + x[:, 3] > 0).long()

    still, noisy = (returns(rule, episodes=20, seed=2, noise=noise).double().mean() for noise in (0.0, 1.0))
    assert float(still) > 200
    assert float(noisy) < float(still) / 2


class _Table(nn.Module):
    """Values that are given."""

    def __init__(self, values):
        super().__init__()
        self.values = torch.tensor(values)

    def forward(self, x):
        return self.values.expand(len(x), 2)


def test_targets_are_those_of_double_q_learning():
    now, late = _Table([1.0, 2.0]), _Table([30.0, 10.0])  # chooses the second, which is worth 10 there
    found = targets(now, late, torch.tensor([1.0, -2.0]), torch.zeros(2, 4), torch.tensor([False, True]), 0.9)
    assert found.tolist() == [pytest.approx(10.0), -2.0]


def test_the_memory_forgets_the_oldest_and_draws_what_it_holds():
    memory = Replay(5, 4)
    for first in (0, 3, 6):
        values = torch.arange(first, first + 3)
        states = values[:, None].expand(3, 4).double()
        memory.add(states, values % 2, -values.float(), states + 1, values > 6)
    assert sorted(memory.states[:, 0].tolist()) == [4, 5, 6, 7, 8]
    states, actions, rewards, after, ended = memory.sample(100, generator())
    assert torch.equal(rewards, -states[:, 0])
    assert set(states[:, 0].tolist()) == {4, 5, 6, 7, 8}
    assert torch.equal(actions, states[:, 0].long() % 2)
    assert torch.equal(after, states + 1)
    assert torch.equal(ended, states[:, 0] > 6)


def network(seed=0, width=32):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 2))


def test_learning_repeats_itself_and_leaves_the_mode():
    found = []
    for _ in range(2):
        model, seen = network(), []
        learn(model, torch.optim.Adam(model.parameters()), Schedule(updates=8), seed=1, each=seen.append)
        assert seen == list(range(1, 9))
        assert model.training
        found.append(copy.deepcopy(model.state_dict()))
    assert all(torch.equal(a, b) for a, b in zip(found[0].values(), found[1].values(), strict=True))


class Lottery(Environment):
    """Nothing to see and nothing to choose: 1 for each step, and one step in ten ends the episode."""

    observed, actions, inside = 1, 2, 1

    @property
    def observations(self):
        return torch.ones(len(self.states), 1, dtype=torch.float64)

    def _first(self, which):
        del which
        return self._uniform()

    def _moved(self, actions):
        del actions
        return torch.rand(self.states.shape, generator=self._draws, dtype=torch.float64)

    def _judged(self):
        return torch.ones(len(self.states)), self.states[:, 0] < 0.1


def test_values_count_ends_that_are_rare():
    # V = 1 + 0.99·(1 − p)·V, with p the share of ends in the memory: 9.17 at p = 0.1. Under the Huber loss, where
    # 0.9·(1 − 0.01·V) = 0.1, values would be 89.
    model = nn.Linear(1, 2, bias=False)
    nn.init.zeros_(model.weight)
    schedule = Schedule(updates=3000, copies=8, copy_every=20, anneal=True)
    memory = learn(model, torch.optim.Adam(model.parameters(), lr=0.1), schedule, seed=0, kind=Lottery)
    share = float(memory.ended[: len(memory)].double().mean())
    assert share == pytest.approx(0.1, abs=5 * (0.09 / len(memory)) ** 0.5)
    best = float(model.weight.detach().max())
    assert best == pytest.approx(1 / (1 - 0.99 * (1 - share)), rel=0.1)


@pytest.mark.slow
def test_it_learns_to_hold_the_pole():
    best = 0.0
    for seed in range(3):  # one run may fail; random actions hold the pole for 22 steps
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(4, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 2))
        found = []

        def look(update, model=model, found=found):
            if update % 250 == 0:
                lengths = returns(lambda x: greedy(model, x), episodes=16, seed=5)
                found.append(float(lengths.double().mean()))

        learn(model, torch.optim.Adam(model.parameters(), lr=1e-3), Schedule(updates=1000), seed=seed, each=look)
        best = max(best, *found)
    assert best > 60


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8, 11])
def test_the_interquartile_mean_is_scipys_trimmed_mean(count):
    scores = torch.randn(3, count, generator=generator(), dtype=torch.float64)
    expected = trim_mean(scores.numpy(), 0.25, axis=1)
    assert interquartile_mean(scores).tolist() == pytest.approx(expected.tolist(), rel=1e-12)


def test_the_bootstrap_is_that_of_all_samples():
    # Three scores of one task and one of the other: 27 equally probable resamples, whose quantiles are known.
    one, other = torch.tensor([0.0, 1.0, 5.0]), torch.tensor([2.0])
    means = sorted((sum(drawn) + 2.0) / 4 for drawn in itertools.product(one.tolist(), repeat=3))
    low, high = stratified_bootstrap([one, other], lambda x: x.mean(-1), level=0.8, resamples=20_000)
    # The 10% and 90% quantiles lie inside steps of the distribution: 2.7 and 24.3 of 27, far from where it jumps.
    assert low == pytest.approx(means[2])
    assert high == pytest.approx(means[24])
    # 3, 3, 3, 3 and 2: the lowest and the highest of five are left out, so that the mean is 3 in every resample.
    assert stratified_bootstrap([torch.full((4,), 3.0), other]) == (3.0, 3.0)


def test_strata_keep_their_number_of_runs():
    strata = [torch.zeros(3), torch.ones(5)]
    assert stratified_bootstrap(strata, lambda x: x.sum(-1)) == (5.0, 5.0)


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        (([],), {}),
        (([torch.zeros(0)],), {}),
        (([torch.zeros(2)],), {"level": 1.0}),
        (([torch.zeros(2)],), {"resamples": 0}),
    ],
)
def test_no_scores_are_refused(arguments, options):
    with pytest.raises(ValueError, match="expected"):
        stratified_bootstrap(*arguments, **options)
    with pytest.raises(ValueError, match="at least one score"):
        interquartile_mean(torch.zeros(0))
    with pytest.raises(ValueError, match="at least one copy"):
        CartPole(0, generator())
