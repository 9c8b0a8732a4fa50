"""Which parameters may be pruned: the default choice model by model, include and exclude, and canonical names."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from surgecollapse.act.prunable import named_weights, prunable_parameters
from surgecollapse.observe.probe import Probe
from surgecollapse.torch_utils.modules import unwrap_model


def choose(model, *inputs, owned=None, **options):
    """Names chosen when the output layer was found by passing ``inputs``."""
    model = unwrap_model(model)
    dataflow = Probe(inputs).dataflow(model) if inputs else None
    owned = {id(p) for p in model.parameters()} if owned is None else owned
    return list(prunable_parameters(model, owned=owned, dataflow=dataflow, **options))


class ThreeDimensionalNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.group = nn.Conv2d(1, 4, 3), nn.LayerNorm((4, 6, 6)), nn.GroupNorm(2, 4)
        self.batch, self.out = nn.BatchNorm2d(4), nn.Linear(144, 2)

    def forward(self, x):
        return self.out(self.batch(self.group(self.norm(self.conv(x)))).flatten(1))


class Conv1D(nn.Module):
    """A linear layer with its weight transposed, as in GPT-2."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(inputs, outputs)), nn.Parameter(torch.zeros(outputs))

    def forward(self, x):
        return x @ self.weight + self.bias


class Language(nn.Module):
    """Token and position embeddings, one block, a head that is tied or not."""

    def __init__(self, tied):
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.pos_table = nn.Parameter(torch.zeros(1, 5, 8))
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 8))
        self.mixing = nn.Parameter(torch.eye(8))
        self.block = Conv1D(8, 8)
        self.head = nn.Linear(8, 11, bias=False)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, tokens):
        x = self.embed(tokens) + self.pos_table + self.cls_token
        return self.head(torch.tanh(self.block(x @ self.mixing)))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.out = nn.LSTM(3, 4, num_layers=2, batch_first=True), nn.Linear(4, 2)

    def forward(self, x):
        return self.out(self.lstm(x)[0][:, -1])


class Heads(nn.Module):
    def __init__(self, form):
        super().__init__()
        self.trunk, self.form = nn.Linear(4, 4), form
        self.heads = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4)})

    def forward(self, x):
        h = torch.relu(self.trunk(x))
        outputs = {name: head(h) for name, head in self.heads.items()}
        return outputs if self.form == "dict" else (outputs["b"], [outputs["a"], None])


X = torch.randn(3, 4)
IMAGES = torch.randn(3, 1, 8, 8)
LSTM = ["lstm.weight_ih_l0", "lstm.weight_hh_l0", "lstm.weight_ih_l1", "lstm.weight_hh_l1"]
LAYER = ["self_attn.in_proj_weight", "self_attn.out_proj.weight", "linear1.weight", "linear2.weight"]
MODELS = {
    "mlp of equal widths": (
        lambda: nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)),
        (X,),
        ["0.weight", "2.weight"],
    ),
    "norms of any dimension": (ThreeDimensionalNorm, (IMAGES,), ["conv.weight"]),
    "convolutional head": (
        lambda: nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 3, 3), nn.ReLU(), nn.Conv2d(3, 2, 1)),
        (IMAGES,),
        ["0.weight", "2.weight"],
    ),
    "transformer": (
        lambda: nn.Sequential(
            nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 6, batch_first=True), 2, enable_nested_tensor=False),
            nn.Linear(4, 2),
        ),
        (torch.randn(3, 5, 4),),
        [f"0.layers.{i}.{part}" for i in (0, 1) for part in LAYER],
    ),
    "recurrent": (Recurrent, (torch.randn(3, 5, 3),), LSTM),
    "tied head": (lambda: Language(tied=True), (torch.zeros(3, 5, dtype=torch.long),), ["mixing", "block.weight"]),
    "untied head": (lambda: Language(tied=False), (torch.zeros(3, 5, dtype=torch.long),), ["mixing", "block.weight"]),
    "heads in a dict": (lambda: Heads("dict"), (X,), ["trunk.weight"]),
    "heads in a tuple": (lambda: Heads("tuple"), (X,), ["trunk.weight"]),
    "weight norm beside a plain layer": (
        lambda: nn.Sequential(
            nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)),
            nn.ReLU(),
            nn.Linear(4, 4),
            nn.ReLU(),
            nn.Linear(4, 2),
        ),
        (X,),
        ["2.weight"],
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_default_choice_is_every_connection_but_the_output_layer(name):
    build, inputs, expected = MODELS[name]
    assert choose(build(), *inputs) == expected


def test_without_a_pass_the_output_layer_is_not_known():
    assert choose(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))) == ["0.weight", "2.weight"]


def test_attention_alone_offers_its_projections():
    model = nn.MultiheadAttention(4, 2, kdim=3, vdim=3)
    assert choose(model) == ["q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj.weight"]


def test_frozen_parameters_are_left_alone():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    model[0].weight.requires_grad_(False)
    assert choose(model, X) == ["1.weight"]


