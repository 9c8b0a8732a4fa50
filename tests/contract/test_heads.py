"""Layers that produce the output stay dense, whatever stands between them and what the model returns."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict, namedtuple

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import surgecollapse as sc
from surgecollapse.observe.probe import Probe

Pair = namedtuple("Pair", "policy value")


@dataclasses.dataclass
class Output:
    logits: torch.Tensor
    loss: torch.Tensor | None = None


class Net(nn.Module):
    """A body, heads ``a`` and ``b`` on it, and a function of both."""

    def __init__(self, join, a=3, b=3):
        super().__init__()
        self.body, self.inner = nn.Linear(4, 16), nn.Linear(16, 16)
        self.a, self.b, self.join = nn.Linear(16, a), nn.Linear(16, b), join

    def forward(self, x):
        h = F.relu(self.inner(F.relu(self.body(x))))
        return self.join(self.a(h), self.b(h))


class Detector(nn.Module):
    """Boxes and classes of every position of two scales, concatenated."""

    def __init__(self):
        super().__init__()
        self.body, self.down = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, stride=2)
        self.boxes, self.classes = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 5, 1)

    def forward(self, x):
        large = F.relu(self.body(x))
        small = F.relu(self.down(large))
        rows = [
            torch.cat([self.boxes(h).exp(), self.classes(h).sigmoid()], 1).permute(0, 2, 3, 1).flatten(1, 2)
            for h in (large, small)
        ]
        return torch.cat(rows, 1)[:, ::2] / 8.0


class Residual(nn.Module):
    """A stream without a head: of the blocks that write to it the last produces the output."""

    def __init__(self):
        super().__init__()
        self.blocks, self.norm = nn.ModuleList(nn.Linear(8, 8) for _ in range(3)), nn.LayerNorm(8)

    def forward(self, x):
        for block in self.blocks:
            x = x + torch.tanh(block(x))
        return self.norm(x)


class Features(nn.Module):
    """Features of the trunk beside the logits."""

    def __init__(self):
        super().__init__()
        self.body, self.trunk, self.head = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        features = F.relu(self.trunk(F.relu(self.body(x))))
        return {"features": features, "logits": self.head(features)}


class Auxiliary(nn.Module):
    """A second classifier that runs in training alone."""

    def __init__(self):
        super().__init__()
        self.body, self.norm, self.top = nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 8)
        self.head, self.auxiliary = nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, x):
        h = F.relu(self.norm(self.body(x)))
        out = self.head(F.relu(self.top(h)))
        return (out, self.auxiliary(h)) if self.training else out


class Towers(nn.Module):
    """Similarities of two encoders: both projections produce them."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(4, 8), nn.Linear(4, 8)
        self.project_left, self.project_right = nn.Linear(8, 6), nn.Linear(8, 6)

    def forward(self, x):
        a = F.normalize(self.project_left(F.gelu(self.left(x))), dim=-1)
        b = F.normalize(self.project_right(F.gelu(self.right(x))), dim=-1)
        return a @ b.T


class Written(nn.Module):
    """Heads write into a buffer that is returned."""

    def __init__(self):
        super().__init__()
        self.body, self.heads = nn.Linear(4, 8), nn.ModuleList(nn.Linear(8, 1) for _ in range(2))

    def forward(self, x):
        h = torch.tanh(self.body(x))
        out = x.new_zeros(len(x), 2)
        for i, head in enumerate(self.heads):
            out[:, i] = head(h)[:, 0]
        return out


class Recurrent(nn.Module):
    """Logits of a recurrent net, and its state."""

    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(4, 8, batch_first=True), nn.Linear(8, 5)

    def forward(self, x):
        out, state = self.lstm(x)
        return F.log_softmax(self.head(out), -1), state


