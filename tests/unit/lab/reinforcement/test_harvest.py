"""The game of pixels: steps by hand, what a random and a perfect rule earn, and every seed the same."""

from __future__ import annotations

import pytest
import torch

from surgecollapse.lab.reinforcement.harvest import SIDE, Harvest, dropped, plan
from surgecollapse.lab.reinforcement.returns import returns

LEFT, STAY, RIGHT = 0, 1, 2
NONE = -1.0


def games(count=1, seed=0):
    return Harvest(count, torch.Generator().manual_seed(seed))


def state(basket, turn, last, **rows):
    """A state with columns of some rows: ``state(4, 9, 2, row8=4)``."""
    found = [float(basket), float(turn), float(last), *[NONE] * SIDE]
    for row, column in rows.items():
        found[3 + int(row.removeprefix("row"))] = float(column)
    return torch.tensor([found], dtype=torch.float64)


def pixels(worlds):
    """Row and column of each pixel that is on, by channel."""
    grids = worlds.observations.view(-1, 3, SIDE, SIDE)[0]
    return [grid.nonzero().tolist() for grid in grids]


def test_two_steps_by_hand():
    # Step 1 puts a fruit: 7·0.5 = 3.5, so 3 − 3 = 0 columns from the last one. Step 2 puts nothing.
    start = state(4, 0, 6)
    one = dropped(start, torch.tensor([RIGHT]), torch.tensor([0.5], dtype=torch.float64))
    assert torch.equal(one, state(5, 1, 6, row0=6))
    two = dropped(one, torch.tensor([LEFT]), torch.tensor([0.9], dtype=torch.float64))
    assert torch.equal(two, state(4, 2, 6, row1=6))
    # Step 3 puts a stone into column 10·0.25 = 2.5, which moves no fruit's column.
    three = dropped(two, torch.tensor([STAY]), torch.tensor([0.25], dtype=torch.float64))
    assert torch.equal(three, state(4, 3, 6, row0=2, row2=6))
    assert torch.equal(start, state(4, 0, 6))  # unmodified


@pytest.mark.parametrize(
    ("last", "draw", "column"),
    [(0, 0.0, 2), (1, 0.0, 1), (2, 0.0, 0), (3, 0.0, 0), (9, 0.99, 7), (8, 0.99, 8), (5, 0.99, 8), (0, 0.3, 0)],
)
def test_the_column_of_a_fruit_is_mirrored_at_the_walls(last, draw, column):
    # 0.0 is −3, 0.99 is +3 and 0.3 is −1: 0 − 3 = −3 → 2, 9 + 3 = 12 → 7, 0 − 1 = −1 → 0.
    after = dropped(state(4, 4, last), torch.tensor([STAY]), torch.tensor([draw], dtype=torch.float64))
    assert after[0, 2:4].tolist() == [column, column]


def test_each_column_of_a_fruit_is_equally_probable_and_at_most_three_from_the_last():
    # All pairs of ten columns and seven distances: each column comes seven times.
    starts = torch.cat([state(4, 0, last) for last in range(SIDE) for _ in range(7)])
    draws = (torch.arange(70, dtype=torch.float64) % 7 + 0.5) / 7
    after = dropped(starts, torch.full((70,), STAY), draws)
    assert after[:, 3].long().bincount(minlength=SIDE).tolist() == [7] * SIDE
    assert int((after[:, 3] - starts[:, 2]).abs().max()) == 3


def test_walls_stop_the_basket():
    draws = torch.zeros(2, dtype=torch.float64)
    after = dropped(torch.cat([state(0, 1, 5), state(9, 1, 5)]), torch.tensor([LEFT, RIGHT]), draws)
    assert after[:, 0].tolist() == [0.0, 9.0]


@pytest.mark.parametrize(
    ("turn", "basket", "action", "reward", "ended"),
    [
        (9, 4, STAY, 1.0, False),  # came in step 1, a fruit, and meets the basket in step 10
        (9, 3, RIGHT, 1.0, False),
        (9, 4, RIGHT, 0.0, False),  # missed
        (11, 4, STAY, 0.0, True),  # came in step 3, a stone
        (11, 4, LEFT, 0.0, False),  # avoided
        (11, 5, LEFT, 0.0, True),
    ],
)
def test_what_comes_down_onto_the_basket_counts(turn, basket, action, reward, ended):
    worlds = games()
    worlds.states = state(basket, turn, 5, row8=4)
    found = worlds.step(torch.tensor([action]))
    assert [value.tolist() for value in found] == [[reward], [ended], [False]]


