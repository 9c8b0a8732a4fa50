"""The general filter step by step: SciPy's as the oracle, its special cases, traps, state."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal
from torch import nn

import surgecollapse
from rounding import any_order
from surgecollapse import GradientFilter, Grokfast, GrokfastMA
from surgecollapse.functional import (
    cutoff_frequency,
    ema_coefficients,
    frequency_response,
    is_stable,
    largest_pole,
    ma_coefficients,
)
from surgecollapse.torch_utils.chunking import BLOCK

BUTTERWORTH = tuple(map(list, signal.butter(3, 0.05)))
DESIGNS = {
    "gain": ([0.5], [1.0]),
    "ema": ema_coefficients(0.9),
    "ma": ma_coefficients(7),
    "butterworth": BUTTERWORTH,
    "unnormalized": ([1.0, -0.5], [2.0, -1.0, 0.4, 0.1]),
    "long numerator": ([0.1, 0.2, 0.3, 0.4], [1.0, -0.5]),
}
every_design = pytest.mark.parametrize("design", DESIGNS.values(), ids=DESIGNS)


@pytest.fixture
def accelerator(request, monkeypatch):
    """Let CPU gradients take the path on which the host waits for nothing."""
    if request.param:
        monkeypatch.setattr(GradientFilter, "_waits_for", staticmethod(lambda grad: False))


both_paths = pytest.mark.parametrize("accelerator", [False, True], ids=["host", "flags"], indirect=True)


def noise(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def run(transform, history, param=None):
    """Feed gradients, one a step, each in a tensor of its own; return what comes out."""
    param = torch.zeros(history.shape[1:], dtype=history.dtype) if param is None else param
    results = history.clone()
    for result in results:
        transform([param], [result])
    return results


def filtered(history, design, start="zero"):
    """SciPy's filter, from rest or from the state that the first value would have left."""
    b, a = design
    given_history = history.double().numpy()
    if start == "zero" or max(len(a), len(b)) == 1:
        return torch.from_numpy(signal.lfilter(b, a, given_history, axis=0))
    shape = (-1, *[1] * (given_history.ndim - 1))
    state = signal.lfilter_zi(b, a).reshape(shape) * given_history[:1]
    return torch.from_numpy(signal.lfilter(b, a, given_history, axis=0, zi=state)[0])


@both_paths
@every_design
@pytest.mark.parametrize("start", ["zero", "gradient"])
@pytest.mark.parametrize("replace", [False, True])
def test_a_thousand_steps_are_scipys_filter_in_float64(design, start, replace, accelerator):
    steps = torch.arange(1000.0, dtype=torch.float64)
    kinds = [(steps == 20).double(), (steps >= 20).double(), steps / 100, torch.full_like(steps, 0.3), noise(1000)]
    history = torch.stack(kinds, 1)
    wanted = 1.5 * filtered(history, design, start) + (0.0 if replace else history)
    got = run(GradientFilter(*design, lamb=1.5, replace=replace, start=start), history)
    assert torch.allclose(got, wanted, rtol=1e-11, atol=1e-11)


@both_paths
@pytest.mark.parametrize("set_to_none", [True, False])
@every_design
def test_a_constant_gradient_settles_at_the_gain_in_both_zero_grad_modes(design, set_to_none, accelerator):
    for start in ("zero", "gradient"):
        param = nn.Parameter(torch.zeros(3, dtype=torch.float64))
        optimizer = torch.optim.SGD([param], lr=0.0)
        surgecollapse.transform_gradients(optimizer, [GradientFilter(*design, lamb=2.0, start=start)])
        for step in range(1, 400):
            optimizer.zero_grad(set_to_none=set_to_none)
            (0.7 * param).sum().backward()
            optimizer.step()
            if start == "gradient" or step == 399:
                wanted = 0.7 * (1 + 2.0 * sum(design[0]) / sum(design[1]))
                assert torch.allclose(param.grad, torch.full_like(param, wanted), rtol=1e-7), step


