"""Cutting out dead units: what is cut, what must stay, and outputs that stay the same."""

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from surgecollapse.export.compact import compact_model
from surgecollapse.lab.nets.autoregressive import AutoregressiveMLP
from surgecollapse.lab.nets.cnn import SmallCNN
from surgecollapse.lab.nets.mlp import MLP
from surgecollapse.lab.nets.transformer import OneLayerTransformer


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Block(nn.Module):
    """A residual block with batch norm, in-place sums and activations, as in ResNets."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.down = None
        if stride > 1 or inputs != outputs:
            self.down = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        out = self.relu(self.norm1(self.conv1(x)))
        out = self.norm2(self.conv2(out))
        out += x if self.down is None else self.down(x)
        return self.relu(out)


class ResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.pool = nn.MaxPool2d(2)
        self.blocks = nn.Sequential(Block(8, 8, 1), Block(8, 12, 2))
        self.head = nn.Linear(12, 4)

    def forward(self, x):
        x = self.blocks(self.pool(self.stem(x)))
        return self.head(F.adaptive_avg_pool2d(x, 1).view(x.size(0), -1))


@torch.no_grad()
def settle(model):
    """Batch statistics, scales and shifts that are not those of a new net."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            module.weight.uniform_(0.5, 1.5)
            module.bias.normal_()
    return model.eval()


def same(model, result, x):
    """The claim of every test: the outputs agree to 1e-12, on other inputs than the examples too."""
    other = torch.randn_like(x) if x.is_floating_point() else x.flip(0)
    with torch.no_grad():
        for inputs in (x, other):
            assert (model.eval()(inputs) - result.model(inputs)).abs().max() <= 1e-12
    assert result.max_difference <= 1e-12
    return {layer.name: layer for layer in result.layers}


@given(st.data())
@settings(max_examples=25)
def test_every_planted_dead_neuron_of_an_mlp_is_found_and_no_other(data):
    torch.manual_seed(data.draw(st.integers(0, 1000)))
    model = MLP(6, (9, 7), 3, activation=data.draw(st.sampled_from(["relu", "gelu"])), dropout=0.2)
    first, second, head = model.body[1], model.body[4], model.head
    dead = []
    for layer, reader in ((first, second), (second, head)):
        units = data.draw(st.sets(st.integers(0, layer.out_features - 1), max_size=layer.out_features - 1))
        dead.append(len(units))
        for unit in units:
            with torch.no_grad():
                if data.draw(st.booleans()):
                    layer.weight[unit] = 0
                else:
                    reader.weight[:, unit] = 0
    before = copy.deepcopy(model.state_dict())
    x = torch.randn(5, 6)
    result = compact_model(model, x)
    layers = same(model, result, x)
    assert layers["body.1"].units == (9, 9 - dead[0])
    assert layers["body.4"].units == (7, 7 - dead[1])
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert compact_model(result.model, x).units_cut == 0


def test_what_is_only_read_by_dead_units_dies_too_through_all_layers():
    model = MLP(4, (5, 5, 5), 2)
    with torch.no_grad():
        model.head.weight[:, 4] = 0
        model.body[5].weight[:4, 3] = 0  # unit 3 is now read by unit 4 of the next layer alone
        model.body[3].weight[[0, 1, 2, 4], 2] = 0
    result = compact_model(model, torch.randn(3, 4))
    layers = same(model, result, torch.randn(3, 4))
    assert [layers[name].units[1] for name in ("body.1", "body.3", "body.5")] == [4, 4, 4]


def test_a_constant_unit_makes_the_units_constant_that_read_nothing_else():
    model = MLP(2, (3, 3), 2)
    with torch.no_grad():
        model.body[1].weight[1] = 0
        model.body[1].bias[1] = 3.0
        model.body[3].weight[2, [0, 2]] = 0
    result = compact_model(model, torch.randn(4, 2))
    layers = same(model, result, torch.randn(4, 2))
    assert (layers["body.1"].units, layers["body.3"].units) == ((3, 2), (3, 2))


def test_the_constant_goes_into_the_bias_by_hand():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        model[0].weight[:] = torch.tensor([[1.0, 1.0], [0.0, 0.0]])
        model[0].bias[:] = torch.tensor([0.0, 5.0])
        model[2].weight[:] = torch.tensor([[2.0, 3.0]])
    smaller = compact_model(model, torch.ones(1, 2)).model
    assert smaller[2].weight.tolist() == [[2.0]]
    assert smaller[2].bias.tolist() == [15.0]
    assert smaller(torch.ones(1, 2)).item() == 19.0


