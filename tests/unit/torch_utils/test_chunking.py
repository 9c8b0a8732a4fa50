"""Sharing elementwise work among threads: everything is done once, and no operation waits for a late thread."""

from __future__ import annotations

import threading
import time
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import torch
from _harness import in_turn, over
from torch.utils._python_dispatch import TorchDispatchMode

from surgecollapse import GradientFilter, Grokfast, GrokfastMA, OrthoGrad
from surgecollapse.act.masked_weights import MaskedWeights
from surgecollapse.observe.dense_gradient import DenseGradient
from surgecollapse.torch_utils import chunking
from surgecollapse.torch_utils.chunking import GROUP, SERIAL, blocks, share


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


def test_lists_to_share_hold_no_view_that_is_so_large_that_torch_shares_it():
    pairs = [(torch.zeros(n), torch.zeros(n)) for n in (10, 3 * SERIAL + 5, SERIAL, 2 * SERIAL)]
    views = [view for lists in blocks(pairs, threads=2) for views in lists for view in views]
    assert max(view.numel() for view in views) == SERIAL
    assert sum(view.numel() for view in views) == 2 * (10 + 3 * SERIAL + 5 + 3 * SERIAL)


def _safely(kind, groups, entries, safe, quick, **_):
    safe([item for group in groups for item in group])


def _quickly(kind, groups, entries, safe, quick, **_):
    for group in groups:
        quick(list(group))


WAYS = [(1, None), (2, _safely), (2, _quickly)]
"""Numbers of threads, and which way they take."""
FILTERS = {
    "ema": lambda: Grokfast(0.9),
    "ma": lambda: GrokfastMA(3, warmup=False),
    "linear": lambda: GradientFilter([0.2, 0.1, 0.3], [1.0, -0.5]),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("make", FILTERS.values(), ids=FILTERS)
@pytest.mark.parametrize("poison", [None, 0, 1])
def test_filters_on_two_threads_compute_bitwise_what_one_does(make, dtype, poison, threads, monkeypatch):
    sizes = (1000, 17 * 4 * SERIAL + 17, SERIAL + 1)  # enough lists for two threads to share
    params = [torch.zeros(size, dtype=dtype) for size in sizes]
    results = []
    for count, way in WAYS:
        threads(count)
        monkeypatch.setattr(chunking, "fastest", way)
        transform = make()
        for step in range(3):
            generator = torch.Generator().manual_seed(step)
            grads = [torch.rand(size, generator=generator).sub_(0.5).to(dtype) for size in sizes]
            if poison is not None and step == 1:
                grads[poison][-1] = float("nan")
                before = grads[poison].clone()
            transform(params, grads)
            if poison is not None and step == 1:  # left as it was, and no part of it filtered
                assert torch.equal(grads[poison].nan_to_num(7.0), before.nan_to_num(7.0))
                assert not torch.equal(grads[2], torch.zeros_like(grads[2]))
        results.append(grads)
    assert all(torch.equal(one, other) for found in results[1:] for one, other in zip(results[0], found, strict=True))


@pytest.mark.parametrize(("count", "way"), WAYS)
@pytest.mark.parametrize("size", [1000, 3 * GROUP + 5])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 3e38, "cancel"])
def test_a_gradient_is_filtered_as_a_whole_or_not_at_all(size, bad, count, way, threads, monkeypatch):
    threads(count)
    monkeypatch.setattr(chunking, "fastest", way)
    transform, params = Grokfast(), [torch.zeros(size), torch.zeros(size)]
    transform(params, [torch.ones(size), torch.ones(size)])
    grads = [torch.ones(size), torch.ones(size)]
    grads[0][-2] = -3e38 if bad == "cancel" else bad  # larger than half of the largest number: too large
    if bad == "cancel":
        grads[0][0] = 3e38
    given = grads[0].clone()
    transform(params, grads)
    assert torch.equal(grads[0].view(torch.int32), given.view(torch.int32))
    assert torch.equal(grads[1], torch.full((size,), 3.0))
    average = transform.state_dict(params)["average"][0]
    assert torch.equal(average, torch.ones(size))


@pytest.mark.parametrize(("count", "way"), WAYS)
def test_large_finite_gradients_whose_squares_overflow_are_filtered(count, way, threads, monkeypatch):
    threads(count)
    monkeypatch.setattr(chunking, "fastest", way)
    size = 3 * GROUP + 5
    transform, param = Grokfast(lamb=0.5), torch.zeros(size)
    gradient = torch.full((size,), 1e30)
    transform([param], [gradient])
    assert torch.equal(gradient, torch.full((size,), 1e30).add_(torch.full((size,), 1e30), alpha=0.5))