@pytest.mark.parametrize("start", ["gradient", "zero"])
def test_the_exponential_mean_is_a_special_case(start):
    history = noise(300, 50)
    general = run(GradientFilter(*ema_coefficients(0.98), lamb=2.0, start=start), history)
    assert torch.allclose(general, run(Grokfast(0.98, 2.0, start=start), history), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("filter", ["mean", "sum"])
def test_the_moving_mean_is_a_special_case(filter):
    history = noise(60, 50)
    general = run(GradientFilter(*ma_coefficients(9, filter), lamb=2.0), history)
    special = run(GrokfastMA(9, 2.0, filter=filter, warmup=False), history)
    first = 8 if filter == "mean" else 0  # a mean of fewer values divides by their number there, by 9 here
    assert torch.allclose(general[first:], special[first:], rtol=1e-13, atol=1e-12)


def denominator(poles):
    """Coefficients with these poles and their conjugates."""
    return np.atleast_1d(np.real(np.poly([*poles, *np.conj(poles)]))).tolist()


@settings(max_examples=40)
@given(
    st.lists(st.floats(-2, 2), min_size=1, max_size=5),
    st.lists(st.complex_numbers(max_magnitude=0.95), max_size=3),
    st.integers(0, 2**20),
)
def test_any_filter_with_its_poles_inside_the_circle_is_scipys(b, poles, seed):
    a = denominator(poles)
    history = torch.from_numpy(np.random.default_rng(seed).normal(size=(60, 3)))
    got = run(GradientFilter(b, a, lamb=1.0), history)
    wanted = history + filtered(history, (b, a))
    assert torch.allclose(got, wanted, rtol=1e-8, atol=1e-8 * float(wanted.abs().max()))


@both_paths
@every_design
@pytest.mark.parametrize("start", ["zero", "gradient"])
@pytest.mark.parametrize("when", [[0], [1], [5, 6], [25]])
def test_gradients_that_are_not_finite_pass_untouched_and_leave_no_trace(design, start, when, accelerator):
    history = noise(40, 6)
    broken = history.clone()
    broken[when, 2] = float("nan")
    results = run(GradientFilter(*design, lamb=1.5, start=start), broken)
    assert results[when].view(torch.int64).equal(broken[when].view(torch.int64))
    kept = [step for step in range(40) if step not in when]
    wanted = history[kept] + 1.5 * filtered(history[kept], design, start)
    assert torch.allclose(results[kept], wanted, atol=1e-11)


@both_paths
@every_design
def test_amplification_zero_is_bitwise_the_untouched_gradient(design, accelerator):
    history = noise(20, 5, dtype=torch.float32)
    history[:, 0] = -0.0
    got = run(GradientFilter(*design, lamb=0.0), history)
    assert got.view(torch.int32).equal(history.view(torch.int32))


@both_paths
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("replace", [False, True])
def test_half_precision_is_filtered_in_float32_and_rounded_once(dtype, replace, accelerator):
    param, history = torch.zeros(8, dtype=dtype), noise(60, 8, dtype=dtype)
    transform = GradientFilter(*BUTTERWORTH, lamb=1.0, replace=replace)
    got = run(transform, history, param).double()
    assert transform.state_dict([param])["memory"][0].dtype == torch.float32
    wanted = filtered(history, BUTTERWORTH) + (0 if replace else history.double())
    assert torch.allclose(got, wanted, rtol=2 * torch.finfo(dtype).eps, atol=1e-3)


@pytest.mark.parametrize("layout", ["channels_last", "transposed", "strided"])
def test_any_memory_format_gives_the_same_numbers(layout):
    history = noise(30, 4, 6, 5, 3)
    wanted = run(GradientFilter(*BUTTERWORTH), history)
    transform, param = GradientFilter(*BUTTERWORTH), torch.zeros(4, 6, 5, 3)
    for step in range(30):
        gradient = {
            "channels_last": lambda g: g.clone().to(memory_format=torch.channels_last),
            "transposed": lambda g: g.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0),
            "strided": lambda g: g.repeat_interleave(2, dim=1)[:, ::2],
        }[layout](history[step])
        transform([param], [gradient])
        assert torch.allclose(gradient, wanted[step], rtol=1e-12, atol=1e-12)


def test_many_tensors_of_all_sizes_are_filtered_as_each_alone():
    sizes = [(), (0,), (1,), (3, 3), (BLOCK - 1,), (3, BLOCK), (7,)]
    together, params = GradientFilter(*BUTTERWORTH), [torch.zeros(size) for size in sizes]
    alone = [GradientFilter(*BUTTERWORTH) for _ in sizes]
    for step in range(5):
        grads = [noise(*size, seed=step, dtype=torch.float32) for size in sizes]
        copies = [grad.clone() for grad in grads]
        together(params, grads)
        for transform, param, grad, other in zip(alone, params, grads, copies, strict=True):
            transform([param], [other])
            assert torch.equal(grad, other)