def test_a_layer_whose_units_are_all_dead_keeps_one_and_the_net_its_constant_output():
    model = MLP(3, (4, 4), 2)
    with torch.no_grad():
        model.body[3].weight.zero_()
    x = torch.randn(6, 3)
    result = compact_model(model, x)
    layers = same(model, result, x)
    assert layers["body.3"].units == (4, 1)
    assert layers["body.1"].units == (4, 1)


def test_widths_can_be_kept_at_a_multiple_with_idle_units_that_nobody_reads():
    model = MLP(6, (20, 17), 3)
    with torch.no_grad():
        model.body[1].weight[:9] = 0
        model.body[3].weight[:12] = 0
    x = torch.randn(4, 6)
    result = compact_model(model, x, multiple_of=8)
    layers = same(model, result, x)
    assert (layers["body.1"].units, layers["body.3"].units) == ((20, 16), (17, 8))
    assert compact_model(model, x, multiple_of=16).model.body[3].out_features == 16
    assert compact_model(model, x, multiple_of=64).units_cut == 0
    again = compact_model(result.model, x)
    assert same(model, again, x)["body.1"].units == (16, 11)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        compact_model(model, x, multiple_of=0)


@given(st.data())
@settings(max_examples=15)
def test_dead_channels_of_a_cnn_are_cut_through_pooling_and_flatten(data):
    torch.manual_seed(data.draw(st.integers(0, 1000)))
    model = SmallCNN((1, 8, 8), (5, 6), 3, activation=data.draw(st.sampled_from(["relu", "gelu"])), dropout=0.1)
    first, second, head = model.body[0], model.body[3], model.head
    unread = data.draw(st.sets(st.integers(0, 4), max_size=4))
    constant = data.draw(st.sets(st.integers(0, 5), max_size=5))
    with torch.no_grad():
        for channel in unread:
            second.weight[:, channel] = 0
        for channel in constant:
            second.weight[channel] = 0
    x = torch.randn(3, 1, 8, 8)
    result = compact_model(model, x)
    layers = same(model, result, x)
    assert layers["body.0"].units == (5, 5 - len(unread))
    assert layers["body.3"].units == (6, 6 - len(constant))
    assert layers["head"].inputs == (24, 4 * (6 - len(constant)))
    assert head.in_features == 24
    assert first.out_channels == 5


@pytest.mark.parametrize(
    ("padding", "mode", "bias", "cut"),
    [(1, "zeros", 2.0, 0), (1, "zeros", -2.0, 1), (0, "zeros", 2.0, 1), (1, "circular", 2.0, 1)],
)
def test_zero_padding_keeps_a_constant_channel_unless_the_constant_is_zero(padding, mode, bias, cut):
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 2, 3, padding=padding, padding_mode=mode))
    with torch.no_grad():
        model[0].weight[1] = 0
        model[0].bias[1] = bias
    x = torch.randn(2, 1, 9, 9)
    result = compact_model(model, x)
    assert same(model, result, x)["0"].units == (3, 3 - cut)


def test_a_dead_channel_is_a_constant_behind_batch_norm():
    model = settle(nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.GELU(), nn.Conv2d(4, 2, 3)))
    with torch.no_grad():
        model[0].weight[1] = 0
        model[1].weight[2] = 0  # γ = 0: constant, whatever the channel is
    x = torch.randn(2, 1, 8, 8)
    result = compact_model(model, x)
    assert same(model, result, x)["0"].units == (4, 2)
    assert result.model[1].num_features == len(result.model[1].running_var) == 2


@torch.no_grad()
def plant(model):
    """Dead: channel 5 of the stream in both of its writers; 6 in all of its readers; 3 behind the second sum."""
    first, second = model.blocks
    for norm, weight in ((model.stem[1], model.stem[0].weight), (first.norm2, first.conv2.weight)):
        weight[5] = 0
        norm.bias[5] = norm.running_mean[5] = 0
    for conv in (first.conv1, second.conv1, second.down[0]):
        conv.weight[:, 6] = 0
    for norm in (second.norm2, second.down[1]):
        norm.weight[3] = 0
    first.conv1.weight[2] = 0
    first.norm1.bias[2] = -9.0


