"""The study of recommenders: sizes by hand, rows that close whole, and a net that finds tastes."""

from __future__ import annotations

import pytest
import torch

from surgecollapse.lab.data.interactions import drifting_choices
from surgecollapse.lab.nets.recommender import MatrixFactorization, TwoTower
from surgecollapse.studies import recommenders
from surgecollapse.studies.recommenders import Net, measure, stored_bytes, tables

GENERATED = {"data": "generated", "sparsity": 0.8, "seed": 0, "net": "factorization"}


def test_scores_are_products_of_vectors_and_the_bias():
    model = MatrixFactorization(2, 3, width=2)
    with torch.no_grad():
        model.users.weight.copy_(torch.tensor([[1.0, 0.0], [1.0, 2.0]]))
        model.items.weight.copy_(torch.tensor([[3.0, 1.0], [0.0, 1.0], [1.0, 1.0]]))
        model.bias.copy_(torch.tensor([0.0, 0.0, 10.0]))
    assert model(torch.tensor([1, 0])).tolist() == [[5.0, 2.0, 13.0], [3.0, 0.0, 11.0]]


def test_two_towers_read_the_mean_of_what_was_there():
    torch.manual_seed(0)
    model = TwoTower(2, 4)
    user = torch.tensor([1])
    once, twice, padded = (model(user, torch.tensor([recent])) for recent in ([2, -1], [2, 2], [-1, 2]))
    assert torch.allclose(once, twice)
    assert torch.allclose(once, padded)
    assert not torch.allclose(once, model(user, torch.tensor([[-1, -1]])))


@pytest.mark.parametrize("layout", ["entries", "rows"])
@pytest.mark.parametrize("method", ["set", "gmp", "cyclic_pruning"])
def test_masks_of_vectors_are_by_entries_or_by_rows(method, layout):
    stream = drifting_choices(users=50, items=40, each=40, seed=0)
    net = Net({**GENERATED, "method": method, "layout": layout}, stream)
    for users, items in zip(stream.users.split(50), stream.items.split(50), strict=True):
        net.learn(users, items)
    tables = [net.model.users.weight, net.model.items.weight]
    zeros = sum(int((table == 0).sum()) for table in tables)
    assert zeros / sum(table.numel() for table in tables) == pytest.approx(0.8, abs=0.01)
    by_row = torch.cat([(table != 0).double().mean(1) for table in tables])
    partly = float(((by_row > 0) & (by_row < 1)).double().mean())
    assert partly == 0 if layout == "rows" else partly > 0.5
    assert int((net.model.bias != 0).sum()) > 30  # not masked


def test_what_is_drawn_again_was_there_before():
    stream = drifting_choices(users=6, items=8, each=8, seed=0)
    net = Net({**GENERATED, "method": "dense", "layout": "none"}, stream)
    net.learn(stream.users[:6], stream.items[:6])
    net.learn(stream.users[6:12], stream.items[6:12])
    assert net.past[:12, 0].tolist() == stream.users[:12].tolist()
    assert net.past[:12, 1].tolist() == stream.items[:12].tolist()
    assert net.past[:6, 2:].unique().tolist() == [-1]
    # In the second round each user has had one film, which was the context then.
    first = dict(zip(stream.users[:6].tolist(), stream.items[:6].tolist(), strict=True))
    assert net.past[6:12, -1].tolist() == [first[user] for user in stream.users[6:12].tolist()]


def test_sizes_by_hand():
    weight = torch.zeros(16, 4)
    weight[3] = 1.0
    assert stored_bytes(weight) == {"dense": 256, "entries": 8 + 16, "rows": 2 + 16}
    weight[4:, 0] = 1.0
    assert stored_bytes(weight) == {"dense": 256, "entries": 8 + 64, "rows": 2 + 4 * 13 * 4}


def test_factorization_finds_tastes_that_popularity_does_not(monkeypatch):
    stream = drifting_choices(users=300, items=60, each=30, seed=3, strength=6.0, change=False)
    monkeypatch.setattr(recommenders, "_stream", lambda *_: stream)
    net = measure({**GENERATED, "method": "dense", "layout": "none"})
    control = measure({"method": "popularity", "net": "control", "layout": "none", "data": "generated"})
    late = slice(24, 32)  # of forty parts: after learning, before the offers run out
    assert sum(net["parts"][late]) > 2 * sum(control["parts"][late])


def test_the_rate_is_chosen_on_the_fifth_before_the_last_and_judged_on_the_last():
    def row(method, seed, fourth, last, rate=None):
        config = {"method": method, "net": "two_tower", "layout": "none", "seed": seed}
        config |= {} if rate is None else {"rate": rate}
        parts = [0.9] * 24 + [fourth] * 8 + [last] * 8
        facts = dict.fromkeys(("ndcg", "recall", "ndcg_last", "recall_last"), last)
        return {"config": config, **facts, "parts": parts, "kilobytes": 1.0}

    rows = [row("dense", seed, 0.2, 0.3) for seed in range(2)] + [row("dense", s, 0.1, 0.9, 1e-2) for s in range(2)]
    rows += [row("gmp", seed, 0.2, 0.2) for seed in range(2)] + [row("gmp", s, 0.3, 0.25, 1e-2) for s in range(2)]
    controls, plain, tuned = tables(rows)
    assert not controls.lines
    assert [line[0] for line in plain.lines] == ["dense", "GMP"]
    assert plain.lines[1][5] == "-10.00 ± 0.00"
    assert [[line[0], line[1], line[4]] for line in tuned.lines] == [
        ["dense", "0.005", "+0.00 ± 0.00"],
        ["GMP", "0.01", "-5.00 ± 0.00"],
    ]
    assert len(tables(rows[:2] + rows[4:6])) == 2  # nothing was tuned


def test_a_rate_is_the_one_that_learns():
    config = {**GENERATED, "method": "dense", "layout": "none"}
    default, same, slow = (measure({**config, **rate}) for rate in ({}, {"rate": 5e-3}, {"rate": 1e-12}))
    assert default == same
    assert slow["ndcg_last"] < default["ndcg_last"]
