"""Grokfast step by step: closed forms, the traps of published implementations, state, memory."""

from __future__ import annotations

import copy
import io
import pickle
import shutil

import pytest
import torch
from torch import nn

import surgecollapse
from surgecollapse import Grokfast, GrokfastMA
from surgecollapse.functional import filters
from surgecollapse.gradients import slow_gradients
from surgecollapse.gradients.fused_kernels import ema_pass, ma_pass
from surgecollapse.torch_utils import compiled
from surgecollapse.torch_utils.chunking import BLOCK, blocks

FILTERS = {
    "ema": lambda **kw: Grokfast(alpha=0.9, lamb=2.0, **kw),
    "ema from zero": lambda **kw: Grokfast(alpha=0.9, lamb=2.0, start="zero", **kw),
    "ma": lambda **kw: GrokfastMA(window=7, lamb=5.0, **kw),
    "ma at once": lambda **kw: GrokfastMA(window=7, lamb=5.0, warmup=False, **kw),
    "sum": lambda **kw: GrokfastMA(window=7, lamb=0.5, filter="sum", **kw),
}
every_filter = pytest.mark.parametrize("make", FILTERS.values(), ids=FILTERS)
both_ways = pytest.mark.parametrize("accelerator", [False, True], ids=["host", "flags"])


@pytest.fixture
def accelerator(request, monkeypatch):
    """Let CPU gradients take the path on which the host waits for nothing."""
    for kind in (Grokfast, GrokfastMA):
        if request.param:
            monkeypatch.setattr(kind, "_waits_for", staticmethod(lambda grad: False))
    return request.param


both_paths = pytest.mark.parametrize("accelerator", [False, True], ids=["host", "flags"], indirect=True)


def run(transform, history, param=None):
    """Feed gradients, one a step, each in a tensor of its own; return what comes out."""
    param = torch.zeros(history.shape[1:]) if param is None else param
    results = history.clone()
    for result in results:
        transform([param], [result])
    return results