def test_channels_tied_by_a_skip_are_cut_only_where_all_branches_are_dead():
    model = settle(ResNet())
    plant(model)
    with torch.no_grad():
        model.blocks[0].conv2.weight[4] = 0  # dead in one branch alone: the stem still writes it
        model.blocks[0].norm2.bias[4] = 0
        model.blocks[1].conv1.weight[:, 7] = 0  # unread by one of three readers
    x = torch.randn(2, 3, 12, 12)
    result = compact_model(model, x)
    layers = same(model, result, x)
    assert {name: layer.units[0] - layer.units[1] for name, layer in layers.items()} == {
        "stem.0": 2,
        "blocks.0.conv1": 1,
        "blocks.0.conv2": 2,
        "blocks.1.conv1": 0,
        "blocks.1.conv2": 1,
        "blocks.1.down.0": 1,
        "head": 0,
    }


def test_a_compacted_resnet_pickles_trains_and_has_no_memory_of_the_old_one():
    model = settle(ResNet())
    plant(model)
    x = torch.randn(4, 3, 12, 12)
    result = compact_model(model, x)
    smaller = pickle.loads(pickle.dumps(result.model)).train()
    before = [parameter.clone() for parameter in smaller.parameters()]
    optimizer = torch.optim.SGD(smaller.parameters(), lr=0.1)
    smaller(x).square().mean().backward()
    optimizer.step()
    assert any(not torch.equal(a, b) for a, b in zip(before, smaller.parameters(), strict=True))
    assert result.parameters[1] == sum(parameter.numel() for parameter in smaller.parameters())
    assert result.bytes[1] < result.bytes[0]
    assert result.multiplications[1] < result.multiplications[0]


def test_an_unpruned_net_stays_as_it_is_bit_for_bit():
    model = settle(ResNet())
    result = compact_model(model, torch.randn(2, 3, 12, 12))
    assert result.units_cut == 0
    assert result.max_difference == 0
    new = result.model.state_dict()
    assert all(torch.equal(value, new[name]) for name, value in model.state_dict().items())


def test_multiplications_and_bytes_of_a_small_net_by_hand():
    model = nn.Sequential(nn.Conv1d(1, 2, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(20, 3))
    with torch.no_grad():
        model[0].weight[0] = 0
        model[0].bias[0] = 0
    result = compact_model(model, torch.randn(5, 1, 10))
    assert result.multiplications == (5 * (60 + 60), 5 * (30 + 30))
    assert result.parameters == (8 + 63, 4 + 33)
    assert result.bytes == (8 * 71, 8 * 37)


def test_the_transformer_of_the_lab_loses_dead_neurons_and_heads():
    model = OneLayerTransformer(7, 4, 5, width=8, hidden=16, activation="gelu", dropout=0.1)
    with torch.no_grad():
        model.mlp[0].weight[3] = 0
        model.mlp[-1].weight[:, 4] = 0
        model.attention.out_proj.weight[:, 2:4] = 0
        model.attention.in_proj_weight[16:18] = 0  # values of head 0
    x = torch.randint(7, (6, 4))
    result = compact_model(model, x)
    layers = same(model, result, x)
    assert layers["mlp.0"].units == (16, 14)
    assert layers["attention"].units == (4, 2)
    assert layers["mlp.3"].reason == "read by add"
    assert copy.deepcopy(result.model)(x).shape == (6, 5)
    assert pickle.loads(pickle.dumps(result.model))(x).shape == (6, 5)


def test_the_autoregressive_net_loses_dead_neurons():
    model = AutoregressiveMLP(4, 5, hidden=16, vocabulary=7)
    with torch.no_grad():
        model.hidden.weight[3:6] = 0
    x = torch.randint(7, (6, 4))
    assert same(model, compact_model(model, x), x)["hidden"].units == (16, 13)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("masked", ["padding", "causal"])
def test_heads_with_constant_values_go_into_the_output_bias(batch_first, masked):
    class Attending(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 4, batch_first=batch_first, kdim=6, vdim=5)

        def forward(self, q, k, v, mask):
            option = "attn_mask" if masked == "causal" else "key_padding_mask"
            return self.attention(q, k, v, **{option: mask})[0]

    model = Attending().eval()
    with torch.no_grad():
        model.attention.in_proj_bias.normal_()
        model.attention.v_proj_weight[2:4] = 0
        model.attention.out_proj.weight[:, 6:] = 0
    shapes = [(3, 5, width) if batch_first else (5, 3, width) for width in (8, 6, 5)]
    mask = torch.ones(5, 5, dtype=torch.bool).triu(1) if masked == "causal" else torch.eye(3, 5, dtype=torch.bool)
    inputs = (*(torch.randn(shape) for shape in shapes), mask)
    result = compact_model(model, inputs)
    assert result.layers[0].units == (4, 2)
    assert result.max_difference < 1e-12


def test_heads_stay_where_attention_weights_are_read():
    class Looking(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

        def forward(self, x):
            out, weights = self.attention(x, x, x)
            return out, weights

    model = Looking().eval()
    with torch.no_grad():
        model.attention.out_proj.weight[:, 2:] = 0
    result = compact_model(model, torch.randn(2, 3, 4))
    assert result.units_cut == 0
    assert "MultiheadAttention" in result.layers[0].reason


@pytest.mark.parametrize("norm_first", [True, False])
def test_encoder_layers_lose_hidden_neurons_and_heads(norm_first):
    layer = nn.TransformerEncoderLayer(8, 4, 16, norm_first=norm_first, batch_first=True)
    model = nn.Sequential(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(8, 3)).eval()
    with torch.no_grad():
        for block in model[0].layers:
            block.linear1.weight[:3] = 0
            block.linear2.weight[:, 5] = 0
            block.self_attn.out_proj.weight[:, 2:4] = 0
            block.self_attn.in_proj_weight[20:22] = 0
    x = torch.randn(2, 5, 8)
    result = compact_model(model, x)
    layers = same(model, result, x)
    assert layers["0.layers.1.linear1"].units == (16, 12)
    assert layers["0.layers.0.self_attn"].units == (4, 2)
    assert layers["0.layers.1.linear2"].reason  # the stream is normalized


def test_what_a_layer_norm_reads_stays():
    model = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 2))
    with torch.no_grad():
        model[2].weight[:, 3] = 0
    x = torch.randn(3, 4)
    result = compact_model(model, x)
    assert same(model, result, x)["0"].units == (6, 6)
    assert result.layers[0].reason == "read by LayerNorm 1"


