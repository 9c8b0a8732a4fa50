"""Generated series of sensors against their formula, and failures against what they say."""

from __future__ import annotations

import math

import pytest
import torch

from surgecollapse.lab.data.sensors import CHANNELS, CLASSES, FAILURES, STEPS, failed, sensor_series


def test_without_noise_every_channel_swings_as_often_as_its_state_says():
    series, states = sensor_series(300, seed=0, noise=0.0)
    assert series.shape == (300, CHANNELS, STEPS)
    assert set(states.tolist()) == set(range(CLASSES))
    # A whole number of periods is one line of the spectrum, of r·T/2.
    spectrum = torch.fft.rfft(series.double()).abs()
    assert torch.equal(spectrum.argmax(2), (states + 2).view(-1, 1).expand(-1, CHANNELS))
    strength = 2 * spectrum.amax(2) / STEPS
    assert torch.allclose(strength, strength[:, :1].expand_as(strength), atol=1e-5)
    assert 0.5 <= float(strength.min()) <= float(strength.max()) <= 1.5
    # Neighbors are an eighth of a period apart.
    angle = torch.fft.rfft(series.double()).gather(2, (states + 2).view(-1, 1, 1).expand(-1, CHANNELS, 1)).angle()
    apart = (angle[:, 1:, 0] - angle[:, :-1, 0]) % (2 * math.pi)
    assert torch.allclose(apart, torch.full_like(apart, math.pi / 4), atol=1e-5)


def test_noise_has_its_deviation():
    (clean, _), (noisy, _) = (sensor_series(200, seed=1, noise=sigma) for sigma in (0.0, 0.5))
    count = clean.numel()
    assert float((noisy - clean).std()) == pytest.approx(0.5, rel=6 / math.sqrt(2 * count))


@pytest.mark.parametrize("kind", FAILURES)
@pytest.mark.parametrize("channels", [0, 3, CHANNELS])
def test_as_many_channels_fail_as_asked_in_each_series(kind, channels):
    series, _ = sensor_series(40, seed=2)
    before = series.clone()
    found = failed(series, kind, channels, seed=5)
    assert torch.equal(series, before)
    assert torch.equal(found, failed(series, kind, channels, seed=5))
    changed = (found != series).any(2)
    if kind != "stuck":  # a channel that sticks at the last time loses nothing
        assert changed.sum(1).tolist() == [channels] * 40
    assert int(changed.sum(1).max()) <= channels
    if channels == 3:
        assert len({tuple(row) for row in changed.tolist()}) > 1  # others in each series


def test_silent_channels_are_zero_and_gaps_leave_half():
    series, _ = sensor_series(400, seed=3)
    assert not bool(failed(series, "silent", CHANNELS).any())
    found = failed(series, "gaps", CHANNELS, seed=1)
    kept = found != 0
    assert torch.equal(found[kept], series[kept])
    count = series.numel()
    assert float(kept.double().mean()) == pytest.approx(0.5, abs=6 * 0.5 / math.sqrt(count))


def test_stuck_channels_repeat_their_last_value():
    series = torch.arange(STEPS, dtype=torch.float32).expand(50, 4, STEPS)
    found = failed(series, "stuck", 2, seed=4)
    for row in found.flatten(0, 1):
        stop = int(row[-1])
        assert row.tolist() == [min(step, stop) for step in range(STEPS)]
    assert len(set(found[..., -1].flatten().tolist())) > 5


@pytest.mark.parametrize(("kind", "channels"), [("rain", 1), ("silent", -1), ("silent", CHANNELS + 1)])
def test_what_is_none_is_refused(kind, channels):
    with pytest.raises(ValueError, match=r"failure|channels"):
        failed(torch.zeros(2, CHANNELS, STEPS), kind, channels)
