"""Situations that people met while they trained, each as its reporter would write it: state, masks, layers, steps."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import surgecollapse as sc
from sharpness_aware import TwoCalls


def data():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(256, 16, generator=generator), torch.randint(3, (256,), generator=generator)


def mlp(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3))


def train(model, optimizer, steps, seed=0):
    x, y = data()
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        rows = torch.randint(256, (32,), generator=generator)
        optimizer.zero_grad()
        F.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()


def zeros(p):
    return int((p == 0).sum())


# ---- state and masks


def test_01_state_dict_is_a_snapshot():
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    controller = sc.attach(model, optimizer, sparsity=0.8, total_steps=200, readings=sc.Readings(every=5))
    train(model, optimizer, 41)
    saved = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict()), controller.state_dict()
    train(model, optimizer, 50, seed=1)
    expected = [p.clone() for p in model.parameters()]
    for part, state in zip((model, optimizer, controller), saved, strict=True):
        part.load_state_dict(state)
    train(model, optimizer, 50, seed=1)
    assert all(map(torch.equal, expected, model.parameters()))


def test_03_finalize_applies_the_mask_to_older_weights_that_were_loaded():
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    controller = sc.attach(model, optimizer, sparsity=0.8, total_steps=100, policy="gmp", readings=sc.Readings(every=5))
    train(model, optimizer, 5)
    best = copy.deepcopy(model.state_dict())
    train(model, optimizer, 95)
    model.load_state_dict(best)
    controller.finalize()
    closed = {name: int((~mask).sum()) for name, mask in controller.masks.items()}
    assert {name: zeros(p) for name, p in model.named_parameters() if name in closed} == closed
    size = sum(mask.numel() for mask in controller.masks.values())
    assert sum(closed.values()) == size - round(0.2 * size)
    assert controller.sparsity == sum(closed.values()) / size


def test_06_a_deep_copy_is_a_plain_net():
    model = mlp()
    sc.attach(model, torch.optim.AdamW(model.parameters(), lr=1e-2), sparsity=0.8, total_steps=2000)
    average = copy.deepcopy(model)
    assert sum(len(part._forward_pre_hooks) + len(part._forward_hooks) for part in average.modules()) == 0


def test_16_the_zeros_of_a_sparse_net_are_kept():
    model = mlp()
    with torch.no_grad():
        for i in (0, 2):
            model[i].weight[model[i].weight.abs() < model[i].weight.abs().quantile(0.8)] = 0
    closed = [model[i].weight == 0 for i in (0, 2)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    sc.attach(model, optimizer, sparsity=0.8, total_steps=50, masks="zeros")
    train(model, optimizer, 50)
    assert all(torch.equal(model[i].weight == 0, then) for i, then in zip((0, 2), closed, strict=True))


MAKERS = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.01),
}


@pytest.mark.parametrize("how", ["load", "detach"])
@pytest.mark.parametrize("name", MAKERS)
def test_18_closed_weights_are_zero_after_every_step(name, how):
    model = mlp()
    dense = copy.deepcopy(model.state_dict())
    optimizer = MAKERS[name](model.parameters())
    controller = sc.attach(model, optimizer, sparsity=0.9, total_steps=200, policy="static")
    train(model, optimizer, 5)
    if how == "load":
        model.load_state_dict(dense)
    else:
        controller.detach()
        train(model, optimizer, 1)
        controller.reattach()
    for _ in range(4):
        train(model, optimizer, 1)
        weights = dict(model.named_parameters())
        assert all(int((weights[key][~mask] != 0).sum()) == 0 for key, mask in controller.masks.items())


def test_20_a_parameter_without_entries_is_left_alone():
    model = mlp()
    model.extra = nn.Parameter(torch.zeros(0, 4))
    controller = sc.attach(model, torch.optim.SGD(model.parameters(), lr=0.1), sparsity=0.5, total_steps=1_000)
    assert "extra" not in controller.masks


# ---- what is pruned, what is read


class ActorCritic(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.actor, self.critic = nn.Linear(4, 64), nn.Linear(64, 2), nn.Linear(64, 1)

    def forward(self, z):
        h = F.relu(self.body(z))
        return self.actor(h).softmax(-1), self.critic(h)


class Dueling(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.value, self.adv = nn.Linear(4, 64), nn.Linear(64, 1), nn.Linear(64, 3)

    def forward(self, z):
        h = F.relu(self.body(z))
        v, a = self.value(h), self.adv(h)
        return v + a - a.mean(1, keepdim=True)


@pytest.mark.parametrize("kind", [ActorCritic, Dueling])
def test_02_layers_that_produce_the_output_are_left_alone(kind):
    net = kind()
    controller = sc.attach(
        net,
        torch.optim.Adam(net.parameters()),
        sparsity=0.5,
        total_steps=1_000,
        readings=sc.Readings(probe=torch.randn(8, 4)),
    )
    assert sorted(controller.masks) == ["body.weight"]


class Graph(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 3)

    def forward(self, nodes, edges):
        h = F.relu(self.a(nodes))
        return self.b(torch.zeros_like(h).index_add(0, edges[1], h[edges[0]]))


def test_05_a_graph_trains_as_it_does_without_us():
    torch.manual_seed(0)
    nodes, edges = torch.randn(100, 8), torch.randint(100, (2, 300))
    trained = []
    for attached in (False, True):
        torch.manual_seed(0)
        model = Graph()
        optimizer = torch.optim.Adam(model.parameters())
        if attached:
            sc.attach(model, optimizer, sparsity=0.5, total_steps=1_000)
        model(nodes, edges).sum().backward()
        optimizer.step()
        trained.append(list(model.parameters()))
    assert all(map(torch.equal, *trained))


def test_09_units_of_a_transposed_convolution_are_its_outputs():
    torch.manual_seed(0)
    model = nn.Sequential(nn.ConvTranspose1d(8, 8, 4, stride=2), nn.ReLU(), nn.Conv1d(8, 1, 1))
    with torch.no_grad():
        model[0].weight[:, :4] *= 0.01
    controller = sc.attach(
        model,
        torch.optim.SGD(model.parameters(), lr=0.0),
        sc.Target(0.5, pattern="unit", include="0.weight"),
        policy="no_op",
        readings=sc.Readings(probe=torch.randn(4, 8, 10)),
    )
    controller.finalize()
    open_outputs = controller.masks["0.weight"].transpose(0, 1).flatten(1).any(1)
    assert open_outputs.tolist() == [False] * 4 + [True] * 4


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.block = nn.Embedding(64, 32), nn.TransformerEncoderLayer(32, 4, 64, 0.0, batch_first=True)
        self.head = nn.Linear(32, 64)

    def forward(self, tokens):
        return self.head(self.block(self.embed(tokens)))


def test_12_one_sequence_a_batch_gives_readings():
    torch.manual_seed(0)
    model = Tiny()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    controller = sc.attach(model, optimizer, sparsity=0.8, total_steps=60, readings=sc.Readings(every=5))
    for _ in range(20):
        tokens = torch.randint(64, (1, 32))
        optimizer.zero_grad()
        F.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten()).backward()
        optimizer.step()
    read = {reading.step: reading.entropy for reading in controller.readings}
    assert {5, 10, 15, 20} <= set(read)
    assert all(entropy is not None and 0.0 < entropy <= 1.0 for entropy in read.values())


class Positions(nn.Module):
    def __init__(self):
        super().__init__()
        self.pos = nn.Parameter(torch.randn(1, 8, 32) * 0.02)
        self.temperature = nn.Parameter(torch.ones(1, 1))
        self.block, self.head = nn.TransformerEncoderLayer(32, 4, 64, 0.0, batch_first=True), nn.Linear(32, 3)

    def forward(self, z):
        return self.head(self.block(z + self.pos).mean(1) * self.temperature)


def test_15_only_layers_that_multiply_are_prunable():
    model = Positions()
    controller = sc.attach(
        model,
        torch.optim.AdamW(model.parameters()),
        sparsity=0.5,
        total_steps=1_000,
        readings=sc.Readings(probe=torch.randn(4, 8, 32)),
    )
    layers = ("self_attn.in_proj_weight", "self_attn.out_proj.weight", "linear1.weight", "linear2.weight")
    assert sorted(controller.masks) == sorted(f"block.{name}" for name in layers)


# ---- steps


def test_08_an_optimizer_that_steps_in_two_calls_is_followed():
    model, (x, y) = mlp(), data()
    optimizer = TwoCalls(model.parameters(), torch.optim.AdamW, lr=1e-2)
    controller = sc.attach(model, optimizer, sparsity=0.8, total_steps=60, readings=sc.Readings(every=5))
    for _ in range(60):
        for half in (optimizer.first_step, optimizer.second_step):
            model.zero_grad()
            F.cross_entropy(model(x), y).backward()
            half()
    size = sum(mask.numel() for mask in controller.masks.values())
    assert (controller.step, controller.sparsity) == (60, (size - round(0.2 * size)) / size)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # torch's own
def test_13_compile_after_attach_and_layer_by_layer():
    x, y = data()
    whole, parts = mlp(), mlp()
    parts = nn.Sequential(*(torch.compile(k, backend="eager") if isinstance(k, nn.Linear) else k for k in parts))
    found = []
    for model in (whole, parts):
        optimizer = torch.optim.AdamW(model.parameters())
        controller = sc.attach(model, optimizer, sparsity=0.8, total_steps=60, readings=sc.Readings(every=5))
        called = torch.compile(model, backend="eager") if model is whole else model
        for _ in range(60):
            optimizer.zero_grad()
            F.cross_entropy(called(x), y).backward()
            optimizer.step()
        assert "none" not in {reading.source for reading in controller.readings}
        found.append(controller.sparsity)
    assert found[0] == found[1] > 0.799


def test_14_a_recipe_beside_a_policy_is_refused():
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(TypeError, match="recipe"):
        sc.attach(model, optimizer, sparsity=0.5, total_steps=100, recipe="surge-collapse", policy="entropy_cycles")