class Functional(nn.Module):
    """Two linear layers with any function between."""

    def __init__(self, function, wide=6):
        super().__init__()
        self.function = function
        self.first, self.second = nn.Linear(4, 6), nn.Linear(wide, 3)
        with torch.no_grad():
            self.second.weight[:, 2] = 0
            self.first.weight[4] = 0

    def forward(self, x):
        return self.second(self.function(self.first(x)))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.softmax(-1),
        lambda x: x.cumsum(-1),
        lambda x: x.flip(-1),
        lambda x: x.sort(-1)[0],
        lambda x: F.normalize(x, dim=-1),
        lambda x: x - x.mean(-1, keepdim=True),
        lambda x: x + torch.arange(6.0),
        lambda x: x * x.shape[-1],
        lambda x: x / x.size(1) ** 0.5,
        lambda x: x.view(-1, 6),
        lambda x: F.layer_norm(x, (6,)),
        lambda x: x.roll(1, -1),
    ],
)
def test_nothing_is_cut_before_an_operation_that_mixes_or_counts_units(function):
    model = Functional(function)
    x = torch.randn(5, 4)
    result = compact_model(model, x)
    same(model, result, x)
    assert result.units_cut == 0


@pytest.mark.parametrize(
    "function",
    [
        F.relu,
        torch.tanh,
        lambda x: x.sigmoid(),
        lambda x: F.leaky_relu(x, 0.2),
        lambda x: x.clamp(0.1, 0.4),
        lambda x: F.relu_(x),
        lambda x: 1 - x / 2,
        lambda x: 2 * x + 1,
        lambda x: x * torch.sigmoid(x) + x,
        lambda x: x.view(x.shape[0], -1),
        lambda x: x.reshape(x.size(0), x.shape[1]),
        lambda x: x.unsqueeze(1).transpose(1, 2).permute(0, 2, 1)[:, 0],
        lambda x: x[..., :],
        lambda x: F.dropout(x, 0.5, training=False),
        lambda x: x.float().double(),
    ],
)
def test_dead_units_are_cut_through_functions_of_single_units(function):
    model = Functional(function)
    x = torch.randn(5, 4)
    result = compact_model(model, x)
    assert same(model, result, x)["first"].units == (6, 4)


def test_concatenated_parts_are_cut_each():
    class Dense(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 3), nn.Linear(4, 2), nn.Linear(9, 2)

        def forward(self, x):
            return self.c(torch.cat([F.relu(self.a(x)), x, self.b(x)], dim=1))

    model = Dense()
    with torch.no_grad():
        model.c.weight[:, [1, 5, 7]] = 0  # a's unit 1, the input itself, b's unit 0
    x = torch.randn(3, 4)
    layers = same(model, compact_model(model, x), x)
    assert (layers["a"].units, layers["b"].units, layers["c"].inputs) == ((3, 2), (2, 1), (9, 7))