def noise(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def expected(make, history):
    given = make()
    if isinstance(given, Grokfast):
        return filters.grokfast(history, given.alpha, given.lamb, start=given.start)
    options = {"warmup": given.warmup, "filter": given.filter}
    return filters.grokfast_ma(history, given.window, given.lamb, **options)


@both_paths
@every_filter
@pytest.mark.parametrize("signal", ["impulse", "step", "ramp", "constant", "noise"])
def test_a_thousand_steps_are_the_direct_computation_in_float64(make, signal, accelerator):
    steps = torch.arange(1000.0)
    history = {
        "impulse": (steps == 20).float(),
        "step": (steps >= 20).float(),
        "ramp": steps / 100,
        "constant": torch.full_like(steps, 0.3),
        "noise": noise(1000),
    }[signal]
    history = torch.stack([history, -2 * history], 1)
    assert torch.allclose(run(make(), history).double(), expected(make, history), rtol=3e-6, atol=3e-6)


@both_paths
@pytest.mark.parametrize("set_to_none", [True, False])
@every_filter
def test_a_constant_gradient_settles_at_the_closed_form_in_both_zero_grad_modes(make, set_to_none, accelerator):
    param = nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.SGD([param], lr=0.0)
    transform = make()
    surgecollapse.transform_gradients(optimizer, [transform])
    for step in range(1, 400):
        optimizer.zero_grad(set_to_none=set_to_none)
        (0.7 * param).sum().backward()
        optimizer.step()
        if isinstance(transform, Grokfast):
            gain = 1 + 2.0 * (1 if transform.start == "gradient" else 1 - 0.9**step)
        else:
            full = step >= 7 or not transform.warmup
            gain = 1 + (transform.lamb * (7 if transform.filter == "sum" else 1) if full else 0)
        assert torch.allclose(param.grad, torch.full((3,), 0.7 * gain), rtol=1e-5)


def test_gradients_are_copied_never_kept():
    param, shared = torch.zeros(4), torch.ones(4)
    for make in FILTERS.values():
        transform = make()
        for _ in range(10):
            transform([param], [shared.fill_(1.0)])
            saved = transform.state_dict([param])
            shared.fill_(float("nan"))
            again = transform.state_dict([param])
            for name, (value,) in saved.items():
                assert value == again[name][0] if isinstance(value, int) else torch.equal(value, again[name][0])


@both_paths
@every_filter
def test_amplification_zero_is_bitwise_the_untouched_optimizer(make, accelerator):
    transform = make()
    transform.lamb = 0.0
    history = noise(20, 5)
    history[:, 0] = -0.0
    history[3, 1], history[4, 2] = float("nan"), float("inf")
    assert run(transform, history).view(torch.int32).equal(history.view(torch.int32))


@both_paths
@every_filter
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("when", [[0], [1], [5, 6], [25]])
def test_gradients_that_are_not_finite_pass_untouched_and_leave_no_trace(make, bad, when, accelerator):
    history = noise(40, 6)
    history[:, 5] = -0.0
    broken = history.clone()
    broken[when, 2] = bad
    params = [torch.zeros(6), torch.zeros(6)]
    transform = make()
    results, others = broken.clone(), history.clone()
    for pair in zip(results, others, strict=True):
        transform(params, pair)
    assert results[when].view(torch.int32).equal(broken[when].view(torch.int32))
    # The filter goes on as if those steps had not been, and the neighbor was not held up.
    kept = [step for step in range(40) if step not in when]
    assert torch.allclose(results[kept].double(), expected(make, history[kept]), atol=1e-5)
    assert torch.allclose(others.double(), expected(make, history), atol=1e-5)


@both_paths
@every_filter
def test_finite_gradients_whose_sum_overflows_are_filtered(make, accelerator):
    history = torch.full((8, 100), 3e37)
    assert torch.isinf(history[0].sum())
    transform = make()
    transform.lamb = 0.5
    assert (run(transform, history)[-1] > history[-1]).all()


@every_filter
def test_a_parameter_that_first_gets_a_gradient_at_step_1000_starts_then(make):
    first, late = torch.zeros(3), torch.zeros(3)
    transform, history = make(), noise(1030, 3)
    results = history.clone()
    for step, result in enumerate(results):
        other = torch.ones(3)
        transform([first, late] if step >= 1000 else [first], [other, result] if step >= 1000 else [other])
    assert torch.equal(results[:1000], history[:1000])
    assert torch.allclose(results[1000:].double(), expected(make, history[1000:]), atol=1e-5)


def test_the_published_rules_in_closed_form_on_an_impulse():
    impulse = torch.zeros(6, 1)
    impulse[0] = 1.0
    # Published code: h starts at the first gradient, so the impulse fades from 1, not from 1 − α.
    assert run(Grokfast(0.5, 1.0), impulse).flatten().tolist() == [2.0, 0.5, 0.25, 0.125, 0.0625, 0.03125]
    assert run(Grokfast(0.5, 1.0, start="zero"), impulse).flatten().tolist()[:3] == [1.5, 0.25, 0.125]
    # Published code waits for a full window; the paper filters at once.
    assert run(GrokfastMA(4, 1.0), impulse).flatten().tolist() == [1.0, 0.0, 0.0, 0.25, 0.0, 0.0]
    at_once = run(GrokfastMA(4, 1.0, warmup=False), impulse).flatten().tolist()
    assert at_once == pytest.approx([2.0, 1 / 2, 1 / 3, 1 / 4, 0.0, 0.0])


def direct_error(transform, history, window):
    """Largest error of the running sum over all steps, in units u·S of rounding of the largest sum |g| in 2w steps."""
    param, worst = torch.zeros(history.shape[1:]), 0.0
    stored = history.to(transform.buffer_dtype or history.dtype).double()
    prefix = torch.cat([torch.zeros_like(stored[:1]), stored.cumsum(0)])
    sizes = torch.cat([torch.zeros_like(stored[:1]), stored.abs().cumsum(0)])
    of_window = sizes[1:] - torch.cat([sizes[:1].expand(window - 1, -1), sizes[:-window]])
    for step, gradient in enumerate(history.clone()):
        transform([param], [gradient])
        if step % 501 == 0:
            total = transform.state_dict([param])["total"][0].double()
            direct = prefix[step + 1] - prefix[max(0, step + 1 - window)]
            size = of_window[max(0, step + 1 - 2 * window) : step + 1].amax(0)
            worst = max(worst, ((total - direct).abs() / (2**-24 * size)).max().item())
    return worst


@pytest.mark.slow
@pytest.mark.parametrize("buffer_dtype", [None, torch.bfloat16])
def test_the_running_sum_does_not_drift_over_five_hundred_windows(buffer_dtype):
    # One bad step every now and then is the worst for a running sum: its rounding error would stay for ever.
    history = noise(25_000, 3) + 0.5
    history[::9973] *= 1e4
    transform = GrokfastMA(window=50, lamb=0.0, buffer_dtype=buffer_dtype)
    bounded = direct_error(transform, history, 50)
    assert bounded < 5 * 50
    # The bound holds from any step on, so that it holds after 10⁶; the proof is in the docstring. The same
    # history without sums afresh: the error is of another order.
    transform._to_sum_afresh = lambda state, **_: iter(())
    transform._state.clear()
    assert direct_error(transform, history, 50) > 100 * bounded


@both_paths
@pytest.mark.parametrize("count", [1, 1023, 5000])
def test_every_entry_is_summed_afresh_within_two_windows(count, accelerator):
    transform, param = GrokfastMA(window=4, lamb=1.0), torch.zeros(count)
    history = noise(13, count)
    run(transform, history[:5], param)
    transform._state[param]["total"].fill_(1e9)  # as if rounding had done its worst
    run(transform, history[5:], param)
    assert torch.allclose(transform._state[param]["total"], history[9:].sum(0), atol=1e-5)


@both_paths
def test_a_bfloat16_buffer_sums_what_it_stores(accelerator):
    history = noise(30, 64)
    param, transform = torch.zeros(64), GrokfastMA(window=5, lamb=1.0, buffer_dtype=torch.bfloat16)
    results = run(transform, history, param)
    stored = history[25:].bfloat16().float()
    assert torch.allclose(results[-1], history[-1] + stored.mean(0), atol=1e-6)
    assert transform.state_dict([param])["gradients"][0].dtype == torch.bfloat16


@both_paths
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.complex64])
@every_filter
def test_state_is_at_least_as_precise_as_float32(make, dtype, accelerator):
    param, history = torch.zeros(8, dtype=dtype), noise(60, 8).to(dtype)
    transform = make()
    results = run(transform, history, param)
    state = transform.state_dict([param])
    kept = state["average" if "average" in state else "total"][0]
    assert kept.dtype == torch.promote_types(dtype, torch.float32)
    wanted = expected(make, history.real if dtype.is_complex else history)
    got = results.real if dtype.is_complex else results
    assert torch.allclose(got.double(), wanted, rtol=2 * torch.finfo(dtype).eps, atol=1e-5)