class Checkpointed(nn.Module):
    """A body whose activations are computed again in the backward pass."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x):
        from torch.utils.checkpoint import checkpoint

        return checkpoint(lambda z: self.head(F.relu(self.body(z))).detach().clone(), x, use_reentrant=False)


class Distribution(nn.Module):
    """A soft actor: a distribution of two heads."""

    def __init__(self):
        super().__init__()
        self.body, self.mean, self.log_std = nn.Linear(4, 8), nn.Linear(8, 2), nn.Linear(8, 2)

    def forward(self, x):
        h = F.relu(self.body(x))
        return torch.distributions.Normal(self.mean(h), self.log_std(h).clamp(-5, 2).exp())


class Critic(nn.Module):
    """A soft actor whose action its two critics take in."""

    def __init__(self):
        super().__init__()
        self.body, self.mean, self.log_std = nn.Linear(4, 8), nn.Linear(8, 2), nn.Linear(8, 2)
        self.first, self.second, self.inner = nn.Linear(10, 1), nn.Linear(6, 1), nn.Linear(10, 6)

    def forward(self, x):
        h = F.relu(self.body(x))
        mean, log_std = self.mean(h), self.log_std(h).clamp(-20, 2)
        action = torch.tanh(mean + log_std.exp() * torch.randn_like(mean))
        both = torch.cat([h, action], -1)
        return action, torch.minimum(self.first(both), self.second(F.relu(self.inner(both))))


class Stream(nn.Module):
    """The blocks of a residual stream, whose sum is returned beside the logits."""

    def __init__(self):
        super().__init__()
        self.blocks, self.head = nn.ModuleList(nn.Linear(4, 4) for _ in range(3)), nn.Linear(4, 2)

    def forward(self, x):
        for block in self.blocks:
            x = x + F.relu(block(x))
        return x, self.head(x)


class Attending(nn.Module):
    """Attention whose weights are returned beside the logits."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.head = (nn.Linear(4, n) for n in (4, 4, 4, 2))

    def forward(self, x):
        weights = (self.q(x) @ self.k(x).transpose(1, 2)).softmax(-1)
        return self.head((weights @ self.v(x)).mean(1)), weights


class Chained(nn.Module):
    """A first output, as ``first`` returns it, on which the second one depends."""

    def __init__(self, first):
        super().__init__()
        self.body, self.a, self.b, self.first = nn.Linear(4, 16), nn.Linear(16, 3), nn.Linear(19, 2), first

    def forward(self, x):
        h = F.relu(self.body(x))
        a = self.first(self.a(h))
        return a, self.b(torch.cat([h, a], -1))


X, IMAGES, SEQUENCES = torch.randn(6, 4), torch.randn(2, 3, 9, 9), torch.randn(3, 5, 4)
BODY = ["body.weight", "inner.weight"]
JOINS = {
    "softmax and value": lambda a, b: (a.softmax(-1), b),
    "dueling": lambda a, b: a + b - b.mean(1, keepdim=True),
    "tanh": lambda a, b: torch.tanh(a) * 2.0 + b,
    "sigmoid in place": lambda a, b: (a.sigmoid_(), b),
    "exp and division": lambda a, b: a.exp() / (1.0 + b.abs()),
    "cast": lambda a, b: (a.double(), b.bfloat16().float()),
    "temperature": lambda a, b: (a / 0.07, b * 3),
    "concatenation": lambda a, b: torch.cat([a, b], -1),
    "stack and view": lambda a, b: torch.stack([a, b], 1).view(-1, 3),
    "permute and index": lambda a, b: (a.T[1:], b[..., 0].squeeze()),
    "dict": lambda a, b: {"a": a, "b": {"c": b}},
    "ordered dict": lambda a, b: OrderedDict(out=a.log_softmax(-1), aux=b),
    "named tuple": lambda a, b: Pair(a.softmax(-1), b.squeeze(-1)),
    "dataclass": lambda a, b: Output(a, b.sum()),
    "loss inside": lambda a, b: F.cross_entropy(a, torch.zeros(len(a), dtype=torch.long)) + b.square().mean(),
    "normalized": lambda a, b: F.normalize(a, dim=1) + F.layer_norm(b, (3,)),
    "argmax": lambda a, b: (a.argmax(-1), b.topk(2).indices),
    "clamped sample": lambda a, b: (a + b.clamp(-2, 2).exp() * torch.randn_like(a)).tanh(),
    "product": lambda a, b: a * b.sigmoid(),
    "cumulative": lambda a, b: (a.cumsum(-1), F.softplus(b).flip(-1)),
    "ragged": lambda a, b: [a[:2], [b[2:], None], "text", 3],
}
NETS = {
    "detector": (Detector, IMAGES, ["body.weight", "down.weight"]),
    "residual stream": (Residual, torch.randn(3, 8), ["blocks.0.weight", "blocks.1.weight"]),
    "features beside logits": (Features, X, ["body.weight", "trunk.weight"]),
    "auxiliary classifier": (Auxiliary, X, ["body.weight", "top.weight"]),
    "two towers": (Towers, X, ["left.weight", "right.weight"]),
    "written into a buffer": (Written, X, ["body.weight"]),
    "recurrent with its state": (Recurrent, SEQUENCES, ["lstm.weight_ih_l0", "lstm.weight_hh_l0"]),
    "checkpointed": (Checkpointed, X, ["body.weight"]),
    "distribution": (Distribution, X, ["body.weight"]),
    "second head on the logits": (lambda: Chained(torch.clone), X, ["body.weight"]),
    "second head on probabilities": (lambda: Chained(torch.sigmoid), X, ["body.weight"]),
    "second head on classes": (lambda: Chained(lambda a: a.softmax(-1)), X, ["body.weight"]),
    "second head on log-probabilities": (lambda: Chained(lambda a: F.log_softmax(a, -1)), X, ["body.weight"]),
    "second head on an action": (lambda: Chained(torch.tanh), X, ["body.weight"]),
    "soft actor and critics": (Critic, X, ["body.weight", "inner.weight"]),
    "residual stream beside logits": (Stream, X, [f"blocks.{i}.weight" for i in range(3)]),
    "attention beside logits": (Attending, SEQUENCES, [f"{name}.weight" for name in "qkv"]),
    "features that are activations": (lambda: Chained(F.relu), X, ["a.weight", "body.weight"]),
    "transformer encoder": (
        lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), 2),
        SEQUENCES,
        [
            *(f"layers.0.{part}.weight" for part in ("self_attn.out_proj", "linear1", "linear2")),
            *(f"layers.1.{part}.weight" for part in ("self_attn.out_proj", "linear1")),
            *(f"layers.{i}.self_attn.in_proj_weight" for i in range(2)),
        ],
    ),
}