@pytest.mark.parametrize("name", ["contiguous", "transposed", "strided", "channels last"])
def test_every_layout_gives_the_same_values(name, threads, monkeypatch):
    def laid(tensor):
        if name == "transposed":
            return tensor.transpose(0, 1).contiguous().transpose(0, 1)
        if name == "strided":
            return tensor.repeat_interleave(2, dim=-1)[..., ::2]
        return tensor.to(memory_format=torch.channels_last) if name == "channels last" else tensor

    results = []
    for count, way in WAYS:
        threads(count)
        monkeypatch.setattr(chunking, "fastest", way)
        generator = torch.Generator().manual_seed(0)
        params = [laid(torch.randn(64, 31, 9, 9, generator=generator)) for _ in range(3)]
        ema, ma, project = Grokfast(), GrokfastMA(3, warmup=False), OrthoGrad()
        for _ in range(3):
            grads = [laid(torch.randn(64, 31, 9, 9, generator=generator)) for _ in params]
            for transform in (project, ema, ma):
                transform(params, grads)
        results.append(grads)
    assert all(torch.equal(one, other) for found in results[1:] for one, other in zip(results[0], found, strict=True))


class Sizes(TorchDispatchMode):
    """Notes the most entries that an operation which computes was given."""

    views = (
        "view",
        "split",
        "split_with_sizes",
        "slice",
        "as_strided",
        "detach",
        "unbind",
        "reshape",
        "select",
        "alias",
        "_unsafe_view",
    )

    def __init__(self):
        super().__init__()
        self.most = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().removeprefix("aten::").split(".")[0]
        tensors = [a for arg in args for a in (arg if isinstance(arg, list | tuple) else [arg]) if torch.is_tensor(a)]
        if name not in self.views and tensors:
            self.most[name] = max(self.most.get(name, 0), *(tensor.numel() for tensor in tensors))
        return func(*args, **(kwargs or {}))


def _masks(params):
    named = {str(i): p for i, p in enumerate(params)}
    weights = MaskedWeights(named)
    weights.set({name: torch.rand_like(p) < 0.5 for name, p in named.items()}, dict.fromkeys(named, 1))
    return lambda *_: (weights.mask_gradients(), weights.apply())


def _signal(params):
    signal, named = DenseGradient(), {str(i): p for i, p in enumerate(params)}
    return lambda *_: signal.update(named)


EVERY_STEP = {
    "Grokfast": lambda _: Grokfast(),
    "GrokfastMA": lambda _: GrokfastMA(3),
    "OrthoGrad": lambda _: OrthoGrad(),
    "OrthoGrad of float64": lambda _: OrthoGrad(),
    "masks": _masks,
    "growth signal": _signal,
}


@pytest.mark.parametrize("name", EVERY_STEP)
def test_no_operation_of_a_step_is_so_large_that_torch_shares_it(name, threads, monkeypatch):
    threads(2)
    monkeypatch.setattr(chunking, "_FEW", 10**9)  # all on this thread, which is the one that is looked at
    monkeypatch.setattr(chunking, "fastest", _safely)
    dtype = torch.float64 if "64" in name else torch.float32
    params = [
        torch.nn.Parameter(torch.randn(64, 1500, dtype=dtype)),
        torch.nn.Parameter(torch.randn(3, 5, dtype=dtype)),
    ]
    step = EVERY_STEP[name](params)
    for _ in range(2):  # state is made in the first step, the second one counts
        grads = [torch.randn_like(p) for p in params]
        for p, grad in zip(params, grads, strict=True):
            p.grad = grad
        with Sizes() as sizes:
            step(params, grads)
    assert sizes.most
    assert {op: most for op, most in sizes.most.items() if most > SERIAL} == {}


def test_masks_and_projections_on_two_threads_are_bitwise_those_of_one(threads, monkeypatch):
    results = []
    for count, way in WAYS:
        threads(count)
        monkeypatch.setattr(chunking, "fastest", way)
        generator = torch.Generator().manual_seed(0)
        params = [torch.nn.Parameter(torch.randn(64, 5000, generator=generator)) for _ in range(12)]
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator)
        torch.manual_seed(0)
        masks, signal = _masks(params), _signal(params)
        for _ in range(2):
            signal()
            OrthoGrad()(params, [p.grad for p in params])
            masks()
        results.append([t for p in params for t in (p.detach(), p.grad)])
    assert all(map(torch.equal, results[0], results[1]))
    assert all(map(torch.equal, results[0], results[2]))


@pytest.mark.slow
def test_steps_beside_a_busy_process_stay_near_the_flat_pass(threads):
    path = Path(__file__).parents[3] / "benchmarks" / "busy.py"
    benchmark = module_from_spec(spec := spec_from_file_location("busy", path))
    spec.loader.exec_module(benchmark)
    threads(2)
    with torch.no_grad(), benchmark.busy(1):
        turns = in_turn(benchmark.actions_for(4_000_000), 15, warm=benchmark.WARM)
    ratios = {name: over(turns, name, flat)["median"] for name, flat in benchmark.FLAT.items()}
    # Barriers of hundreds of small operations cost 22 times the flat pass; more processes than cores, up to 8 times.
    assert {name: ratio for name, ratio in ratios.items() if ratio > 5 * benchmark.GOALS["busy"]} == {}
