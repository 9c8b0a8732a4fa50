"""Corruptions against their definitions, and drawn roads against their geometry."""

from __future__ import annotations

import math

import pytest
import torch

from surgecollapse.lab.data.corruptions import (
    CORRUPTIONS,
    SEVERITIES,
    blurred,
    corrupt,
    edges,
    jittered,
    moved,
    smooth_noise,
)
from surgecollapse.lab.data.roads import picture, roads, steering

GRAY = torch.full((4, 1, 20, 24), 0.5)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def blob():
    """A bright rectangle off the middle, smooth enough to be told apart when it moves."""
    image = torch.zeros(3, 1, 20, 24)
    image[:, :, 6:11, 8:14] = 1.0
    return image


@pytest.mark.parametrize("kind", list(CORRUPTIONS))
def test_every_kind_changes_pictures_by_more_the_more_severe_and_repeats_itself(kind):
    images = blob().repeat(20, 1, 1, 1)
    before = images.clone()
    away = []
    for severity in SEVERITIES:
        found = corrupt(images, kind, severity, seed=3)
        assert found.shape == images.shape
        assert 0.0 <= float(found.min()) <= float(found.max()) <= 1.0
        assert torch.equal(found, corrupt(images, kind, severity, seed=3))
        away.append(float((found - images).square().mean()))
    assert away[0] > 0
    if kind != "glass_blur":  # its second blur also smooths what the jitter did: see its own test
        assert away[-1] > away[0]
    assert torch.equal(images, before)


@pytest.mark.parametrize(
    ("images", "kind", "severity"),
    [(GRAY, "rain", 1), (GRAY, "fog", 6), (GRAY, "fog", 0), (GRAY[0], "fog", 1), (2 * GRAY + 1, "fog", 1)],
)
def test_what_is_none_is_refused(images, kind, severity):
    with pytest.raises(ValueError, match=r"corruption|severity|shape|gray"):
        corrupt(images, kind, severity)


def within(share, count):
    """Six standard errors of a share."""
    return pytest.approx(share, abs=6 * math.sqrt(share * (1 - share) / count))


def test_noise_has_its_moments():
    gray = torch.full((50, 1, 40, 40), 0.5)
    n = gray.numel()
    weak = corrupt(gray, "gaussian_noise", 1) - 0.5  # σ = 0.08: the clamp is 6 σ away
    assert float(weak.mean()) == pytest.approx(0, abs=6 * 0.08 / math.sqrt(n))
    assert float(weak.std()) == pytest.approx(0.08, rel=6 / math.sqrt(2 * n))
    shot = corrupt(gray, "shot_noise", 1) * 60  # Poisson of 30; beyond 60 it is cut, which is 5.5 σ away
    assert float(shot.mean()) == pytest.approx(30, abs=6 * math.sqrt(30 / n))
    assert float(shot.var()) == pytest.approx(30, rel=0.03)
    impulses = corrupt(gray, "impulse_noise", 5)
    assert float((impulses == 0).double().mean()) == within(0.15, n)
    assert float((impulses == 1).double().mean()) == within(0.15, n)
    assert float((impulses == 0.5).double().mean()) == within(0.7, n)


def test_maps_move_pixels_where_they_say():
    image = blob()
    assert torch.allclose(moved(image, torch.eye(2, 3)), image, atol=1e-5)
    # One pixel is 2/width; the place in the image is to the right of that in the result, so all moves to the left.
    left = torch.tensor([[1.0, 0, 3 * 2 / 24], [0, 1, 0]])
    assert torch.allclose(moved(image, left), image.roll(-3, dims=3), atol=1e-4)


def middle(image):
    """Center of mass (x, y) in pixels from the middle."""
    height, width = image.shape[-2:]
    x = torch.arange(width) - (width - 1) / 2
    y = torch.arange(height) - (height - 1) / 2
    total = image.sum((1, 2, 3))
    return (image.sum((1, 2)) * x).sum(1) / total, (image.sum((1, 3)) * y).sum(1) / total


def test_geometry_of_the_fifth_severity():
    square = torch.zeros(60, 1, 40, 40)
    square[:, :, 16:19, 24:27] = 1.0  # its middle is 5.5 to the right and 2.5 up
    x, y = middle(square)
    assert torch.allclose(x, torch.full_like(x, 5.5), atol=1e-4)
    radius = math.hypot(5.5, 2.5)

    x, y = middle(corrupt(square, "rotate", 5))
    assert torch.allclose(torch.hypot(x, y), torch.full_like(x, radius), atol=0.05)
    turned = (torch.atan2(y, x) - math.atan2(-2.5, 5.5)).abs().rad2deg()
    assert torch.allclose(turned, torch.full_like(turned, 50.0), atol=1.0)

    x, y = middle(corrupt(square, "scale", 5))
    assert torch.allclose(x, torch.full_like(x, 5.5 / 2), atol=0.1)

    x, y = middle(corrupt(square, "translate", 5))
    away = torch.hypot(x - 5.5, y + 2.5)
    assert torch.allclose(away, torch.full_like(away, 0.2 * 40), atol=0.1)  # a fifth of the width

    x, y = middle(corrupt(square, "shear", 5))
    assert torch.allclose(y, torch.full_like(y, -2.5), atol=0.05)
    assert torch.allclose((x - 5.5).abs(), torch.full_like(x, 0.8 * 2.5), atol=0.1)


def test_blur_spreads_a_point_by_its_variance_and_keeps_its_mass():
    point = torch.zeros(1, 1, 31, 31)
    point[0, 0, 15, 15] = 1.0
    found = blurred(point, 2.0)
    places = torch.arange(31) - 15.0
    assert float(found.sum()) == pytest.approx(1, abs=1e-5)
    assert float((found.sum((0, 1, 2)) * places**2).sum()) == pytest.approx(4.0, rel=0.05)  # cut at three σ


