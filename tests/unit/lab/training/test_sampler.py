"""The order of training samples where rows are dropped or weighed."""

from __future__ import annotations

import pytest
import torch

from surgecollapse.lab.training.sampler import Batches


def test_dropped_rows_never_come_and_weighed_ones_as_often_as_they_should():
    batches = Batches(50, 8, seed=0)
    next(batches)
    batches.weigh([3, 4], 0.0)
    batches.weigh([10], 3.0)
    batches.weigh([20], 0.5)
    while batches.epoch == 1:  # the rest of this epoch
        assert not {3, 4} & set(next(batches).tolist())
    counts, epochs = torch.zeros(50), 400
    state = batches.state_dict()
    for _ in range(epochs):
        for _ in range(8):  # about 50.5 rows an epoch
            counts += torch.bincount(next(batches), minlength=50)
    epochs = batches.epoch - 1
    assert counts[[3, 4]].sum() == 0
    assert counts[10] == pytest.approx(3 * epochs, abs=4)
    assert counts[20] == pytest.approx(0.5 * epochs, abs=5 * (0.25 * epochs) ** 0.5 + 1)  # five deviations
    again = Batches(50, 8, seed=1)
    again.load_state_dict(state)
    batches.load_state_dict(state)
    assert all(torch.equal(next(again), next(batches)) for _ in range(30))


def test_all_rows_at_once_are_all_that_are_left():
    batches = Batches(5, 0, seed=0)
    assert next(batches).tolist() == [0, 1, 2, 3, 4]
    batches.weigh([1], 0.0)
    assert [next(batches).tolist() for _ in range(2)] == [[0, 2, 3, 4]] * 2
