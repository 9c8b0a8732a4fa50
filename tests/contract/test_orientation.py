"""Patterns follow each layer's own orientation: rows are output units, columns inputs, however a layer stores them."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import surgecollapse as sc
from surgecollapse import Readings, Target
from surgecollapse.act.layouts import Layouts, layouts_of
from surgecollapse.functional import parse_pattern
from surgecollapse.observe.probe import Probe


class Conv1D(nn.Module):
    """A linear layer that stores inputs by outputs, as in GPT-2."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(inputs, outputs)), nn.Parameter(torch.zeros(outputs))

    def forward(self, x):
        return torch.addmm(self.bias, x.reshape(-1, x.shape[-1]), self.weight).view(*x.shape[:-1], -1)


class Bare(nn.Module):
    """A matrix that multiplies from the right or from the left."""

    def __init__(self, side):
        super().__init__()
        self.side = side
        self.weight = nn.Parameter(torch.randn(8, 8))

    def forward(self, x):
        return x @ self.weight if self.side == "right" else (self.weight @ x.T).T


class Experts(nn.Module):
    """A batch of experts, stored by outputs or by inputs; every row goes to every expert."""

    def __init__(self, inputs_first):
        super().__init__()
        self.inputs_first = inputs_first
        self.up_proj = nn.Parameter(torch.randn(3, 8, 6) if inputs_first else torch.randn(3, 6, 8))

    def forward(self, x):
        weight = self.up_proj if self.inputs_first else self.up_proj.transpose(1, 2)
        return torch.bmm(x.expand(3, *x.shape), weight).mean(0)


ROWS, IMAGES, SIGNALS = torch.randn(5, 8), torch.randn(5, 8, 6, 6), torch.randn(5, 8, 10)
# layer, its input, units, inputs of a unit
LAYERS = {
    "linear": (lambda: nn.Linear(8, 6), ROWS, 6, 8),
    "linear of transformers": (lambda: Conv1D(8, 6), ROWS, 6, 8),
    "matrix from the right": (lambda: Bare("right"), ROWS, 8, 8),
    "matrix from the left": (lambda: Bare("left"), ROWS, 8, 8),
    "convolution": (lambda: nn.Conv2d(8, 6, 3), IMAGES, 6, 72),
    "grouped convolution": (lambda: nn.Conv2d(8, 6, 3, groups=2), IMAGES, 6, 36),
    "depthwise convolution": (lambda: nn.Conv1d(8, 8, 3, groups=8), SIGNALS, 8, 3),
    "transposed convolution": (lambda: nn.ConvTranspose1d(8, 6, 4, stride=2), SIGNALS, 6, 32),
    "grouped transposed convolution": (lambda: nn.ConvTranspose2d(8, 6, 3, groups=2), IMAGES, 6, 36),
    "experts by outputs": (lambda: Experts(False), ROWS, 18, 8),
    "experts by inputs": (lambda: Experts(True), ROWS, 18, 8),
    "spectral norm": (lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(8, 6)), ROWS, 6, 8),
}


class Net(nn.Module):
    def __init__(self, layer, x):
        super().__init__()
        self.layer = layer
        with torch.no_grad():
            wide = layer(x).flatten(1).shape[1]
        self.head = nn.Linear(wide, 2)

    def forward(self, x):
        return self.head(F.relu(self.layer(x)).flatten(1))


def attached(name, sparsity, pattern=None):
    build, x, _, _ = LAYERS[name]
    net = Net(build(), x)
    controller = sc.attach(
        net,
        torch.optim.SGD(net.parameters(), lr=0.0),
        sparsity=Target(sparsity, pattern=pattern),
        policy="no_op",
        readings=Readings(probe=x),
    )
    (weight,) = controller.masks
    return net, x, controller, weight


def turned(net, x, name, weight, pattern="2:4"):
    layouts = layouts_of(
        net, {weight: dict(net.named_parameters())[weight]}, parse_pattern(pattern), Probe(x).dataflow(net)
    )
    return layouts.named.get(weight)


@pytest.mark.parametrize("name", LAYERS)
def test_rows_are_the_units_and_turning_is_undone(name):
    net, x, _controller, weight = attached(name, sparsity=0.5)
    _, _, units, inputs = LAYERS[name]
    p = dict(net.named_parameters())[weight]
    layout = turned(net, x, name, weight)
    rows = p if layout is None else layout.into_rows(p)
    assert (rows.shape[0], rows.flatten(1).shape[1]) == (units, inputs)
    assert layout is None or (tuple(rows.shape) == layout.shape and torch.equal(layout.back(rows), p))


@pytest.mark.parametrize("name", [name for name in LAYERS if "experts" not in name])
def test_a_closed_unit_is_an_output_that_says_nothing(name):
    """The output channels of a masked layer without its bias: half of them are zero for every input, whole."""
    net, x, controller, _weight = attached(name, sparsity=0.5, pattern="unit")
    controller.finalize()
    layer, units = net.layer, LAYERS[name][2]
    with torch.no_grad():
        if getattr(layer, "bias", None) is not None:
            layer.bias.zero_()
        out = layer.eval()(x).transpose(0, 1).flatten(1)
    assert int((out == 0).all(1).sum()) == units // 2
    assert controller.sparsity == 0.5


def test_a_closed_unit_of_an_expert_is_one_of_its_outputs():
    for name in ("experts by outputs", "experts by inputs"):
        _, _, controller, weight = attached(name, sparsity=0.5, pattern="unit")
        controller.finalize()
        mask = controller.masks[weight]
        mask = mask if "outputs" in name else mask.transpose(1, 2)
        assert int((~mask).all(-1).sum()) == 9
        assert int(mask.all(-1).sum()) == 9