@both_paths
@every_filter
@pytest.mark.parametrize("layout", ["channels_last", "transposed", "strided"])
def test_any_memory_format_gives_the_same_numbers(make, layout, accelerator):
    history = noise(30, 4, 6, 5, 3)
    wanted = run(make(), history)
    transform, param = make(), torch.zeros(4, 6, 5, 3)
    for step in range(30):
        gradient = {
            "channels_last": lambda g: g.clone().to(memory_format=torch.channels_last),
            "transposed": lambda g: g.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0),
            "strided": lambda g: g.repeat_interleave(2, dim=1)[:, ::2],
        }[layout](history[step])
        if step == 20:  # and the format may change on the way
            gradient = gradient.clone(memory_format=torch.contiguous_format)
        transform([param], [gradient])
        assert torch.allclose(gradient, wanted[step], rtol=1e-6, atol=1e-6)


@both_paths
def test_many_tensors_of_all_sizes_are_filtered_as_each_alone(accelerator):
    sizes = [(), (0,), (1,), (3, 3), (BLOCK - 1,), (BLOCK + 1,), (3, BLOCK), (7,)]
    for make in FILTERS.values():
        together, params = make(), [torch.zeros(size) for size in sizes]
        alone = [make() for _ in sizes]
        for step in range(9):
            grads = [noise(*size, seed=step) for size in sizes]
            copies = [grad.clone() for grad in grads]
            together(params, grads)
            for transform, param, grad, other in zip(alone, params, grads, copies, strict=True):
                transform([param], [other])
                if isinstance(transform, Grokfast):
                    assert torch.equal(grad, other)
                else:  # when a sum is formed afresh depends on the parameters before it
                    assert torch.allclose(grad, other, rtol=1e-6, atol=1e-5)