def pruned(net, x, **options):
    controller = sc.attach(
        net,
        torch.optim.SGD(net.parameters()),
        sparsity=sc.Target(0.5, **options),
        policy="no_op",
        readings=sc.Readings(probe=x),
    )
    return sorted(controller.masks)


@pytest.mark.parametrize("join", JOINS)
def test_both_heads_are_left_dense(join):
    assert pruned(Net(JOINS[join]), X) == BODY


@pytest.mark.parametrize("name", NETS)
def test_only_the_layers_that_produce_the_output_are_left_dense(name):
    build, x, expected = NETS[name]
    assert pruned(build(), x) == sorted(expected)


@pytest.mark.parametrize("name", ["detector", "features beside logits", "recurrent with its state"])
def test_heads_are_found_on_the_first_training_batch_too(name):
    build, x, expected = NETS[name]
    net = build()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    controller = sc.attach(net, optimizer, sparsity=0.5, policy="no_op")
    out = net(x)
    while not isinstance(out, torch.Tensor):
        out = out["logits"] if isinstance(out, dict) else out[0]
    out.sum().backward()
    optimizer.step()
    assert sorted(controller.masks) == sorted(expected)


def test_heads_are_found_under_autocast_and_in_transformed_parts():
    net = Net(lambda a, b: (a.softmax(-1), b))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        probe = Probe(X)
        probe.capture((X,), {})
        assert probe.dataflow(net).outputs == ("a.weight", "b.weight")
    net.join = lambda a, b: (torch.func.vmap(lambda row: row.softmax(-1))(a), b)
    assert sorted(Probe(X).dataflow(net).outputs) == ["a.weight", "b.weight"]


def test_a_head_of_bare_matrices_and_one_that_is_computed_are_found():
    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.w_in, self.w_out = nn.Parameter(torch.randn(4, 8)), nn.Parameter(torch.randn(8, 3))

        def forward(self, x):
            return torch.einsum("bi,ij->bj", F.relu(x @ self.w_in), self.w_out).softmax(-1)

    assert pruned(Bare(), X) == ["w_in"]
    head = nn.utils.parametrizations.spectral_norm(nn.Linear(8, 3))
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), head, nn.Sigmoid())
    assert pruned(net, X) == ["0.weight"]


def test_a_pass_that_is_followed_changes_nothing():
    net = Auxiliary()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    random = torch.get_rng_state()
    Probe(X).dataflow(net)
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert net.training
    assert net.norm.training


def test_explain_lists_the_heads():
    net = Net(JOINS["dueling"])
    controller = sc.attach(
        net, torch.optim.SGD(net.parameters()), sparsity=0.5, policy="no_op", readings=sc.Readings(probe=X)
    )
    rows = {row.name: row for row in controller.explain()}
    assert {name for name, row in rows.items() if row.role == "output layer"} == {"a.weight", "b.weight"}
    assert {name for name, row in rows.items() if row.prunable} == set(controller.masks)
