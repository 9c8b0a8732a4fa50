"""Filters of gradient histories against SciPy, their algebra, and the stepwise transforms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal

from surgecollapse import Grokfast, GrokfastMA
from surgecollapse.functional import filters

coefficient = st.floats(-2, 2)
numerators = st.lists(coefficient, min_size=1, max_size=6)
denominators = st.lists(st.floats(-0.15, 0.15), max_size=5).map(lambda rest: [1.0, *rest])  # stable: Σ|aₖ| < 1
histories = st.integers(0, 2**20).map(lambda seed: torch.from_numpy(np.random.default_rng(seed).normal(size=(40, 3))))


@given(numerators, denominators, st.floats(0.5, 4))
def test_frequency_response_is_scipys(b, a, scale):
    frequencies = torch.linspace(0, 0.5, 33, dtype=torch.float64)
    a = [scale * value for value in a]
    _, wanted = signal.freqz(b, a, worN=2 * np.pi * frequencies.numpy())
    assert np.allclose(filters.frequency_response(b, a, frequencies).numpy(), wanted, rtol=1e-9, atol=1e-9)


@settings(max_examples=30)
@given(histories, numerators, denominators)
def test_linear_filter_is_scipys(history, b, a):
    assert np.allclose(filters.linear_filter(history, b, a).numpy(), signal.lfilter(b, a, history.numpy(), axis=0))


@settings(max_examples=30)
@given(numerators, denominators)
def test_an_oscillation_settles_at_the_frequency_response(b, a):
    frequency = 0.1
    steps = torch.arange(400, dtype=torch.float64)
    response = filters.frequency_response(b, a, torch.tensor(frequency))
    wanted = response.abs() * torch.cos(2 * torch.pi * frequency * steps + response.angle())
    got = filters.linear_filter(torch.cos(2 * torch.pi * frequency * steps), b, a)
    assert torch.allclose(got[-20:], wanted[-20:], atol=1e-6)


def test_a_moving_mean_stops_its_own_frequency_and_passes_a_constant():
    response = filters.frequency_response(
        *filters.ma_coefficients(10), torch.tensor([0.0, 0.1, 0.2]).double().round(decimals=1)
    )
    assert torch.allclose(response.abs(), torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64), atol=1e-15)


@settings(max_examples=30)
@given(histories, st.floats(0, 0.999), st.floats(-3, 3), st.sampled_from(["gradient", "zero"]))
def test_grokfast_step_by_step_is_the_whole_history_at_once(history, alpha, lamb, start):
    transform, param, results = Grokfast(alpha, lamb, start=start), torch.zeros(3), history.clone()
    for result in results:
        transform([param], [result])
    assert torch.allclose(results, filters.grokfast(history, alpha, lamb, start=start))


@settings(max_examples=30)
@given(histories, st.integers(1, 50), st.floats(-3, 3), st.booleans(), st.sampled_from(["mean", "sum"]))
def test_grokfast_ma_step_by_step_is_the_whole_history_at_once(history, window, lamb, warmup, kind):
    transform = GrokfastMA(window, lamb, warmup=warmup, filter=kind)
    param, results = torch.zeros(3), history.clone()
    for result in results:
        transform([param], [result])
    wanted = filters.grokfast_ma(history, window, lamb, warmup=warmup, filter=kind)
    assert torch.allclose(results, wanted, atol=1e-10)


@settings(max_examples=20)
@given(histories, st.integers(1, 12), st.floats(0, 0.99))
def test_grokfast_is_the_gradient_plus_its_linear_filter(history, window, alpha):
    slow = filters.linear_filter(history, *filters.ema_coefficients(alpha))
    assert torch.allclose(filters.grokfast(history, alpha, 2.0, start="zero"), history + 2.0 * slow)
    mean = filters.linear_filter(history, *filters.ma_coefficients(window))
    full = slice(window - 1, None)
    assert torch.allclose(filters.grokfast_ma(history, window, 2.0)[full], (history + 2.0 * mean)[full])


@settings(max_examples=20)
@given(histories, histories, st.floats(-2, 2))
def test_filters_are_linear_and_leave_their_input_alone(one, other, factor):
    before = one.clone()
    for function in (filters.grokfast, lambda x: filters.grokfast_ma(x, 5)):
        assert torch.allclose(function(one + factor * other), function(one) + factor * function(other))
    assert torch.equal(one, before)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: filters.ema_coefficients(1.0), "alpha must lie"),
        (lambda: filters.ma_coefficients(0), "window must be at least 1"),
        (lambda: filters.ma_coefficients(3, "median"), "'mean' or 'sum'"),
        (lambda: filters.linear_filter(torch.ones(3), [], [1.0]), "needs coefficients"),
        (lambda: filters.frequency_response([1.0], [0.0, 1.0], torch.ones(1)), r"a\[0\] not zero"),
        (lambda: filters.grokfast(torch.ones(3), start="theta"), "start must be"),
    ],
)
def test_nonsense_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