@both_paths
@every_filter
def test_parameters_come_late_and_pause(make, accelerator):
    shapes = [(3, 4), (1500,), (), (2, 1024)]
    given = {0: [0, 1], 1: [0, 1], 2: [1], 3: [3, 0], 4: [3, 0, 1, 2], 5: [2], 6: [0, 1, 2, 3], 7: [0, 1, 2, 3]}
    params, together, alone = [torch.zeros(shape) for shape in shapes], make(), [make() for _ in shapes]
    for step in range(24):
        chosen = given.get(step, [1, 0, 3, 2])
        grads = [noise(*shapes[i], seed=10 * step + i) for i in chosen]
        copies = [grad.clone() for grad in grads]
        together([params[i] for i in chosen], grads)
        for i, grad, other in zip(chosen, grads, copies, strict=True):
            alone[i]([params[i]], [other])
            assert torch.allclose(grad, other, rtol=1e-6, atol=1e-5)


@every_filter
@pytest.mark.parametrize("accelerator", [True], ids=["flags"], indirect=True)
def test_what_is_not_finite_is_kept_out_of_its_own_parameter_alone(make, accelerator):
    shapes = [(3, 4), (5,), (2, 600)]
    params, together, alone = [torch.zeros(shape) for shape in shapes], make(), [make() for _ in shapes]
    orders = [[0, 1], [1, 2], [0, 1, 2], [2, 0, 1], [1, 0], [0, 1, 2], [2, 1, 0]]
    for step in range(28):
        chosen = orders[step % len(orders)]
        grads = [noise(*shapes[i], seed=10 * step + i) for i in chosen]
        if step % 3 == 2:
            grads[step % len(grads)].view(-1)[1] = float("nan")
        copies = [grad.clone() for grad in grads]
        together([params[i] for i in chosen], grads)
        for i, grad, other in zip(chosen, grads, copies, strict=True):
            alone[i]([params[i]], [other])
            assert torch.allclose(grad, other, rtol=1e-6, atol=1e-5, equal_nan=True)


