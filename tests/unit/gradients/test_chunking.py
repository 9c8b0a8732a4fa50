"""Sharing elementwise work among threads: everything is done once, and nobody waits for a thread that does not come."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from surgecollapse import Grokfast, GrokfastMA
from surgecollapse.gradients import chunking
from surgecollapse.gradients.chunking import SERIAL, blocks, share


@pytest.fixture
def threads():
    """Set the number of torch threads; afterwards it is what it was."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("items", [0, 1, 100])
def test_every_item_is_done_once(count, items, threads):
    threads(count)
    done = []
    share(done.append, range(items))
    assert sorted(done) == list(range(items))


def test_several_threads_work_without_gradients(threads):
    threads(2)
    seen = {}

    def work(item):
        time.sleep(0.001)
        seen[threading.current_thread().name] = torch.is_grad_enabled()

    share(work, range(200))
    assert len(seen) == 2
    assert set(seen.values()) == {False}


def test_a_thread_that_does_not_come_is_not_waited_for(threads):
    threads(2)
    until, done = threading.Event(), []
    others = [chunking._pool(2).submit(until.wait, 60) for _ in range(2)]  # all of the pool is busy elsewhere
    try:
        share(done.append, range(100))
        assert done == list(range(100))
        assert not any(other.done() for other in others)
    finally:
        until.set()


@pytest.mark.parametrize("where", ["first", "any"])
def test_errors_are_raised_wherever_they_happen(where, threads):
    threads(2)

    def work(item):
        time.sleep(0.001)
        if item == 0 or (where == "any" and threading.current_thread() is not threading.main_thread()):
            raise ValueError("this item")

    with pytest.raises(ValueError, match="this item"):
        share(work, range(100))


def test_with_several_threads_no_view_is_so_large_that_torch_shares_it(threads):
    pairs = [(torch.zeros(n), torch.zeros(n)) for n in (10, 3 * SERIAL + 5, SERIAL, 2 * SERIAL)]
    threads(2)
    views = [view for lists in blocks(pairs) for views in lists for view in views]
    assert max(view.numel() for view in views) == SERIAL
    assert sum(view.numel() for view in views) == 2 * (10 + 3 * SERIAL + 5 + 3 * SERIAL)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("make", [lambda: Grokfast(0.9), lambda: GrokfastMA(3, warmup=False)], ids=["ema", "ma"])
@pytest.mark.parametrize("poison", [False, True])
def test_filters_on_two_threads_compute_bitwise_what_one_does(make, dtype, poison, threads):
    sizes = (1000, 40 * 4 * SERIAL + 17, SERIAL + 1)  # enough lists for two threads to share
    params = [torch.zeros(size, dtype=dtype) for size in sizes]
    results = []
    for count in (1, 2):
        threads(count)
        transform = make()
        for step in range(4):
            generator = torch.Generator().manual_seed(step)
            grads = [torch.rand(size, generator=generator).sub_(0.5).to(dtype) for size in sizes]
            if poison and step == 2:
                grads[1][-1] = float("nan")
            transform(params, grads)
        results.append(grads)
    assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))