def test_motion_blur_is_a_line_of_its_length():
    point = torch.zeros(30, 1, 41, 41)
    point[:, :, 20, 20] = 1.0
    found = corrupt(point, "motion_blur", 5)
    places = torch.arange(41) - 20.0
    spread = (found.sum((1, 2)) * places**2).sum(1) + (found.sum((1, 3)) * places**2).sum(1)
    # 21 places, evenly on a length of ten: variance (k² − 1)/12 of k places, half a pixel apart; interpolation adds
    # between nothing and ½ to it.
    line = (21**2 - 1) / 12 / 4
    assert bool((spread >= line - 0.05).all())
    assert bool((spread <= line + 0.55).all())
    assert torch.allclose(found.sum((1, 2, 3)), torch.ones(30), atol=1e-4)


def test_glass_blur_spreads_a_point_by_both_blurs_and_the_jitter():
    point = torch.zeros(4000, 1, 21, 21)
    point[:, :, 10, 10] = 1.0
    moments = (corrupt(point, "glass_blur", 5).sum((1, 2)) * (torch.arange(21) - 10.0) ** 2).sum(1)
    # σ = 0.8 twice; uniform on −2 … 2 has the variance 2. A blur that is cut at three pixels loses 1% of its variance.
    expected = 2 * 0.8**2 + 2
    error = 6 * float(moments.std()) / math.sqrt(len(moments))
    assert float(moments.mean()) == pytest.approx(expected, abs=error + 0.02)


def test_jitter_takes_pixels_from_nearby():
    ramp = torch.arange(24.0).expand(5, 1, 20, 24)
    moves = jittered(ramp, 2, generator()) - ramp
    assert sorted(set(moves.flatten().tolist())) == [-2, -1, 0, 1, 2]
    assert torch.equal(jittered(ramp, 0, generator()), ramp)


def test_edges_of_a_step_are_one():
    step = torch.zeros(1, 1, 6, 6)
    step[..., 3:] = 1.0
    assert edges(step)[0, 0, 2].tolist() == [0, 0, 1, 1, 0, 0]


def test_stripes_invert_whole_columns_of_their_width():
    images = torch.rand(40, 1, 20, 24, generator=generator())
    inverted = (corrupt(images, "stripe", 5) - (1 - images)).abs() < 1e-6
    assert inverted.all(2).sum(-1).flatten().tolist() == [round(24 * 0.3)] * 40


def test_brightness_fog_and_spatter_have_their_amounts():
    assert torch.allclose(corrupt(GRAY, "brightness", 2), GRAY + 0.2)
    noise = smooth_noise((4, 1, 20, 24), generator())
    assert noise.amin((1, 2, 3)).tolist() == [0.0] * 4
    assert noise.amax((1, 2, 3)).tolist() == [1.0] * 4
    assert torch.allclose(corrupt(GRAY, "fog", 4), (GRAY + noise) / 2, atol=1e-6)
    hit = (corrupt(GRAY, "spatter", 5) == 0.8).flatten(1).sum(1)
    assert torch.allclose(hit.double(), torch.full((4,), 0.2 * 480, dtype=torch.float64), atol=1.0)


def test_lines_are_drawn_white_and_nothing_else_changes():
    found = corrupt(GRAY, "zigzag", 1)
    assert set(found.unique().tolist()) == {0.5, 1.0}
    columns = (found == 1.0).any(2)[:, 0].sum(1)  # the line goes through the columns from 5 to 95% of the width
    assert columns.tolist() == [22] * 4
    dotted = corrupt(GRAY, "dotted_line", 1)
    assert 0 < int((dotted == 1.0).sum()) < int((found == 1.0).sum())


def test_roads_are_mirrored_with_their_steering():
    curvature, offset = torch.tensor([0.4, 0.0, -1.0]), torch.tensor([0.3, 0.0, 0.5])
    grays = torch.tensor([[0.8], [0.5], [0.2]]).expand(3, 3)
    images, mirrored = picture(curvature, offset, grays), picture(-curvature, -offset, grays)
    assert torch.equal(mirrored, images.flip(3))
    assert torch.equal(steering(-curvature, -offset), -steering(curvature, offset))
    assert torch.equal(images[1], images[1].flip(2))  # straight ahead


def test_a_road_is_where_its_equation_says():
    zero = torch.zeros(1)
    image = picture(zero, torch.tensor([0.2]), torch.tensor([[0.8], [0.5], [0.2]]), height=20, width=200)[0, 0]
    assert set(image[:7].unique().tolist()) == {torch.tensor(0.8).item()}  # 35% of sky
    nearness = (19.5 / 20 - 0.35) / 0.65
    road = (torch.nonzero(image[-1] != 0.5).flatten() + 0.5) / 100 - 1
    assert float(road.min()) == pytest.approx(nearness * (-0.2 - 0.6), abs=0.011)  # a pixel is 0.01 wide
    assert float(road.max()) == pytest.approx(nearness * (-0.2 + 0.6), abs=0.011)


def test_roads_repeat_and_stay_in_range():
    (images, wheel), (again, _) = (roads(50, seed=4) for _ in range(2))
    assert torch.equal(images, again)
    assert images.shape == (50, 1, 16, 32)
    assert 0.0 <= float(images.min()) <= float(images.max()) <= 1.0
    assert float(wheel.abs().max()) <= 1.5
    assert float(wheel.std()) > 0.3