@both_paths
@pytest.mark.parametrize("lamb", [0.1, 0.3])
def test_float64_gradients_are_amplified_in_float64(lamb, accelerator):
    history = noise(30, 9, dtype=torch.float64)
    for transform in (Grokfast(0.9, lamb), GrokfastMA(7, lamb, warmup=False)):
        wanted = expected(lambda given=transform: given, history)
        assert torch.allclose(run(transform, history), wanted, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("accelerator", [True], ids=["flags"], indirect=True)
def test_a_parameter_that_changes_its_precision_takes_its_mean_along(accelerator):
    param, transform = torch.zeros(3), Grokfast(0.5, 1.0)
    for dtype, value, wanted in [(torch.float32, 4.0, 8.0), (torch.bfloat16, 8.0, 14.0), (torch.float32, 2.0, 6.0)]:
        gradient = torch.full((3,), value, dtype=dtype)
        transform([param], [gradient])
        assert gradient.tolist() == [wanted] * 3
        assert transform.state_dict([param])["average"][0][0].item() == wanted - value


@pytest.mark.parametrize("accelerator", [True], ids=["flags"], indirect=True)
def test_a_sum_that_overflows_harms_nothing_while_the_window_fills(accelerator):
    history = torch.full((12, 4), 3e37)
    assert torch.equal(run(GrokfastMA(20, 1.0), history), history)


@pytest.mark.parametrize("accelerator", [True], ids=["flags"], indirect=True)
def test_a_late_parameter_does_not_break_the_bitwise_resume(accelerator):
    params = [torch.zeros(3000), torch.zeros(700)]

    def steps(transform, first, last):
        results = []
        for step in range(first, last):
            chosen = [0] if step < 3 else [1] if step < 5 else [0, 1]
            grads = [noise(len(params[i]), seed=2 * step + i) for i in chosen]
            transform([params[i] for i in chosen], grads)
            results += grads
        return torch.cat(results)

    whole, first = GrokfastMA(4, 1.0), GrokfastMA(4, 1.0)
    steps(whole, 0, 9)
    wanted = steps(whole, 9, 40)
    steps(first, 0, 9)
    second = GrokfastMA(4, 1.0)
    second.load_state_dict(first.state_dict(params), params)
    assert torch.equal(steps(second, 9, 40), wanted)


@every_filter
@pytest.mark.parametrize("accelerator", [True], ids=["flags"], indirect=True)
def test_a_pickle_holds_each_parameter_once(make, accelerator):
    params = [torch.zeros(1000) for _ in range(20)]
    transform = make()
    transform(params, [torch.ones(1000) for _ in params])
    state = sum(value.nbytes for column in transform.state_dict(params).values() for value in column)
    assert len(pickle.dumps(transform)) < 1.2 * (state + 20 * 4000) + 20_000


@every_filter
def test_state_moves_between_the_two_paths(make, monkeypatch):
    history = noise(40, 5, 300)
    wanted, param, transform = run(make(), history), torch.zeros(5, 300), make()
    results = history.clone()
    for step, result in enumerate(results):
        if step % 10 == 0:
            monkeypatch.setattr(type(transform), "_waits_for", staticmethod(lambda grad, step=step: step % 20 > 0))
            saved = transform.state_dict([param])
            transform = make()
            transform.load_state_dict(saved, [param])
        transform([param], [result])
    assert torch.allclose(results, wanted, rtol=1e-6, atol=1e-5)


def test_blocks_cover_every_entry_once():
    tensors = [torch.zeros(5), torch.zeros(2, 3).T, torch.zeros(4, 4)[:, ::2], torch.zeros(11)]
    for lists in blocks([(tensor, tensor) for tensor in tensors], 4):
        assert [view.data_ptr() for view in lists[0]] == [view.data_ptr() for view in lists[1]]
        torch._foreach_add_(lists[0], 1.0)
    assert all((tensor == 1).all() for tensor in tensors)


def test_sparse_gradients_are_refused_clearly():
    embedding = nn.Embedding(5, 2, sparse=True)
    embedding(torch.tensor([1])).sum().backward()
    for make in FILTERS.values():
        with pytest.raises(TypeError, match=r"needs dense gradients, got torch.sparse_coo.*\(5, 2\).*sparse=False"):
            make()([embedding.weight], [embedding.weight.grad])


def net():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5), nn.Linear(5, 2))


class Training:
    def __init__(self, make):
        self.model = net().to(memory_format=torch.channels_last)
        self.transform = make()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-2)

    def steps(self, first, last):
        for step in range(first, last):
            x = noise(8, 3, 6, 6, seed=step)
            self.optimizer.zero_grad()
            # The last layer's gradients come late.
            output = self.model[:4](x) if step < 3 else self.model(x)
            output.square().mean().backward()
            params = [p for p in self.model.parameters() if p.grad is not None]
            self.transform(params, [p.grad for p in params])
            self.optimizer.step()
        return torch.cat([p.detach().flatten() for p in self.model.parameters()])