def test_parameters_of_no_optimizer_are_left_alone():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    assert choose(model, X, owned={id(p) for p in model[1].parameters()}) == ["1.weight"]
    with pytest.raises(ValueError, match=r"no attached optimizer steps: 0\.weight"):
        choose(model, X, owned={id(p) for p in model[1].parameters()}, include="0.weight")


def test_include_and_exclude_take_patterns_modules_and_parameters():
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 4), nn.Linear(4, 2))
    cases = [
        ({"include": "*.weight"}, ["0.weight", "1.weight", "2.weight", "3.weight"]),
        ({"include": ["3", model[0].bias]}, ["0.bias", "3.weight", "3.bias"]),  # exactly these, head and biases too
        ({"include": model[2].weight}, ["2.weight"]),
        ({"exclude": "0"}, ["2.weight"]),
        ({"exclude": ["2.*"]}, ["0.weight"]),
        ({"exclude": model[0].weight}, ["2.weight"]),
        ({"include": "[02].weight", "exclude": ["0.weight"]}, ["2.weight"]),
    ]
    for options, expected in cases:
        assert choose(model, X, **options) == expected, options


@pytest.mark.parametrize("option", ["include", "exclude"])
def test_what_matches_nothing_is_an_error_with_the_nearest_name(option):
    model = nn.Sequential()
    model.add_module("encoder", nn.Linear(4, 4))
    with pytest.raises(ValueError, match=rf"{option}: 'encodr\.weight' matches no parameter.*encoder\.weight"):
        choose(model, **{option: "encodr.weight"})
    with pytest.raises(ValueError, match=rf"{option}: a tensor of shape \(4, 4\) matches no parameter"):
        choose(model, **{option: torch.zeros(4, 4)})


def test_a_model_of_norms_and_embeddings_has_nothing_to_prune():
    with pytest.raises(ValueError, match=r"nothing to prune.*0\.weight: table of an embedding.*include="):
        choose(nn.Sequential(nn.Embedding(3, 4), nn.LayerNorm(4)))


@pytest.mark.filterwarnings("ignore")
def test_names_are_those_of_the_plain_model_under_every_wrapper():
    def build():
        return nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))

    inner = build()
    inner[2] = torch.compile(inner[2], backend="eager")
    wrapped = [torch.compile(build(), backend="eager"), nn.DataParallel(build()), inner]
    for model in wrapped:
        assert choose(model, X) == ["0.weight", "2.weight"]
        assert list(named_weights(unwrap_model(model))) == list(dict(build().named_parameters()))


def test_a_tied_parameter_appears_once_under_its_first_name():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    model[2].weight = model[0].weight
    assert choose(model, X) == ["0.weight"]
    model[4] = nn.Linear(4, 4)
    model[4].weight = model[0].weight  # now it is the output layer's, too
    assert choose(model, X, include="0.weight") == ["0.weight"]
    with pytest.raises(ValueError, match="nothing to prune"):
        choose(model, X)


class TopOne(nn.Module):
    """Sends every row to the one expert with the highest score."""

    def __init__(self):
        super().__init__()
        self.choice, self.out = nn.Linear(8, 3), nn.Linear(8, 2)
        self.paths = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))

    def forward(self, x):
        scores = self.choice(x).softmax(-1)
        chosen = nn.functional.one_hot(scores.argmax(-1), 3) * scores
        return self.out(sum(chosen[:, i : i + 1] * path(x) for i, path in enumerate(self.paths)))


def test_what_an_argmax_chooses_by_is_a_router():
    assert choose(TopOne(), torch.ones(4, 8)) == [f"paths.{i}.weight" for i in range(3)]


class Router(nn.Module):
    """Holds the layer that chooses, as a child; the experts are elsewhere."""

    def __init__(self):
        super().__init__()
        self.classifier = nn.Linear(8, 3)


def test_the_layers_of_a_router_module_are_left_alone():
    model = nn.ModuleDict({"router": Router(), "experts": nn.ModuleList(nn.Linear(8, 8) for _ in range(3))})
    assert choose(model) == [f"experts.{i}.weight" for i in range(3)]


class LinearRecurrence(nn.Module):
    """The gates and the decay of a linear recurrence, as in an RG-LRU."""

    def __init__(self):
        super().__init__()
        self.recurrent_param = nn.Parameter(torch.ones(8))
        self.gate_weight = nn.Parameter(torch.ones(2, 4, 4))


def test_a_linear_recurrence_and_the_convolution_before_it_are_left_alone():
    conv = nn.Conv1d(8, 8, 4, groups=8)
    parts = {"into": nn.Linear(8, 8), "conv": conv, "lru": LinearRecurrence(), "out": nn.Linear(8, 8)}
    assert choose(nn.ModuleDict({"block": nn.ModuleDict(parts)})) == ["block.into.weight", "block.out.weight"]
    assert choose(nn.ModuleDict({"conv": conv})) == ["conv.weight"]
