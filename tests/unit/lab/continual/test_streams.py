"""Generated streams and their metrics, against what they are defined to be."""

from __future__ import annotations

import math

import pytest
import torch

from surgecollapse.lab.continual.streams import (
    DRIFTS,
    drifting_hyperplanes,
    drifting_sines,
    kappa_temporal,
    repeat_last_label,
    second_sine,
    share_of_second,
)

N = 20_000


@pytest.mark.parametrize("drift", DRIFTS)
def test_schedules_have_their_shares(drift):
    share = share_of_second(drift, N)
    expected = {"none": 0.0, "abrupt": 0.5, "gradual": 0.5, "recurring": 0.5}[drift]
    assert float(share.mean()) == pytest.approx(expected, abs=1e-3)
    if drift == "gradual":
        assert float(share[N // 2]) == pytest.approx(0.5)
        assert float(share[int(0.4 * N)]) == pytest.approx(1 / (1 + math.exp(4)), rel=1e-6)


def explained(x, y):
    """A plane through the origin by least squares, which uniform features pull off a little; its accuracy."""
    targets = 2.0 * y.double() - 1
    plane = torch.linalg.lstsq(x.double(), targets[:, None]).solution[:, 0]
    return plane, float(((x.double() @ plane > 0).long() == y).double().mean())


def test_labels_are_the_side_of_a_plane_but_for_the_noise():
    (x, clean), (same, noisy) = (drifting_hyperplanes(N, "none", seed=0, noise=share) for share in (0.0, 0.1))
    assert torch.equal(x, same)
    assert float((clean != noisy).double().mean()) == pytest.approx(0.1, abs=6 * math.sqrt(0.09 / N))
    assert explained(x, clean)[1] > 0.95
    assert float(clean.double().mean()) == pytest.approx(0.5, abs=6 * 0.5 / math.sqrt(N))


def test_the_second_concept_is_orthogonal_to_the_first():
    x, y = drifting_hyperplanes(N, "abrupt", seed=0, noise=0.0)
    half = N // 2
    (first, a), (second, b) = explained(x[:half], y[:half]), explained(x[half:], y[half:])
    assert min(a, b) > 0.95
    assert abs(float(first @ second / first.norm() / second.norm())) < 0.1
    old = ((x[half:].double() @ first > 0).long() == y[half:]).double().mean()
    assert float(old) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("stay", [0.5, 0.9])
def test_labels_stay_as_often_as_asked(stay):
    x, y = drifting_hyperplanes(N, "none", seed=1, noise=0.0, stay=stay)
    same = float((y[1:] == y[:-1]).double().mean())
    assert same == pytest.approx(stay, abs=6 * math.sqrt(stay * (1 - stay) / N))
    assert explained(x, y)[1] > 0.95


def test_kappa_temporal_is_zero_for_its_control_and_one_for_the_truth():
    _, y = drifting_hyperplanes(1000, "none", seed=2, stay=0.9)
    assert kappa_temporal(repeat_last_label(y), y) == 0.0
    assert kappa_temporal(y, y) == 1.0
    assert math.isnan(kappa_temporal(torch.zeros(5), torch.zeros(5)))


@pytest.mark.parametrize("stay", [None, 0.9])
def test_sines_have_one_concept_and_then_the_other(stay):
    (x, clean), (same, noisy) = (drifting_sines(N, "abrupt", seed=0, noise=share, stay=stay) for share in (0.0, 0.1))
    assert torch.equal(x, same)
    assert float((clean != noisy).double().mean()) == pytest.approx(0.1, abs=6 * math.sqrt(0.09 / N))
    half = N // 2
    x = x.double()
    sides = torch.stack([x[:, 0] < torch.sin(x[:, 1]), second_sine(x)])
    # Features are rounded to float32 after the label is drawn: a sample within 2⁻²⁴ of a curve may change sides.
    agree = [
        (sides[which, part] == clean[part].bool()).double().mean()
        for which, part in ((0, slice(half)), (1, slice(half, N)))
    ]
    assert min(agree) >= 1 - 2 / half
    other = (sides[1, :half] == clean[:half].bool()).double().mean()
    assert 0.5 < float(other) < 0.9  # the concepts differ
    if stay is not None:
        kept = float((clean[1:] == clean[:-1]).double().mean())
        assert kept == pytest.approx(stay, abs=6 * math.sqrt(stay * (1 - stay) / N))


def test_the_second_sine_is_its_curve():
    at = torch.tensor([[0.79, 1 / 6], [0.81, 1 / 6], [0.19, 0.5], [0.21, 0.5]])  # 0.5 + 0.3 and 0.5 − 0.3
    assert second_sine(at).tolist() == [True, False, True, False]