def test_pixels_are_those_of_the_state():
    worlds = games()
    worlds.states = state(7, 11, 2, row0=3, row2=2, row8=0)  # came in steps 11, 9 and 3: stone, fruit, stone
    assert pixels(worlds) == [[[9, 7]], [[2, 2]], [[0, 3], [8, 0]]]
    assert worlds.observations.shape == (1, Harvest.observed)
    assert worlds.observations.dtype == torch.float64


def test_what_is_in_the_lowest_row_is_gone_a_step_later():
    worlds = games()
    worlds.states = state(4, 9, 5, row8=4)
    worlds.step(torch.tensor([STAY]))
    assert pixels(worlds)[1] == [[9, 4]]
    rewards, ended, _ = worlds.step(torch.tensor([STAY]))
    assert (float(rewards), bool(ended)) == (0.0, False)
    assert all([9, 4] not in channel for channel in pixels(worlds)[1:])


def test_games_follow_from_the_seed_and_copies_differ():
    def played(seed):
        worlds, actions, seen = games(8, seed), torch.Generator().manual_seed(9), []
        for _ in range(60):
            _, ended, cut = worlds.step(torch.randint(0, 3, (8,), generator=actions))
            worlds.reset(ended | cut)
            seen.append(worlds.observations)
        return torch.stack(seen)

    assert torch.equal(played(3), played(3))
    assert not torch.equal(played(3), played(4))
    assert not torch.equal(played(3)[:, 0], played(3)[:, 1])


def test_a_reset_begins_those_copies_alone_that_are_asked_for():
    worlds = games(3)
    for _ in range(12):
        worlds.step(torch.full((3,), STAY))
    before = worlds.states.clone()
    worlds.reset(torch.tensor([False, True, False]))
    assert torch.equal(worlds.states[[0, 2]], before[[0, 2]])
    assert worlds.states[1, 1] == 0
    assert worlds.states[1, 3:].tolist() == [NONE] * SIDE
    assert worlds.ages.tolist() == [12, 0, 12]


def test_starts_are_in_any_column():
    counts = games(5000).states[:, 0].long().bincount(minlength=SIDE)
    # Binomial with p = 1/10: six standard deviations.
    assert int((counts - 500).abs().max()) < 6 * (5000 * 0.09) ** 0.5


def test_a_perfect_rule_catches_all_fifty():
    found = returns(plan, episodes=300, seed=11, kind=Harvest)
    assert found.tolist() == [50.0] * 300


def test_rules_that_do_not_look_earn_what_probability_says():
    # A fruit is caught with probability 1/10 if no stone was met before: Σ 0.1 · 0.9ⁿ over n < 50 is 1 − 0.9⁵⁰.
    draws = torch.Generator().manual_seed(1)
    rules = [
        lambda x: torch.randint(0, 3, (len(x),), generator=draws),
        lambda x: torch.full((len(x),), STAY),
        lambda x: torch.full((len(x),), LEFT),
    ]
    for rule in rules:
        found = returns(rule, episodes=4000, seed=2, kind=Harvest)
        # Five standard errors of this sample.
        assert float(found.mean()) == pytest.approx(1 - 0.9**50, abs=5 * float(found.std()) / 4000**0.5)


def test_a_rule_that_only_catches_meets_stones():
    def greedy(x):
        basket, fruit, _ = x.view(-1, 3, SIDE, SIDE).bool().unbind(1)
        rows = torch.where(fruit[:, :-1].any(2), torch.arange(SIDE - 1), -1).argmax(1)
        target = fruit[torch.arange(len(x)), rows].double().argmax(1)
        return (target - basket[:, -1].double().argmax(1)).sign() + 1

    found = returns(greedy, episodes=500, seed=3, kind=Harvest)
    assert 1.0 < float(found.mean()) < 45.0