def test_depthwise_convolutions_and_slopes_are_cut_with_their_channels():
    model = settle(
        nn.Sequential(
            nn.Conv2d(1, 4, 1),
            nn.Conv2d(4, 4, 3, groups=4, padding=1),
            nn.BatchNorm2d(4),
            nn.PReLU(4),
            nn.AvgPool2d(2),
            nn.Conv2d(4, 2, 1),
        )
    )
    with torch.no_grad():
        model[1].weight[0] = 0
        model[5].weight[:, 2] = 0
    x = torch.randn(2, 1, 6, 6)
    result = compact_model(model, x)
    assert same(model, result, x)["0"].units == (4, 2)
    assert (result.model[1].groups, result.model[3].num_parameters) == (2, 2)


def test_tied_hooked_and_repeated_layers_stay_and_say_why():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c, self.d = (nn.Linear(4, 4) for _ in range(4))
            self.b.weight = self.a.weight
            self.d.register_forward_hook(lambda *_: None)

        def forward(self, x):
            return self.d(self.c(self.c(self.b(self.a(x))))) @ self.a.weight

    model = Odd()
    with torch.no_grad():
        for layer in (model.a, model.c, model.d):
            layer.weight[1] = 0
    x = torch.randn(3, 4)
    result = compact_model(model, x)
    layers = same(model, result, x)
    assert result.units_cut == 0
    assert "read outside" in layers["a"].reason
    assert "shares" in layers["b"].reason
    assert "2 times" in layers["c"].reason
    assert "hooks" in layers["d"].reason


def test_a_value_read_again_after_it_was_overwritten_is_not_taken_for_a_constant():
    class Overwriting(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x):
            y = self.a(x)
            F.relu_(y.view(y.size(0), -1))
            return self.b(y)

    model = Overwriting()
    with torch.no_grad():
        model.a.weight[1] = 0
        model.a.bias[1] = -3.0  # −3 before, 0 after
    x = torch.randn(3, 3)
    result = compact_model(model, x)
    same(model, result, x)
    assert result.units_cut == 0


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)
        self.gate = Gate()

    def forward(self, x):
        return self.gate(self.b(torch.relu(self.a(x))))


class Gate(nn.Module):
    def forward(self, x):
        if x.sum() > 0:
            return x
        return -x


def test_a_branch_on_values_is_named_and_can_be_made_opaque():
    model = Branching()
    with torch.no_grad():
        model.a.weight[1] = 0
    x = torch.randn(3, 3)
    with pytest.raises(ValueError, match=r"Branching cannot be traced: .*`if x.sum\(\) > 0:` in forward, test_compact"):
        compact_model(model, x)
    result = compact_model(model, x, opaque=["gate"])
    assert same(model, result, x)["a"].units == (4, 3)
    with pytest.raises(ValueError, match="'gates' is none of a, b, gate"):
        compact_model(model, x, opaque=["gates"])


def test_a_forward_that_computes_with_the_width_of_a_layer_is_refused():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.b(self.a(x)) / self.a.out_features

    model = Scaled()
    with torch.no_grad():
        model.a.weight[1] = 0
    with pytest.raises(ValueError, match="outputs differ"):
        compact_model(model, torch.randn(3, 3))


def test_examples_may_be_a_dict_with_values_that_are_no_tensors():
    class Optional(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x, scale=None, double=False):
            y = self.b(torch.relu(self.a(x)))
            y = y if scale is None else y * scale
            return 2 * y if double else y

    model = Optional()
    with torch.no_grad():
        model.b.weight[:, :2] = 0
    for examples in ({"x": torch.randn(3, 3), "double": True}, (torch.randn(3, 3), torch.randn(3, 1))):
        result = compact_model(model, examples)
        assert result.units_cut == 2
        assert result.max_difference < 1e-12
    with pytest.raises(TypeError, match="example_inputs must be"):
        compact_model(model, "x")


def test_modes_and_the_original_are_left_alone_in_float32():
    model = settle(ResNet()).float().train()
    plant(model)
    before = copy.deepcopy(model.state_dict())
    result = compact_model(model, torch.randn(2, 3, 12, 12, dtype=torch.float32))
    assert model.training
    assert not result.model.training
    assert result.model.head.weight.dtype == torch.float32
    assert result.units_cut == 7
    assert result.max_difference < 1e-5
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
