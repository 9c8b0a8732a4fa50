"""Spectra of trajectories: SciPy's transform, Parseval, known splits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import fft

from surgecollapse.analysis.spectrum import evenly_spaced, spectrum, split
from surgecollapse.functional import cutoff_frequency, ema_coefficients

paths = st.tuples(st.integers(2, 70), st.integers(0, 2**20)).map(
    lambda given: np.random.default_rng(given[1]).normal(size=(given[0], 3)).cumsum(0)
)


@given(paths)
def test_power_is_that_of_scipys_transform(path):
    wanted = (fft.dct(path, axis=0, norm="ortho") ** 2).sum(1)[1:] / len(path)
    assert np.allclose(spectrum(path).power, wanted, rtol=1e-9, atol=1e-12 * wanted.max())


@given(paths)
def test_all_power_is_the_mean_squared_distance_from_the_mean(path):
    wanted = ((path - path.mean(0)) ** 2).sum(1).mean()
    assert spectrum(path).total == pytest.approx(wanted, rel=1e-10)


@given(paths, st.floats(0, 0.6), st.floats(0.5, 50))
def test_both_parts_add_up_and_share_the_power(path, cutoff, spacing):
    parts = split(path, cutoff / spacing, spacing)
    assert np.allclose(parts.slow + parts.fast, path)
    assert abs((parts.slow * parts.fast).sum()) < 1e-8 * (path**2).sum()
    found = spectrum(path, spacing)
    share = ((parts.slow - path.mean(0)) ** 2).sum() / ((path - path.mean(0)) ** 2).sum()
    assert found.slow_share(cutoff / spacing) == pytest.approx(share, abs=1e-9)


def test_a_known_sum_of_components_is_taken_apart_exactly():
    t = np.arange(64)
    drift = np.stack([3 * np.cos(np.pi * 2 * (t + 0.5) / 64) + 5, np.cos(np.pi * (t + 0.5) / 64)], 1)
    tremor = np.stack([np.cos(np.pi * 40 * (t + 0.5) / 64), -2 * np.cos(np.pi * 33 * (t + 0.5) / 64)], 1)
    parts = split(drift + tremor, cutoff=0.1, spacing=1.0)
    assert np.allclose(parts.slow, drift)
    assert np.allclose(parts.fast, tremor)
    assert spectrum(drift + tremor).slow_share(0.1) == pytest.approx((9 + 1) / (9 + 1 + 1 + 4))


def test_an_oscillation_on_a_drift_is_told_from_it():
    steps = np.arange(0, 6_000, 20)
    drift, wave = 1e-3 * steps, 0.3 * np.sin(2 * np.pi * steps / 100)
    cutoff = cutoff_frequency(*ema_coefficients(0.98))  # a period of 310 steps
    parts = split(drift + wave, cutoff, spacing=20)
    inside = slice(15, -15)
    assert np.abs(parts.slow - drift)[inside].max() < 0.02
    assert np.abs(parts.fast - wave)[inside].max() < 0.02
    found = spectrum(drift + wave, spacing=20)
    fast = found.frequencies > cutoff
    assert found.frequencies[fast][found.power[fast].argmax()] == pytest.approx(0.01, rel=1e-3)


def test_a_straight_path_does_not_look_fast():
    # A ramp has power ~1/k⁴ at the odd k, which sums to π⁴/96; a Fourier transform would give 1/k² at all of them.
    wanted = (1 + 1 / 3**4) / (np.pi**4 / 96)
    assert spectrum(np.arange(2_000.0)).slow_share(3.5 / 4_000) == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize(
    ("steps", "wanted"),
    [
        ([0, 10, 20, 30, 37], slice(0, 4)),
        ([5, 10, 20, 30, 40], slice(1, 5)),
        ([0, 10, 20, 20], slice(0, 3)),
        ([3, 3, 3, 7], slice(2, 4)),
        ([0, 1], slice(0, 2)),
        ([4], slice(0, 0)),
        ([], slice(0, 0)),
    ],
)
def test_only_evenly_spaced_records_are_transformed(steps, wanted):
    assert evenly_spaced(steps) == wanted


def test_a_resting_trajectory_is_slow():
    assert spectrum(np.ones((5, 2))).slow_share(0.1) == 1.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: spectrum([1.0]), r"two points at least, got the shape \(1,\)"),
        (lambda: spectrum([1.0, float("nan")]), "not finite"),
        (lambda: split([1.0, 2.0], -0.1), "cutoff must be a frequency ≥ 0"),
        (lambda: split([1.0, 2.0], float("nan")), "cutoff must be a frequency ≥ 0"),
    ],
)
def test_what_has_no_spectrum_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_complex_paths_are_refused():
    for measure in (spectrum, lambda x: split(x, 0.1)):
        with pytest.raises(ValueError, match="real trajectory"):
            measure(np.exp(1j * np.arange(9)))


@pytest.mark.parametrize("spacing", [1, 10])
@pytest.mark.parametrize("records", [8, 60])
def test_a_share_is_determined_between_half_a_period_of_the_record_and_the_distance_of_two(records, spacing):
    found = spectrum(np.arange(records) % 3, spacing)
    lowest, highest = 1 / (2 * records * spacing), 1 / (2 * spacing)
    assert not found.doubt(lowest)
    assert not found.doubt(0.999 * highest)
    assert "shorter than half a period" in found.doubt(0.999 * lowest)
    assert "shorter than half a period" in found.doubt(0.0)
    assert f"records {spacing} steps apart" in found.doubt(highest)