def test_a_parameter_that_first_gets_a_gradient_at_step_1000_starts_then():
    first, late = torch.zeros(3), torch.zeros(3)
    transform, history = GradientFilter(*BUTTERWORTH, start="gradient"), noise(1030, 3)
    results = history.clone()
    for step, result in enumerate(results):
        other = torch.ones(3)
        transform([first, late] if step >= 1000 else [first], [other, result] if step >= 1000 else [other])
    wanted = history[1000:] + filtered(history[1000:], BUTTERWORTH, "gradient")
    assert torch.allclose(results[1000:], wanted)


@both_paths
@every_design
@pytest.mark.parametrize("start", ["zero", "gradient"])
def test_resume_and_copies_are_bitwise(design, start, accelerator, tmp_path):
    history, params = noise(40, 2, 3, dtype=torch.float32), [torch.zeros(2, 3), torch.zeros(1)]
    whole = run(GradientFilter(*design, start=start), history, params[0])
    first = GradientFilter(*design, start=start)
    run(first, history[:17], params[0])
    torch.save(first.state_dict(params), tmp_path / "state.pt")
    copied, same = copy.deepcopy((first, params))
    assert torch.equal(run(copied, history[17:], same[0]), whole[17:])
    second = GradientFilter(*design, start=start)
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True), params)
    assert torch.equal(run(second, history[17:], params[0]), whole[17:])
    assert second.state_dict(params)["memory"][1] is None


def test_states_that_do_not_fit_are_refused():
    param, first = torch.zeros(3), GradientFilter(*BUTTERWORTH)
    first([param], [torch.ones(3)])
    with pytest.raises(ValueError, match=r"memory has the shape \(3, 3\), expected \(1, 3\): keep the coefficients"):
        GradientFilter(*ema_coefficients(0.9)).load_state_dict(first.state_dict([param]), [param])
    with pytest.raises(ValueError, match="Grokfast needs average"):
        Grokfast().load_state_dict(first.state_dict([param]), [param])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GradientFilter([]), "must each name finite coefficients, at least one"),
        (lambda: GradientFilter([float("nan")]), "finite coefficients"),
        (lambda: GradientFilter([1.0], [0.0, 1.0]), r"a\[0\] must not be zero"),
        (lambda: GradientFilter([1.0], [1.0, -1.0]), "unstable: it has a pole of magnitude 1, .* inside the unit"),
        (lambda: GradientFilter([1.0], [1.0, 0.0, 4.0]), "pole of magnitude 2,"),
        (lambda: GradientFilter([1.0], start="now"), "start must be 'gradient' or 'zero'"),
        (lambda: GradientFilter([1.0], lamb=0.0, replace=True), "would make every gradient zero"),
        (lambda: GradientFilter([1.0], lamb=float("inf")), "lamb must be finite"),
    ],
)
def test_options_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@given(st.lists(st.complex_numbers(max_magnitude=1.5), max_size=3))
def test_stability_is_that_of_the_poles(poles):
    radius = max(map(abs, poles), default=0.0)
    a = denominator(poles)
    # A computed root solves p(z) = Δ, with |Δ| ≤ n·γ_n·Σ|a|·|z|ⁿ. Then ∏|z − z_i| ≤ |Δ|, and one |z − z_i| ≤ |Δ|^(1/n).
    order = 2 * len(poles)
    wrong = order * any_order(order, torch.float64) * sum(map(abs, a)) * max(radius, 1.0) ** order
    bound = 2 * wrong ** (1 / max(order, 1))
    if abs(radius - 1) > max(bound, 1e-2):
        assert is_stable(a) is (radius < 1)
    assert largest_pole(a) == pytest.approx(radius, abs=bound)


def test_cut_off_frequencies_are_known_ones():
    for alpha in (0.5, 0.9, 0.98, 0.999):
        exact = math.acos(1 - (1 - alpha) ** 2 / (2 * alpha)) / (2 * math.pi)
        assert cutoff_frequency(*ema_coefficients(alpha)) == pytest.approx(exact, rel=1e-6)
    assert cutoff_frequency(*BUTTERWORTH) == pytest.approx(0.025, rel=1e-6)
    # The mean of w: |sin(πfw) / (w sin(πf))|² = ½, which for large w is at .4429/w.
    assert cutoff_frequency(*ma_coefficients(1000)) * 1000 == pytest.approx(0.44295, rel=1e-4)
    found = cutoff_frequency(*ma_coefficients(10))
    assert frequency_response(*ma_coefficients(10), torch.tensor(found)).abs() ** 2 == pytest.approx(0.5)
    assert cutoff_frequency([2.0]) == cutoff_frequency(*ema_coefficients(0.01)) == 0.5
    with pytest.raises(ValueError, match="passes constants"):
        cutoff_frequency([1.0, -1.0])
