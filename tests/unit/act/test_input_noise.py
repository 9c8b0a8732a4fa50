"""The entropy pump: how large its noise is, on what, and what it leaves alone."""

from __future__ import annotations

from collections import namedtuple

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import surgecollapse
from surgecollapse.act.input_noise import InputNoise
from surgecollapse.act.randomness import Generators
from surgecollapse.events import Decision, SetNoise
from surgecollapse.observe.probe import Probe

Batch = namedtuple("Batch", ["x", "label"])


class Echo(nn.Module):
    """Returns what it was called with."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def forward(self, *args, **kwargs):
        return args, kwargs


class Tokens(nn.Module):
    """Two embeddings, each kept as it came out."""

    def __init__(self):
        super().__init__()
        self.words, self.places, self.layer = nn.Embedding(50, 16), nn.Embedding(50, 16), nn.Linear(1, 1)

    def forward(self, tokens):
        self.got = self.words(tokens), self.places(tokens)
        return self.got[0] + self.got[1]


def pumped(model, sigma, seed=0):
    pump = InputNoise(model, Generators(seed))
    pump.set(sigma)
    return pump


def hooks_of(model):
    return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules())


@pytest.mark.parametrize("sigma", [0.05, 0.2, 3.0])
def test_noise_has_mean_zero_and_the_standard_deviation_asked_for(sigma):
    model, x = Echo(), torch.full((400, 250), 7.0)
    pumped(model, sigma)
    noise = model(x)[0][0] - x
    n = noise.numel()
    assert noise.mean().item() == pytest.approx(0, abs=5 * sigma / n**0.5)
    assert noise.std().item() == pytest.approx(sigma, rel=5 / (2 * n) ** 0.5)
    assert (x == 7.0).all()  # the user's batch is the user's


@pytest.mark.parametrize("form", ["argument", "keyword", "dict", "list", "tuple", "named tuple"])
def test_the_first_float_input_is_noisy_in_every_form_and_nothing_else(form):
    model, x, y, flag = Echo(), torch.zeros(4, 3), torch.zeros(4), object()
    pumped(model, 0.1)
    if form == "keyword":
        _, got = model(x=x, y=y, flag=flag)
        noisy, rest, third = got["x"], got["y"], got["flag"]
    elif form == "argument":
        (noisy, rest, third), _ = model(x, y, flag)
    else:
        batch = {"dict": {"x": x}, "list": [x], "tuple": (x,), "named tuple": Batch(x, 1)}[form]
        (got, rest, third), _ = model(batch, y, flag)
        assert type(got) is type(batch)
        noisy = got["x"] if form == "dict" else got[0]
    assert noisy.abs().sum() > 0
    assert rest is y
    assert third is flag


def test_evaluation_is_never_touched():
    model, x = Echo().eval(), torch.zeros(4, 3)
    pumped(model, 0.5)
    assert model(x)[0][0] is x
    tokens = Tokens().eval()
    pumped(tokens, 0.5)
    ids = torch.arange(5)
    tokens(ids)
    assert torch.equal(tokens.got[0], tokens.words.weight[:5])


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_tokens_get_noise_on_the_first_embedding_in_units_of_its_rms(scale):
    model, ids = Tokens(), torch.arange(50).repeat(40)
    with torch.no_grad():
        model.words.weight.mul_(scale)
    pumped(model, 0.1)
    clean = model.words.weight[ids]
    model(ids)
    noise = (model.got[0] - clean).detach()
    assert noise.std().item() == pytest.approx(0.1 * clean.pow(2).mean().sqrt().item(), rel=0.02)
    assert torch.equal(model.got[1], model.places.weight[ids])


def test_bags_of_tokens_get_noise_too():
    model = nn.Sequential(nn.EmbeddingBag(9, 4), nn.Linear(4, 2))
    ids = torch.arange(6).reshape(2, 3)
    clean = model(ids)
    pumped(model, 0.5)
    assert not torch.equal(model(ids), clean)


def test_gradients_flow_through_noisy_inputs():
    model, x = Echo(), torch.zeros(2, 2, requires_grad=True)
    pumped(model, 0.1)
    model(x)[0][0].sum().backward()
    assert x.grad.tolist() == [[1.0, 1.0], [1.0, 1.0]]


def test_while_sigma_is_zero_no_hook_exists():
    model = Tokens()
    pump = pumped(model, 0.0)
    assert hooks_of(model) == 0
    pump.set(0.1)
    pump.set(0.2)
    assert hooks_of(model) == 3
    pump.suspend()
    assert (hooks_of(model), pump.std) == (0, 0.2)
    pump.set(0.2)
    assert hooks_of(model) == 3
    pump.set(0.0)
    assert (hooks_of(model), pump.std) == (0, 0.0)


@pytest.mark.parametrize("sigma", [-0.1, float("inf"), float("nan")])
def test_an_impossible_sigma_is_refused(sigma):
    with pytest.raises(ValueError, match="input noise must be finite and at least 0"):
        pumped(Echo(), sigma)


def test_noise_comes_from_its_own_generator():
    model, x = Echo(), torch.zeros(3, 3)
    pumped(model, 0.1, seed=4)
    before = torch.get_rng_state()
    first = model(x)[0][0]
    assert torch.equal(torch.get_rng_state(), before)
    twin = Echo()
    pumped(twin, 0.1, seed=4)
    torch.rand(10)
    assert torch.equal(twin(x)[0][0], first)
    assert not torch.equal(model(x)[0][0], first)


class PumpFrom:
    """Pump from step 3 on."""

    growth = "random"

    def start(self, plan):
        pass

    def due(self, step):
        return False

    def decide(self, reading):
        return Decision(phase="pump", reason="test", actions=(SetNoise(0.3),) if reading.step >= 3 else ())

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def train(steps, saved=None):
    """Train from the start or from a saved state; return every state after ``steps``."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    controller = surgecollapse.attach(
        model, optimizer, sparsity=0.5, policy=PumpFrom(), readings=surgecollapse.Readings(every=1)
    )
    if saved is not None:
        for target, state in zip((model, optimizer, controller), saved, strict=True):
            target.load_state_dict(state)
    x = torch.randn(16, 5, generator=torch.Generator().manual_seed(1))
    for _ in range(steps):
        optimizer.zero_grad()
        model(x).square().sum(1).sub(1).square().mean().backward()
        optimizer.step()
    return model.state_dict(), optimizer.state_dict(), controller.state_dict(), controller