@both_paths
@pytest.mark.parametrize("stop", [2, 11])
@every_filter
def test_resume_is_bitwise(make, stop, tmp_path, accelerator):
    whole = Training(make)
    wanted = whole.steps(0, 25)
    first = Training(make)
    first.steps(0, stop)
    params = list(first.model.parameters())
    parts = {"m": first.model.state_dict(), "o": first.optimizer.state_dict(), "t": first.transform.state_dict(params)}
    torch.save(parts, tmp_path / "state.pt")
    first.steps(stop, 25)  # what was saved must not move on with it
    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    second = Training(make)
    second.model.load_state_dict(saved["m"])
    second.optimizer.load_state_dict(saved["o"])
    second.transform.load_state_dict(saved["t"], list(second.model.parameters()))
    assert torch.equal(second.steps(stop, 25), wanted)


@both_paths
@every_filter
@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_copies_go_on_by_themselves_bitwise(make, how, accelerator):
    training = Training(make)
    training.steps(0, 11)
    other = copy.deepcopy(training) if how == "deepcopy" else pickle.loads(pickle.dumps(training))
    wanted = training.steps(11, 25)
    assert torch.equal(other.steps(11, 25), wanted)


@both_paths
@every_filter
def test_state_neither_aliases_nor_lets_others_in(make, accelerator):
    transform, params = make(), [torch.zeros(3), torch.zeros(3)]
    transform(params[:1], [torch.ones(3)])
    saved = transform.state_dict(params)
    assert all(column[1] is None for column in saved.values())
    buffer = io.BytesIO()
    torch.save(saved, buffer)
    transform(params[:1], [torch.ones(3) * 5])
    buffer.seek(0)
    for name, column in torch.load(buffer, weights_only=True).items():
        value = column[0]
        assert value == saved[name][0] if isinstance(value, int) else torch.equal(value, saved[name][0])
    other = make()
    other.load_state_dict(saved, params)
    other(params[:1], [torch.ones(3) * 5])
    third = make()
    third.load_state_dict(saved, params)
    for name in saved:
        mine = third.state_dict(params)[name][0]
        assert mine == saved[name][0] if isinstance(mine, int) else torch.equal(mine, saved[name][0])
    # A parameter without state in the checkpoint has none afterwards.
    other(params, [torch.ones(3), torch.ones(3)])
    other.load_state_dict(saved, params)
    assert other.state_dict(params)[next(iter(saved))][1] is None


def test_a_window_loaded_in_another_memory_format_is_put_in_order():
    param = torch.zeros(2, 3, 4, 5)
    history = noise(20, 2, 3, 4, 5)
    one = GrokfastMA(window=4, lamb=1.0)
    for gradient in history[:6].clone():
        one([param], [gradient.to(memory_format=torch.channels_last)])
    saved = one.state_dict([param])
    saved["gradients"] = [saved["gradients"][0].contiguous()]
    other = GrokfastMA(window=4, lamb=1.0)
    other.load_state_dict(saved, [param])
    result = history[6:].clone()
    for gradient in result:
        other([param], [gradient])
    wanted = filters.grokfast_ma(history, 4, 1.0)[6:]
    assert torch.allclose(result.double(), wanted, atol=1e-5)