@pytest.mark.filterwarnings("ignore:pattern '2.4' reaches sparsity")
@pytest.mark.parametrize("name", LAYERS)
def test_two_of_four_run_along_the_inputs(name):
    _, _, controller, weight = attached(name, sparsity=0.5, pattern="2:4")
    controller.finalize()
    mask = controller.masks[weight]
    net, x = Net(LAYERS[name][0](), LAYERS[name][1]), LAYERS[name][1]
    layout = turned(net, x, name, weight)
    rows = (mask if layout is None else layout.into_rows(mask)).flatten(1)
    tiles = rows[:, : rows.shape[1] // 4 * 4].reshape(-1, 4)
    assert (tiles.sum(1) == 2).all()


@pytest.mark.parametrize("name", ["convolution", "grouped convolution", "grouped transposed convolution"])
def test_along_channels_every_kernel_position_has_its_own_tiles(name):
    _net, _, controller, weight = attached(name, sparsity=0.5, pattern="2:4:channels")
    controller.finalize()
    mask = controller.masks[weight]
    if "transposed" in name:
        mask = mask.unflatten(0, (2, 4)).transpose(1, 2).flatten(0, 1)
    channels = mask.movedim(1, -1)  # outputs, height, width, inputs
    assert (channels.unflatten(-1, (-1, 4)).sum(-1) == 2).all()
    along_rows = sc.functional.parse_pattern("2:4")
    assert not along_rows.channels


@pytest.mark.filterwarnings("ignore:pattern '2.4.channels' reaches sparsity")
def test_channels_that_fill_no_tile_stay_dense():
    net = nn.Sequential(nn.Conv2d(6, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2))
    x = torch.randn(2, 6, 6, 6)
    controller = sc.attach(
        net,
        torch.optim.SGD(net.parameters()),
        sparsity=Target(0.5, pattern="2:4:channels"),
        policy="no_op",
        readings=Readings(probe=x),
    )
    controller.finalize()
    mask = controller.masks["0.weight"].movedim(1, -1)
    assert (mask[..., :4].sum(-1) == 2).all()
    assert mask[..., 4:].all()


@pytest.mark.parametrize(
    ("pattern", "widths", "reached"),
    [
        ("2:4", (7, 13), 1 - (13 * 5 + 10 * 7) / (13 * 7 + 10 * 13)),  # 4 of 7 in a tile, 12 of 13 in three
        ("4:8", (7, 13), 1 - (13 * 7 + 10 * 9) / (13 * 7 + 10 * 13)),
        ("2:4:channels", (7, 13), 1 - (13 * 5 + 10 * 7) / (13 * 7 + 10 * 13)),
        ("2:4", (8, 12), None),
        ("4:8", (8, 16), None),
        ("unit", (7, 13), None),
        ("block:2x2", (7, 13), None),
    ],
)
def test_a_target_that_the_ends_of_rows_miss_is_said(pattern, widths, reached):
    inputs, width = widths
    net = nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, 10), nn.ReLU(), nn.Linear(10, 3))
    probe = torch.randn(5, inputs)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        controller = sc.attach(
            net, torch.optim.SGD(net.parameters(), lr=0.1), Target(0.5, pattern=pattern), policy="no_op",
            readings=Readings(probe=probe),
        )  # fmt: skip
    controller.finalize()
    if reached is None:
        assert not said
        assert controller.sparsity == pytest.approx(0.5, abs=0.03)
    else:
        (warning,) = said
        assert (
            f"'{pattern}' reaches sparsity {reached:.3f} here, not 0.5: the ends of rows of 0.weight, 2.weight"
            in str(warning.message)
        )
        assert controller.sparsity == pytest.approx(reached)


@pytest.mark.parametrize("layer", [nn.LSTM(8, 6, batch_first=True), nn.GRU(8, 6, batch_first=True), nn.RNN(8, 6)])
def test_whole_units_of_recurrent_layers_are_refused_at_attach(layer):
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.body, self.head = layer, nn.Linear(6, 6), nn.Linear(6, 2)

        def forward(self, x):
            return self.head(F.relu(self.body(self.layer(x)[0])))

    net = Recurrent()
    optimizer = torch.optim.SGD(net.parameters())
    with pytest.raises(ValueError, match=r"hidden unit of a recurrent layer.*layer\.weight_hh_l0.*exclude="):
        sc.attach(net, optimizer, sparsity=Target(0.5, pattern="unit"), policy="no_op")
    controller = sc.attach(net, optimizer, sparsity=Target(0.5, pattern="unit", exclude="layer"), policy="no_op")
    assert set(controller.masks) >= {"body.weight"}
    controller.detach()
    sc.attach(net, optimizer, sparsity=Target(0.5, pattern="2:4"), policy="no_op").detach()


@pytest.mark.parametrize("policy", ["set", "acdc"])
def test_whole_units_stay_whole_through_exchanges_and_surges(policy):
    net = Net(nn.ConvTranspose1d(8, 8, 4, stride=2), SIGNALS)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    controller = sc.attach(
        net,
        optimizer,
        sparsity=Target(0.5, pattern="unit"),
        total_steps=40,
        policy=policy,
        readings=Readings(every=2),
        seed=1,
    )
    for _ in range(40):
        optimizer.zero_grad()
        net(SIGNALS).square().sum().backward()
        optimizer.step()
        units = controller.masks["layer.weight"].transpose(0, 1).flatten(1)
        assert (units.all(1) | ~units.any(1)).all()
    controller.finalize()
    assert controller.sparsity == 0.5


def test_without_a_pattern_nothing_is_turned():
    net = nn.Sequential(nn.ConvTranspose1d(8, 8, 4))
    assert layouts_of(net, dict(net.named_parameters()), None, None) == Layouts()
