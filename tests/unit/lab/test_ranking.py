"""Ranking metrics and controls of recommenders, against values by hand."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from surgecollapse.lab.ranking import FollowLast, Popularity, RepeatLast, ndcg_at, offered, places, recall_at


def test_places_count_candidates_alone():
    scores = torch.tensor([[5.0, 4.0, 3.0, 3.0, 1.0], [5.0, 4.0, 3.0, 3.0, 1.0]])
    candidates = torch.tensor([[True, True, True, True, True], [False, True, True, False, True]])
    ahead, tied = places(scores, torch.tensor([2, 2]), candidates)
    assert (ahead.tolist(), tied.tolist()) == ([2, 1], [1, 0])
    with pytest.raises(ValueError, match="among its row's candidates"):
        places(scores, torch.tensor([2, 0]), candidates)


def test_ndcg_and_recall_of_a_hand_computed_table():
    # Places 1, 3, 10, 11, 21 of five users.
    ahead = torch.tensor([0, 2, 9, 10, 20])
    none = torch.zeros(5, dtype=torch.long)
    assert ndcg_at(10, ahead, none).tolist() == pytest.approx([1, 0.5, 1 / math.log2(11), 0, 0])
    assert recall_at(20, ahead, none).tolist() == [1, 1, 1, 1, 0]
    assert recall_at(10, ahead, none).tolist() == [1, 1, 1, 0, 0]


@pytest.mark.parametrize(("k", "items"), [(2, 5), (3, 4), (10, 4)])
def test_ties_are_the_mean_over_all_orders(k, items):
    scores = torch.tensor([[2.0] + [1.0] * (items - 2) + [0.0]])
    at = places(scores, torch.tensor([1]), torch.ones(1, items, dtype=torch.bool))
    gains, hits = [], []
    for order in itertools.permutations(range(1, items - 1)):
        place = 2 + order.index(1)
        gains.append(1 / math.log2(1 + place) if place <= k else 0.0)
        hits.append(float(place <= k))
    assert float(ndcg_at(k, *at)) == pytest.approx(sum(gains) / len(gains), abs=1e-12)
    assert float(recall_at(k, *at)) == pytest.approx(sum(hits) / len(hits), abs=1e-12)


def test_a_constant_score_has_the_recall_of_chance():
    at = places(torch.zeros(1, 50), torch.tensor([7]), torch.ones(1, 50, dtype=torch.bool))
    assert float(recall_at(20, *at)) == pytest.approx(20 / 50)


def test_what_a_user_had_is_not_offered_again_within_a_block_either():
    seen = torch.zeros(2, 3, dtype=torch.bool)
    first = offered(seen, torch.tensor([0, 1, 0]), torch.tensor([0, 0, 1]))
    assert first.tolist() == [[True, True, True], [True, True, True], [False, True, True]]
    assert offered(seen, torch.tensor([0]), torch.tensor([2])).tolist() == [[False, False, True]]


def test_popularity_forgets_what_left_its_window():
    everything, window = Popularity(3), Popularity(3, window=2)
    for control in (everything, window):
        control.learn(torch.tensor([0]), torch.tensor([0]))
        control.learn(torch.tensor([0, 0]), torch.tensor([1, 1]))
        control.learn(torch.tensor([1]), torch.tensor([2]))
    assert everything.scores(torch.tensor([0, 9])).tolist() == [[1, 2, 1], [1, 2, 1]]
    assert window.scores(torch.tensor([0])).tolist() == [[0, 1, 1]]


def test_repeat_last_offers_what_came_last_first():
    control = RepeatLast(4)
    control.learn(torch.tensor([0, 1, 0]), torch.tensor([3, 1, 0]))
    assert control.scores(torch.tensor([5])).argsort(1, descending=True).tolist()[0][:3] == [0, 1, 3]


def test_follow_last_counts_transitions_of_each_user():
    control = FollowLast(3, 4)
    # User 0: 0, 1, 2. User 1, in between: 0, 1. So 1 follows 0 twice, 2 follows 1 once.
    control.learn(torch.tensor([0, 1, 0, 1, 0]), torch.tensor([0, 0, 1, 1, 2]))
    assert control.after.tolist() == [[0, 2, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert int(control.scores(torch.tensor([1])).argmax()) == 2
    new = control.scores(torch.tensor([2]))[0]  # nothing before: by popularity
    assert new.tolist() == pytest.approx([2 / 6, 2 / 6, 1 / 6, 0])