def test_states_that_do_not_fit_are_refused():
    param = torch.zeros(3)
    ema, ma = Grokfast(), GrokfastMA(window=3)
    ema([param], [torch.ones(3)])
    ma([param], [torch.ones(3)])
    with pytest.raises(ValueError, match=r"Grokfast needs average, started for 1 parameters, got gradients \(1\)"):
        ema.load_state_dict(ma.state_dict([param]), [param])
    with pytest.raises(ValueError, match="for 2 parameters"):
        ema.load_state_dict(ema.state_dict([param]), [param, torch.zeros(3)])
    with pytest.raises(ValueError, match=r"mean has the shape \(3,\), the parameter \(4,\)"):
        ema.load_state_dict(ema.state_dict([param]), [torch.zeros(4)])
    with pytest.raises(ValueError, match=r"shape \(3, 3\), expected \(5, 3\): keep window="):
        GrokfastMA(window=5).load_state_dict(ma.state_dict([param]), [param])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Grokfast(alpha=1.0), r"alpha must lie in \[0, 1\), got 1.0"),
        (lambda: Grokfast(lamb=float("inf")), "lamb must be finite"),
        (lambda: Grokfast(start="weights"), "start must be 'gradient' or 'zero'"),
        (lambda: GrokfastMA(window=0), "window must be a whole number"),
        (lambda: GrokfastMA(filter="median"), "filter must be 'mean' or 'sum'"),
        (lambda: GrokfastMA(buffer_dtype=torch.float16), "buffer_dtype must be bfloat16"),
    ],
)
def test_options_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_two_groups_can_have_settings_of_their_own():
    slow, fast, plain = (nn.Parameter(torch.zeros(2)) for _ in range(3))
    optimizer = torch.optim.SGD([{"params": [slow]}, {"params": [fast], "lr": 0.0}, {"params": [plain]}], lr=0.0)
    chain = [Grokfast(0.98, 2.0, parameters=[slow]), GrokfastMA(3, 5.0, parameters=iter([fast]))]
    handle = surgecollapse.transform_gradients(optimizer, chain)
    for _ in range(5):
        optimizer.zero_grad()
        (slow.sum() + fast.sum() + plain.sum()).backward()
        optimizer.step()
    assert slow.grad.tolist() == pytest.approx([3.0, 3.0])
    assert fast.grad.tolist() == pytest.approx([6.0, 6.0])
    assert plain.grad.tolist() == [1.0, 1.0]
    kept = handle.state_dict()["transforms"]
    assert [value is None for value in kept[0]["average"]] == [False, True, True]


@every_filter
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_allocates_next_to_nothing(make, dtype):
    params = [torch.zeros(500_000, dtype=dtype), torch.zeros(16, 10, dtype=dtype)]
    transform = make()
    grads = [torch.ones_like(param) for param in params]
    for _ in range(8):
        transform(params, grads)
    with torch.profiler.profile(profile_memory=True) as profile:
        for _ in range(8):
            transform(params, grads)
    taken = [max(event.self_cpu_memory_usage, 0) for event in profile.events()]
    if dtype is torch.float32:
        assert sum(taken) / 8 < 10_000
    else:  # mixed precision goes through casts of a block, one at a time
        assert max(taken) <= 4 * BLOCK


# compiled passes


@pytest.fixture
def eager(monkeypatch):
    """Run the passes themselves, without a compiler: what they compute is their own affair."""
    monkeypatch.setattr(compiled, "_compiled", lambda function: function)
    monkeypatch.setattr(slow_gradients, "SMALLEST", 16)


@both_paths
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("buffer_dtype", [None, torch.bfloat16, torch.float32])
def test_gradients_whose_sum_over_the_window_would_overflow_stay_out(dtype, buffer_dtype, fused, accelerator, eager):
    largest = torch.finfo(torch.float32 if buffer_dtype and dtype is torch.float64 else dtype).max
    history = noise(60, 32).to(dtype)
    history[20:22] = 0.7 * largest
    transform = GrokfastMA(window=10, lamb=1.0, buffer_dtype=buffer_dtype, compile=fused)
    results = run(transform, history)
    assert torch.equal(results[20:22], history[20:22])
    assert torch.isfinite(results).all()
    wanted = expected(lambda: GrokfastMA(window=10, lamb=1.0), history[22:])[12:]
    assert torch.allclose(results[34:].double(), wanted, atol=1e-1 if buffer_dtype is torch.bfloat16 else 1e-5)