def test_a_run_resumed_while_pumping_is_bitwise_the_whole_one():
    whole = train(9)
    first = train(5)
    second = train(4, saved=first[:3])
    assert all(torch.equal(whole[0][key], second[0][key]) for key in whole[0])
    assert whole[3].noise_std == second[3].noise_std == 0.3
    assert [(e.step, e.kind, e.details) for e in second[3].events] == [(3, "pump", {"noise_std": 0.3})]


@pytest.mark.parametrize("look", ["forward", "dataflow", "output_layers"])
def test_passes_of_the_probe_batch_draw_no_noise(look):
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    generators = Generators(0)
    noise, probe = InputNoise(model, generators), Probe(torch.ones(5, 3))
    noise.set(0.5)
    model.train()(torch.ones(1, 3))
    before = generators.on("cpu").get_state()
    passes = {
        "forward": lambda: probe.forward(model, training=True),
        "dataflow": lambda: probe.dataflow(model),
        "output_layers": lambda: probe.output_layers(model),
    }
    passes[look]()
    assert torch.equal(generators.on("cpu").get_state(), before)
    model(torch.ones(1, 3))
    assert not torch.equal(generators.on("cpu").get_state(), before)


class Embedded(nn.Module):
    def __init__(self, again):
        super().__init__()
        torch.manual_seed(0)
        self.words, self.layer, self.again = nn.Embedding(50, 16), nn.Linear(16, 1), again

    def body(self, tokens):
        return torch.relu(self.layer(self.words(tokens)))

    def forward(self, tokens):
        return checkpoint(self.body, tokens, use_reentrant=False) if self.again else self.body(tokens)


@pytest.mark.parametrize("whole", [False, True], ids=["the embedding", "the whole model"])
def test_what_is_computed_again_in_the_backward_pass_has_the_same_noise(whole):
    grads, states = [], []
    for again in (False, True):
        model, generators = Embedded(again and not whole), Generators(0)
        pump = InputNoise(model, generators)
        pump.set(0.5)
        for step in range(2):  # two micro-batches
            tokens = torch.arange(20) + step
            out = checkpoint(model, tokens, use_reentrant=False) if again and whole else model(tokens)
            out.sum().backward()
        grads.append([p.grad for p in model.parameters()])
        states.append(generators.on().get_state())
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))
    assert torch.equal(*states)
