"""Offline analyses: planted truths, what hooks read of each kind of net, results that are plain values and plots."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from matplotlib.text import Text
from torch import nn

from surgecollapse.analysis.fourier import fourier_history
from surgecollapse.analysis.heavy_tails import heavy_tails
from surgecollapse.analysis.information_plane import information_plane
from surgecollapse.analysis.intrinsic_dimension import intrinsic_dimensions
from surgecollapse.analysis.neural_collapse import collapse_history
from surgecollapse.analysis.representations import represent
from surgecollapse.analysis.similarity import representation_change, similarity_map
from surgecollapse.analysis.universality import rescale, universality
from surgecollapse.functional import neural_collapse
from surgecollapse.lab.nets.cnn import SmallCNN
from surgecollapse.lab.nets.decoder import Decoder
from surgecollapse.lab.nets.gpt import GPT
from surgecollapse.lab.nets.lstm import LSTMClassifier
from surgecollapse.lab.nets.mlp import MLP
from surgecollapse.lab.nets.transformer import OneLayerTransformer

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def check_result(result):
    """A result is plain values that JSON keeps, and a picture that can be drawn."""
    plain = result.to_dict()
    assert json.loads(json.dumps(plain)).keys() == plain.keys()
    figure = result.plot()
    figure.draw_without_rendering()
    assert any(axes.has_data() for axes in figure.axes)
    return plain


# representations


def test_an_mlp_gives_what_its_activations_give():
    net, x = MLP(6, (5, 4), 3), normal(9, 6)
    found = represent(net, x, rows=4)
    first = net.body[2](net.body[1](x))
    assert list(found.layers) == ["body.1", "body.3", "head"]
    torch.testing.assert_close(found.layers["body.1"], first.detach())
    torch.testing.assert_close(found.outputs, net(x).detach())
    torch.testing.assert_close(found.layers["head"], found.outputs)
    assert found.head == "head"
    torch.testing.assert_close(net.head(found.features), net(x))


def test_a_cnn_gives_all_positions_and_the_inputs_of_its_head():
    net, x = SmallCNN((1, 8, 8), (4, 6), 3), normal(5, 1, 8, 8)
    found = represent(net, x)
    assert {name: tuple(v.shape) for name, v in found.layers.items()} == {
        "body.0": (5, 4 * 64),
        "body.3": (5, 6 * 16),
        "head": (5, 3),
    }
    assert (found.layers["body.0"] >= 0).all()
    torch.testing.assert_close(net.head(found.features), net(x))


@pytest.mark.parametrize(
    "net",
    [
        OneLayerTransformer(7, 4, 7, width=8, hidden=16),
        Decoder(7, 4, width=8, hidden=16, economy="all"),
        Decoder(7, 4, width=8, hidden=16, economy="last"),
        LSTMClassifier(7, 7, embedding=4, hidden=6),
        GPT(7, 4, width=8, hidden=16, layers=2),
    ],
    ids=["transformer", "decoder", "decoder-last", "lstm", "gpt"],
)
def test_sequence_models_give_the_last_position(net):
    x = torch.randint(7, (6, 4), generator=torch.Generator().manual_seed(0))
    found = represent(net, x)
    assert len(found.layers) >= 2
    assert all(len(v) == 6 and v.ndim == 2 for v in found.layers.values())
    net.eval()
    whole = net(x).detach()
    torch.testing.assert_close(found.outputs, whole if whole.ndim == 2 else whole[:, -1])
    torch.testing.assert_close(net.head(found.features), found.outputs)
    changed = x.clone()
    changed[:, -1] = (x[:, -1] + 1) % 7
    other = represent(net, changed).layers
    assert any(not torch.equal(value, other[name]) for name, value in found.layers.items())


def test_representing_leaves_the_net_as_it_was():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Dropout(0.5), nn.Linear(4, 2)).train()
    state = torch.get_rng_state()
    one, two = represent(net, torch.ones(5, 3)), represent(net, torch.ones(5, 3))
    assert torch.equal(one.outputs, two.outputs)  # no dropout
    assert net.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(ValueError, match="at least one sample"):
        represent(net, torch.ones(0, 3))


# similarity


@DTYPES
@pytest.mark.parametrize("samples", [50, 90])
def test_the_map_of_a_net_with_itself_has_ones_on_its_diagonal(samples, dtype):
    layers = {"a": normal(samples, 8, dtype=dtype), "b": normal(samples, 5, seed=1, dtype=dtype)}
    found = similarity_map(layers, layers)
    values = np.array(found.values)
    assert np.diag(values) == pytest.approx([1.0, 1.0])
    assert abs(values[0, 1]) < 0.2
    assert values == pytest.approx(values.T)
    check_result(found)


@DTYPES
@pytest.mark.parametrize("shape", [(80, 6), (60, 11)])
def test_a_representation_that_turns_is_unchanged_and_one_that_mixes_in_noise_moves_away(shape, dtype):
    x, noise = normal(*shape, dtype=dtype), normal(*shape, seed=2, dtype=dtype)
    turn = torch.linalg.qr(normal(shape[1], shape[1], seed=1, dtype=dtype))[0]
    history = [{"turns": x @ turn * k, "mixes": x + s * noise} for k, s in ((1, 0), (2, 1), (3, 3))]
    found = representation_change((0, 10, 20), history)
    assert found.to_first[0] == pytest.approx([1.0] * 3, abs=1e-5)
    mixes = found.to_first[1]
    assert mixes[0] == pytest.approx(1.0, abs=1e-5)
    assert mixes[0] > mixes[1] > mixes[2]
    assert found.to_last[1][-1] == pytest.approx(1.0, abs=1e-5)
    assert found.to_previous[1][1] == pytest.approx(mixes[1])
    check_result(found)
    with pytest.raises(ValueError, match="two times"):
        representation_change((0,), history[:1])


# neural collapse, tails, dimension, information


def test_features_that_contract_to_the_corners_collapse():
    corners = torch.eye(4) - 0.25
    labels = torch.arange(4).repeat(25)
    noise = normal(100, 4)
    measures = [neural_collapse(corners[labels] + s * noise, labels, weight=corners) for s in (1.0, 0.3, 0.01)]
    found = collapse_history((0, 1, 2), measures)
    for name in ("within", "norms", "angles", "duality"):
        values = getattr(found, name)
        assert values[0] > values[1] > values[2], name
        assert values[2] < 0.02, name
    check_result(found)


def test_a_layer_with_a_planted_tail_and_one_without():
    quantiles = (np.arange(200) + 0.5) / 200
    spectrum = torch.from_numpy((1 - quantiles) ** (-1 / 1.5))  # density exponent 2.5
    turns = [torch.linalg.qr(normal(200, 200, seed=s).double())[0] for s in (1, 2)]
    planted = turns[0] @ torch.diag(spectrum.sqrt()) @ turns[1]
    found = heavy_tails(
        {"tail": planted, "noise": normal(100, 200), "bias": torch.zeros(9), "conv": normal(24, 4, 3, 3)}
    )
    tail, noise, conv = found.layers
    assert tail.alpha == pytest.approx(2.5, abs=0.2)
    assert tail.distance < 0.03
    assert (noise.spikes, noise.shape) == (0, (100, 200))
    assert noise.edge == pytest.approx((1 + math.sqrt(0.5)) ** 2, rel=0.05)
    assert conv.shape == (24, 36)
    check_result(found)
    with pytest.raises(ValueError, match="no weight"):
        heavy_tails({"bias": torch.zeros(9)})


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_layer_that_is_not_finite_is_named_and_the_others_are_measured(value):
    broken = normal(40, 50)
    broken[3, 4] = value
    found = heavy_tails({"sound": normal(40, 50), "broken": broken})
    assert [layer.layer for layer in found.layers] == ["sound"]
    assert check_result(found)["left_out"] == ("broken",)
    with pytest.raises(ValueError, match="not finite: broken"):
        heavy_tails({"broken": broken})


def test_complex_layers_have_the_spectrum_of_their_singular_values():
    weight = torch.complex(normal(40, 60), normal(40, 60, seed=1))
    (layer,) = heavy_tails({"w": weight}).layers
    squares = torch.linalg.svdvals(weight.to(torch.complex128)).square() / 60
    assert layer.eigenvalues == pytest.approx(tuple(squares.tolist()))


@DTYPES
@pytest.mark.parametrize("rank", [1, 25])
def test_directions_by_rounding_are_no_part_of_a_spectrum(rank, dtype):
    weight = normal(60, rank).to(dtype) @ normal(rank, 80, seed=1).to(dtype)
    (layer,) = heavy_tails({"w": weight}).layers
    assert len(layer.eigenvalues) == rank
    assert layer.spikes <= rank


def test_an_exponent_that_fails_its_test_is_not_drawn():
    lumps = torch.diag(torch.cat([torch.full((40,), 1.0), torch.linspace(9.9, 10.0, 40)]))
    (layer,) = heavy_tails({"w": lumps}, least=60).layers
    found = heavy_tails({"w": lumps}, least=60)
    assert layer.doubt
    assert "α" not in found.plot().axes[0].get_title()


@pytest.mark.parametrize("what", ["features", "weight"])
def test_a_net_that_diverges_while_it_trains_has_a_history_up_to_then(what):
    labels = torch.arange(4).repeat(10)
    measures = []
    for broken in (False, True):
        parts = {"features": normal(40, 5), "weight": normal(4, 5)}
        if broken:
            parts[what][0, 0] = math.nan
        measures.append(neural_collapse(parts["features"], labels, weight=parts["weight"]))
    found = collapse_history((0, 10), measures)
    assert math.isfinite(found.within[0])
    assert math.isnan(found.within[1])
    found.plot().draw_without_rendering()


def test_information_of_a_layer_that_is_not_finite_is_nan_and_that_of_others_is_not():
    labels = torch.arange(4).repeat(16)
    x = normal(64, 3)
    found = information_plane((0, 1), [{"a": x, "b": x}, {"a": x, "b": x / 0.0}], labels)
    assert [math.isnan(row[1]) for row in found.with_input] == [False, True]
    assert [math.isnan(row[1]) for row in found.with_label] == [False, True]
    found.plot().draw_without_rendering()


DOLLARS = ("$x^$", "_hidden", "a$b", "$\\frac{$", "plain")


@pytest.mark.parametrize("name", DOLLARS)
def test_names_are_drawn_as_they_are(name):
    labels, steps = torch.arange(4).repeat(16), np.arange(1, 50)
    x = normal(64, 30)
    results = (
        heavy_tails({name: normal(30, 40)}),
        similarity_map({name: x}, {name: x}, names=(name, name)),
        representation_change((0, 1), [{name: x}, {name: x}]),
        intrinsic_dimensions({name: x}),
        information_plane((0, 1), [{name: x}, {name: x}], labels),
        universality({name: (steps, logistic(steps / 9)), "other": (steps, logistic(steps / 5))}),
    )
    for result in results:
        figure = result.plot()
        figure.draw_without_rendering()
        shown = [text for text in figure.findobj(Text) if name in text.get_text().replace(r"\$", "$")]
        assert shown, type(result).__name__
        for text in shown:
            drawn, is_math = text._preprocess_math(text.get_text())
            assert name in drawn
            assert not is_math


@DTYPES
@pytest.mark.parametrize("samples", [900, 1200])
def test_dimensions_of_a_sphere_and_of_a_hyperplane(samples, dtype):
    sphere = nn.functional.normalize(normal(samples, 4), dim=1) @ normal(4, 30, seed=1)
    plane = normal(samples, 5, seed=2) @ torch.linalg.qr(normal(20, 5, seed=3))[0].T
    found = intrinsic_dimensions({"sphere": sphere.to(dtype), "plane": plane.to(dtype)})
    assert found.two_nn == pytest.approx([3.0, 5.0], rel=0.15)
    assert found.maximum_likelihood == pytest.approx([3.0, 5.0], rel=0.15)
    assert found.participation_ratio[1] == pytest.approx(5.0, rel=0.05)
    assert found.units == (30, 20)
    check_result(found)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("tokens", "count"), [(31, 15), (24, 12)])
def test_one_wave_is_all_concentrated_and_noise_is_not(tokens, count, dtype):
    wave = np.cos(2 * np.pi * 5 * np.arange(tokens) / tokens)[:, None] * np.ones(4)
    noise = normal(tokens, 1600).numpy()
    found = fourier_history((0, 100), [noise.astype(dtype), wave.astype(dtype)])
    assert found.frequencies == tuple(range(1, count + 1))
    assert found.ipr[1] == pytest.approx(1.0, abs=1e-6)
    assert found.gini[0] < 0.1
    assert found.gini[1] == pytest.approx(1 - 1 / count, rel=1e-6)
    basis = np.exp(-2j * np.pi * np.outer(np.arange(1, count + 1), np.arange(tokens)) / tokens)
    power = (np.abs(basis @ noise) ** 2).sum(1)
    assert found.power[0] == pytest.approx(power / power.sum(), rel=1e-6)
    assert found.ipr[0] == pytest.approx((power**2).sum() / power.sum() ** 2, rel=1e-6)
    assert int(np.argmax(found.power[1])) + 1 == 5
    check_result(found)


def test_information_of_layers_that_know_all_nothing_and_the_label_alone():
    labels = torch.arange(4).repeat(16)
    history = [{"all": torch.arange(64.0)[:, None], "nothing": torch.ones(64, 2), "label": labels[:, None].float()}] * 2
    found = information_plane((0, 1), history, labels, bins=64)
    assert [row[0] for row in found.with_input] == pytest.approx([math.log(64), 0.0, math.log(4)])
    corrected = math.log(4) + 3 / 128  # (3 + m_T − 1 − (m_TY − 1))/2n with as many pairs as values of T
    assert [row[0] for row in found.with_label] == pytest.approx([corrected, 0.0, corrected])
    assert found.label_entropy == pytest.approx(math.log(4))
    assert "bins" in check_result(found)["caveat"]


def test_binned_information_ignores_scale_and_rotation_and_units_saturate():
    labels = torch.arange(4).repeat(50)
    x = 3 * torch.eye(4)[labels] @ normal(4, 30) + normal(200, 30, seed=1)
    turned = 1e3 * x @ torch.linalg.qr(normal(30, 30, seed=2))[0]
    one = information_plane((0, 1), [{"layer": x}, {"layer": turned}], labels)
    assert one.with_input[0][0] == pytest.approx(one.with_input[0][1], abs=0.15)  # components may come out mirrored
    assert one.with_label[0][0] > 0.7 * math.log(4)
    units = information_plane((0,), [{"layer": x}], labels, components=None)
    assert units.with_input[0][0] == pytest.approx(math.log(200))


# universality


def logistic(t, rate=2.0):
    return 1 / (1 + t**-rate)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("points", [200, 300])
def test_curves_of_one_shape_collapse_whatever_their_scales(points, dtype):
    t = np.geomspace(1e-2, 1e2, points).astype(dtype)
    curves = {
        "plain": (100 * t, logistic(t)),
        "slow": (900 * t, logistic(t)),
        "a loss": (30 * t, 2.3 - 2 * logistic(t)),
    }
    found = universality(curves)
    assert found.after < 0.01 < 0.1 < found.before
    assert [curve.half for curve in found.curves] == pytest.approx([100, 900, 30], rel=0.02)
    assert np.array(found.distances) == pytest.approx(np.zeros((3, 3)), abs=0.01)
    check_result(found)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("points", [200, 300])
def test_curves_of_different_shapes_stay_apart(points, dtype):
    t = np.geomspace(1e-2, 1e2, points).astype(dtype)
    found = universality(
        {"steep": (t, logistic(t, 8.0)), "flat": (7 * t, logistic(t, 1.0)), "same": (t, logistic(t, 8.0))}
    )
    steep_flat, steep_same = found.distances[0][1], found.distances[0][2]
    assert steep_flat > 0.1
    assert steep_same == 0.0
    assert found.before > found.after > 0.05
    u = [logistic(np.exp(x), r) for r in (8.0, 1.0) for x in [np.linspace(-np.log(8), np.log(8), 2_000)]]
    assert steep_flat == pytest.approx(np.abs(u[0] - u[1]).mean(), abs=0.01)


def test_curves_that_learn_nothing_are_left_out_and_said():
    t = np.arange(1, 50)
    curves = {
        "flat": (t, np.ones(49)),
        "one": (t, t / (t + 5)),
        "two": (t, t / (t + 9)),
        "late": (t, np.full(49, np.nan)),
    }
    assert universality(curves).left_out == ("flat", "late")
    with pytest.raises(ValueError, match="left out: flat"):
        universality({"flat": curves["flat"], "one": curves["one"]})
    assert rescale("done", t, np.r_[0.0, np.ones(48)]) is not None
    assert rescale("short", t[:3], t[:3]) is None


def test_frozen_parts_of_a_net_stay_in_eval_mode():
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)).train()
    net[1].eval()  # as fine-tuning freezes it
    represent(net, normal(8, 3))
    assert [module.training for module in net] == [True, False, True, True]
    assert net.training