@both_paths
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@every_filter
def test_single_passes_compute_what_plain_operations_do(make, dtype, eager, monkeypatch, accelerator):
    calls = []
    real = compiled._compiled
    monkeypatch.setattr(compiled, "_compiled", lambda function: calls.append(function) or real(function))
    history = noise(25, 64, dtype=dtype)
    plain, passed = run(make(), history), run(make(compile=True), history)
    assert calls
    assert torch.allclose(passed.double(), plain.double(), rtol=2 * torch.finfo(dtype).eps, atol=1e-5)


@every_filter
def test_single_passes_keep_values_that_are_not_finite_out_entry_by_entry(make, eager):
    history = noise(40, 64)
    broken = history.clone()
    broken[20, 3], broken[20, 7] = float("nan"), -float("inf")
    plain, passed = run(make(compile=True), history), run(make(compile=True), broken)
    healthy = [entry for entry in range(64) if entry not in (3, 7)]
    assert torch.equal(passed[:, healthy], plain[:, healthy])
    assert torch.equal(passed[20, [3, 7]].isfinite(), torch.tensor([False, False]))
    assert passed[21:].isfinite().all()


@every_filter
def test_single_passes_without_amplification_touch_nothing(make, eager):
    transform = make(compile=True)
    transform.lamb = 0.0
    history = noise(12, 64)
    history[:, 0] = -0.0
    assert run(transform, history).view(torch.int32).equal(history.view(torch.int32))


def test_without_a_compiler_there_is_one_warning_and_the_same_result(monkeypatch):
    def missing(function):
        raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found\nand more")

    monkeypatch.setattr(compiled, "_compiled", missing)
    monkeypatch.setattr(slow_gradients, "SMALLEST", 16)
    monkeypatch.setattr(compiled, "_proven", set())
    monkeypatch.setattr(compiled, "_refused", set())
    history = noise(6, 64)
    with pytest.warns(RuntimeWarning, match=r"compile=True could not.*No working C\+\+ compiler found\): install"):
        got = run(Grokfast(0.9, 2.0, compile=True), history)
    assert torch.equal(got, run(Grokfast(0.9, 2.0), history))


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_compiled_training_is_the_plain_one_and_resumes_bitwise():
    def trained(stop=None):
        param = nn.Parameter(torch.zeros(2, compiled.SMALLEST).T)
        optimizer, transform = torch.optim.SGD([param], lr=0.1), GrokfastMA(3, 2.0, compile=True)
        handle = surgecollapse.transform_gradients(optimizer, [Grokfast(0.9, compile=True), transform])
        for step in range(12):
            if step == stop:
                saved = handle.state_dict()
                handle.remove()
                chain = [Grokfast(0.9, compile=True), GrokfastMA(3, 2.0, compile=True)]
                handle = surgecollapse.transform_gradients(optimizer, chain)
                handle.load_state_dict(saved)
            param.grad = noise(*param.shape, seed=step)
            optimizer.step()
        return param.detach()

    whole = trained()
    assert {ema_pass, ma_pass} <= compiled._proven
    assert torch.equal(trained(stop=7), whole)
    assert torch._dynamo.utils.counters["frames"]["ok"] > 0


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_one_kernel_serves_tensors_of_every_size_and_rank(monkeypatch):
    monkeypatch.setattr(slow_gradients, "SMALLEST", 100)
    counters = torch._dynamo.utils.counters["stats"]
    before = counters["unique_graphs"]
    params = [torch.zeros(shape) for shape in [(400,), (20, 30), (5, 6, 7), (4, 3, 5, 6), (999,)]]
    transform = Grokfast(0.9, 2.0, compile=True)
    for step in range(3):
        grads = [noise(*param.shape, seed=step) for param in params]
        transform(params, grads)
    assert counters["unique_graphs"] - before <= 1
