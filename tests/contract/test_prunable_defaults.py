"""Only the weights of layers that multiply are pruned by default; `explain()` says why of every parameter."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import surgecollapse as sc
from surgecollapse.act.roles import PRUNABLE, REASONS, explain_parameters

X = torch.randn(4, 6, 16)


class Positions(nn.Module):
    """Bare parameters of every kind around one block."""

    def __init__(self):
        super().__init__()
        self.pos = nn.Parameter(torch.randn(1, 6, 16) * 0.02)
        self.temperature, self.layer_scale = nn.Parameter(torch.ones(1, 1)), nn.Parameter(torch.ones(16, 1))
        self.queries = nn.Parameter(torch.randn(3, 16))
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 16))
        self.logit_scale = nn.Parameter(torch.tensor(1.0))
        self.block, self.head = nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, x):
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x + self.pos], 1)
        keys = F.relu(self.block(x)) * self.layer_scale.T
        picked = (self.queries @ keys.transpose(1, 2)).softmax(-1) @ keys
        return self.head(picked.mean(1) * self.temperature) * self.logit_scale.exp()


class Matrices(nn.Module):
    """A layer written with a bare matrix, as research code does, and a kernel scaled on the way."""

    def __init__(self):
        super().__init__()
        self.W_Q, self.gain = nn.Parameter(torch.randn(16, 16)), nn.Parameter(torch.ones(16, 16))
        self.kernel = nn.Parameter(torch.randn(16, 16))
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        x = torch.einsum("bti,io->bto", x * self.gain[:6], self.W_Q)
        return self.head(F.linear(F.relu(x), self.kernel * 0.25).mean(1))


class Mixture(nn.Module):
    """A batch of experts in 3-d weights behind a top-1 router, with a gate that another layer hides."""

    def __init__(self):
        super().__init__()
        self.choose = nn.Linear(16, 4)
        self.w_up, self.w_down = nn.Parameter(torch.randn(4, 32, 16)), nn.Parameter(torch.randn(4, 16, 32))
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        rows = x.flatten(0, 1)
        share, expert = self.choose(rows).softmax(-1).topk(1)
        hidden = torch.bmm(self.w_up[expert[:, 0]], rows.unsqueeze(-1)).relu()
        return self.head((torch.bmm(self.w_down[expert[:, 0]], hidden).squeeze(-1) * share).unflatten(0, x.shape[:2]))


class SoftMixture(nn.Module):
    """Experts that a softmax weighs: the router is known by its place."""

    def __init__(self):
        super().__init__()
        self.gate, self.experts = nn.Linear(16, 2), nn.ModuleList(nn.Linear(16, 16) for _ in range(2))
        self.gate_proj, self.head = nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, x):
        share = self.gate(x).softmax(-1)
        out = sum(share[..., i : i + 1] * expert(x) for i, expert in enumerate(self.experts))
        return self.head(F.silu(self.gate_proj(out)))


class StateSpace(nn.Module):
    """A selective state space, reduced to its parameters."""

    def __init__(self):
        super().__init__()
        self.in_proj, self.out_proj = nn.Linear(16, 16), nn.Linear(16, 16)
        self.dt_proj, self.conv1d = nn.Linear(16, 16), nn.Conv1d(16, 16, 3, groups=16, padding=1)
        self.A_log, self.D = nn.Parameter(torch.zeros(16, 4)), nn.Parameter(torch.ones(16))

    def forward(self, x):
        x = self.conv1d(self.in_proj(x).transpose(1, 2)).transpose(1, 2)
        decay = torch.exp(-F.softplus(self.dt_proj(x)).unsqueeze(-1) * self.A_log.exp())
        return self.out_proj(decay.sum(-1) + x * self.D)


class Adapter(nn.Module):
    """A linear layer with low-rank factors."""

    def __init__(self):
        super().__init__()
        self.base, self.lora_A, self.lora_B = nn.Linear(16, 16), nn.Linear(16, 2, bias=False), nn.Linear(2, 16)

    def forward(self, x):
        return self.base(x) + self.lora_B(self.lora_A(x))


class Odd(nn.Module):
    """Parameters without entries, without dimensions, complex, and one that nothing uses."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(16, 16), nn.Linear(16, 3)
        self.empty, self.scalar = nn.Parameter(torch.zeros(0, 4)), nn.Parameter(torch.tensor(2.0))
        self.phase = nn.Parameter(torch.ones(2, 2, dtype=torch.complex64))
        self.spare = nn.Parameter(torch.ones(3, 3))

    def forward(self, x):
        return self.head(F.relu(self.body(x * self.scalar)))


LAYERS = {
    "linear": (nn.Linear(16, 16), {"weight"}),
    "identity-like": (nn.Sequential(nn.LayerNorm(16), nn.PReLU(), nn.Linear(16, 16)), {"2.weight"}),
    "attention": (nn.TransformerEncoderLayer(16, 2, 24, batch_first=True), None),
    "attention with its own biases": (
        nn.MultiheadAttention(16, 2, add_bias_kv=True),
        {"in_proj_weight", "out_proj.weight"},
    ),
    "recurrent": (nn.GRU(16, 16, batch_first=True), {"weight_ih_l0", "weight_hh_l0"}),
    "projected recurrent": (nn.LSTM(16, 16, proj_size=8), {"weight_ih_l0", "weight_hh_l0", "weight_hr_l0"}),
    "cell": (nn.LSTMCell(16, 16), {"weight_ih", "weight_hh"}),
    "bilinear": (nn.Bilinear(16, 16, 16), {"weight"}),
    "convolution": (nn.Conv1d(6, 6, 3, groups=2), {"weight"}),
    "transposed convolution": (nn.ConvTranspose2d(6, 6, 3), {"weight"}),
    "embedding": (nn.Embedding(5, 16), set()),
    "embedding bag": (nn.EmbeddingBag(5, 16), set()),
    "norms": (nn.Sequential(nn.LayerNorm((6, 16)), nn.GroupNorm(2, 6), nn.BatchNorm1d(6), nn.RMSNorm((6, 16))), set()),
    "weight norm": (nn.utils.parametrizations.weight_norm(nn.Linear(16, 16)), set()),
    "orthogonal": (nn.utils.parametrizations.orthogonal(nn.Linear(16, 16)), set()),
    "spectral norm": (nn.utils.parametrizations.spectral_norm(nn.Linear(16, 16)), {"parametrizations.weight.original"}),
}
MODELS = {
    "bare parameters": (Positions, {"block.weight"}),
    "bare matrices": (Matrices, {"W_Q", "kernel"}),
    "batched experts behind a top-1 router": (Mixture, {"w_up", "w_down"}),
    "experts that a softmax weighs": (SoftMixture, {"experts.0.weight", "experts.1.weight", "gate_proj.weight"}),
    "state space": (StateSpace, {"in_proj.weight"}),
    "odd parameters": (Odd, {"body.weight"}),
}


def bare(*shape):
    return nn.Parameter(torch.randn(*shape) * 0.1)


def linears(count, size=16):
    return nn.ModuleList(nn.Linear(16, size) for _ in range(count))


class Around(nn.Module):
    """A body, a part with some parameters ``s``, and a head."""

    def __init__(self, parts, part):
        super().__init__()
        self.body, self.s, self.head = nn.Linear(16, 16), nn.Module(), nn.Linear(16, 3)
        for name, value in copy.deepcopy(parts).items():  # each net has its own, and its own controller
            setattr(self.s, name, value)
        self.part = part

    def forward(self, x):
        return self.head(self.part(self.s, F.relu(self.body(x))).mean(1))


def weighed(shares, experts, x):
    return sum(shares[..., i : i + 1] * expert(x) for i, expert in enumerate(experts))


def hard(shares):
    return F.one_hot(shares.argmax(-1), shares.shape[-1]) * shares.amax(-1, keepdim=True)


def chosen_by_experts(s, x):
    shares, out = s.w(x).softmax(-1), x
    for i, expert in enumerate(s.parts):
        share, rows = shares[..., i].topk(3, 1)
        rows = rows[..., None].expand(-1, -1, 16)
        out = out + torch.zeros_like(x).scatter(1, rows, expert(x.gather(1, rows)) * share[..., None])
    return out


def soft_slots(s, x):
    scores = x @ s.w
    return scores.softmax(-1) @ s.part(scores.softmax(1).transpose(1, 2) @ x)


def recurrence(s, x):
    state, out = torch.zeros(len(x), 16), []
    for t in range(x.shape[1]):
        state = state * torch.exp(-s.nu_log.exp()) + x[:, t] @ s.B_re.T
        out.append(state @ s.C_re.T + x[:, t] * s.D)
    return torch.stack(out, 1)


def linear_states(s, x):
    state, out = torch.zeros(len(x), 16), []
    for t in range(x.shape[1]):
        state = state @ s.A.T + x[:, t] @ s.B.T
        out.append(state @ s.C.T)
    return torch.stack(out, 1)


def frozen(layer):
    return layer.requires_grad_(False)


class LowRank(nn.Module):
    """Adds a product of factors to a weight; its class has any name."""

    def __init__(self):
        super().__init__()
        self.A, self.B = bare(2, 16), bare(16, 2)

    def forward(self, weight):
        return weight + self.B @ self.A


class Scaled(nn.Linear):
    """A linear layer with parameters of its own beside the weight."""

    def __init__(self):
        super().__init__(16, 16)
        self.scale, self.shift = nn.Parameter(torch.ones(16, 1)), bare(1, 16)

    def forward(self, x):
        return F.linear(x, self.weight * self.scale, self.bias) + self.shift


class WithFactors(nn.Linear):
    """A linear layer that merges factors on the way."""

    def __init__(self):
        super().__init__(16, 16)
        self.weight.requires_grad_(False)
        self.P, self.Q = bare(2, 16), bare(16, 2)

    def forward(self, x):
        return F.linear(x, self.weight + self.Q @ self.P, self.bias)


class LoRALinear(nn.Linear):
    """A layer with factors of its own."""

    def __init__(self):
        super().__init__(16, 16)
        self.A, self.B = bare(2, 16), bare(16, 2)

    def forward(self, x):
        return super().forward(x) + x @ self.A.T @ self.B.T


class DoRABlock(nn.Module):
    """Factors as layers beside the one that is adapted."""

    def __init__(self):
        super().__init__()
        self.base, self.down, self.up = nn.Linear(16, 16), nn.Linear(16, 2, bias=False), nn.Linear(2, 16, bias=False)

    def forward(self, x):
        return self.base(x) + self.up(self.down(x))


class Symmetric(nn.Module):
    def forward(self, weight):
        return weight.triu() + weight.triu(1).mT


class Merged(nn.Module):
    """Low-rank factors in a parametrization."""

    def __init__(self):
        super().__init__()
        self.u, self.v = bare(16, 2), bare(2, 16)

    def forward(self, weight):
        return weight + self.u @ self.v


def parametrized(how):
    layer = nn.Linear(16, 16)
    nn.utils.parametrize.register_parametrization(layer, "weight", how)
    return layer


def scores(query, keys):
    return (query @ keys.transpose(-1, -2)).softmax(-1)


# Parts of a net that nobody named after what they are, and what of them is pruned.
UNUSUAL = {
    "soft routing": (
        {"w": nn.Linear(16, 2), "e": linears(2)},
        lambda s, x: weighed(s.w(x).softmax(-1), s.e, x),
        {"e.0.weight", "e.1.weight"},
    ),
    "hard routing": (
        {"w": nn.Linear(16, 2), "e": linears(2)},
        lambda s, x: weighed(hard(s.w(x).softmax(-1)), s.e, x),
        {"e.0.weight", "e.1.weight"},
    ),
    "gumbel": (
        {"w": nn.Linear(16, 2), "e": linears(2)},
        lambda s, x: weighed(F.gumbel_softmax(s.w(x), hard=True), s.e, x),
        {"e.0.weight", "e.1.weight"},
    ),
    "sigmoid and top two": (
        {"w": nn.Linear(16, 4), "e": linears(4)},
        lambda s, x: weighed(torch.where((g := s.w(x).sigmoid()) >= g.topk(2, -1)[0][..., -1:], g, 0), s.e, x),
        {f"e.{i}.weight" for i in range(4)},
    ),
    "chosen by experts": (
        {"w": nn.Linear(16, 2), "parts": linears(2)},
        chosen_by_experts,
        {"parts.0.weight", "parts.1.weight"},
    ),
    "cosine routing": (
        {"w": bare(2, 16), "e": linears(2)},
        lambda s, x: weighed((F.normalize(x, dim=-1) @ F.normalize(s.w, dim=-1).T).softmax(-1), s.e, x),
        {"e.0.weight", "e.1.weight"},
    ),
    "routing within einsum": (
        {"w": bare(16, 2), "up": bare(2, 16, 16)},
        lambda s, x: torch.einsum("bte,edf,btd->btf", (x @ s.w).softmax(-1), s.up, x),
        {"up"},
    ),
    "soft slots": ({"w": bare(16, 4), "part": nn.Linear(16, 16)}, soft_slots, {"part.weight"}),
    "linear recurrence": (
        {"nu_log": bare(16), "B_re": bare(16, 16), "C_re": bare(16, 16), "D": bare(16)},
        recurrence,
        set(),
    ),
    "linear states": ({"A": bare(16, 16), "B": bare(16, 16), "C": bare(16, 16)}, linear_states, set()),
    "time decay": (
        {"time_decay": bare(16), "key": nn.Linear(16, 16)},
        lambda s, x: s.key(x) * torch.exp(-s.time_decay.exp()),
        {"key.weight"},
    ),
    "LoRA as parameters": ({"layer": LoRALinear()}, lambda s, x: s.layer(x), {"layer.weight"}),
    "DoRA as layers": ({"layer": DoRABlock()}, lambda s, x: s.layer(x), {"layer.base.weight"}),
    "bare factors beside a frozen layer": (
        {"base": frozen(nn.Linear(16, 16)), "A": bare(2, 16), "B": bare(16, 2)},
        lambda s, x: s.base(x) + x @ s.A.T @ s.B.T,
        set(),
    ),
    "transposed factors of any name": (
        {"base": frozen(nn.Linear(16, 16)), "first": bare(16, 2), "second": bare(2, 16)},
        lambda s, x: s.base(x) + x @ s.first @ s.second,
        set(),
    ),
    "factors beside a frozen matrix": (
        {"w": nn.Parameter(torch.randn(16, 16), requires_grad=False), "A": bare(2, 16), "B": bare(16, 2)},
        lambda s, x: F.linear(x, s.w) + F.linear(F.linear(x, s.A), s.B),
        set(),
    ),
    "factors as layers beside a frozen one": (
        {
            "base": frozen(nn.Linear(16, 16)),
            "down": nn.Linear(16, 2, bias=False),
            "up": nn.Linear(2, 16, bias=False),
        },
        lambda s, x: s.base(x) + s.up(s.down(x)),
        set(),
    ),
    "factors in a subclass of Linear": ({"layer": WithFactors()}, lambda s, x: s.layer(x), set()),
    "factors of a parametrization of any name": (
        {"layer": parametrized(LowRank())},
        lambda s, x: s.layer(x),
        set(),
    ),
    "a bottleneck beside a frozen layer": (
        {"base": frozen(nn.Linear(16, 16)), "down": nn.Linear(16, 2), "up": nn.Linear(2, 16)},
        lambda s, x: s.base(x) + s.up(F.relu(s.down(x))),
        {"down.weight", "up.weight"},
    ),
    "two bare matrices of another size beside a frozen layer": (
        {"base": frozen(nn.Linear(16, 16)), "A": bare(24, 16), "B": bare(16, 24)},
        lambda s, x: s.base(x) + F.relu(x @ s.A.T) @ s.B.T,
        {"A", "B"},
    ),
    "a scale and a shift in a subclass of Linear": ({"layer": Scaled()}, lambda s, x: s.layer(x), {"layer.weight"}),
    "LoHa": (
        {"base": nn.Linear(16, 16), "hada_w1_a": bare(16, 2), "hada_w1_b": bare(2, 16)},
        lambda s, x: s.base(x) + F.linear(x, s.hada_w1_a @ s.hada_w1_b),
        {"base.weight"},
    ),
    "factors of a parametrization": ({"layer": parametrized(Merged())}, lambda s, x: s.layer(x), set()),
    "a symmetric weight": ({"layer": parametrized(Symmetric())}, lambda s, x: s.layer(x), set()),
    "a centered weight": ({"w": bare(16, 16)}, lambda s, x: F.linear(x, s.w - s.w.mean()), set()),
    "a weight of shares": ({"w": bare(16, 16)}, lambda s, x: F.linear(x, s.w.softmax(-1)), set()),
    "positions in a list": (
        {"z": nn.ParameterList([bare(1, 6, 16), bare(6, 16)])},
        lambda s, x: x + s.z[0] + s.z[1],
        set(),
    ),
    "queries in a list": (
        {"queries": nn.ParameterList([bare(4, 16)])},
        lambda s, x: scores(s.queries[0], x) @ x,
        set(),
    ),
    "temperatures in a dictionary": (
        {"z": nn.ParameterDict({"zork": bare(1, 1), "blah": bare(1, 16)})},
        lambda s, x: x * s.z["zork"] / (1 + s.z["blah"].abs()),
        set(),
    ),
    "latents with a name of their own": (
        {"zz": bare(4, 16), "q": nn.Linear(16, 16)},
        lambda s, x: scores(s.q(s.zz), x) @ x,
        {"q.weight"},
    ),
    "relative positions as a table": (
        {"zz": bare(11, 2)},
        lambda s, x: (x @ x.mT + s.zz[torch.arange(6)[:, None] - torch.arange(6) + 5].mean(-1)).softmax(-1) @ x,
        set(),
    ),
    "relative positions as a product": (
        {"rel_emb": bare(6, 16)},
        lambda s, x: (x @ x.mT + x @ s.rel_emb.T).softmax(-1) @ x,
        set(),
    ),
    "learned frequencies": (
        {"freq": bare(1, 16)},
        lambda s, x: x + torch.sin(torch.arange(6.0)[:, None] @ s.freq),
        set(),
    ),
    "centers": ({"zz": bare(16, 16)}, lambda s, x: torch.exp(-torch.cdist(x, s.zz[None])), set()),
    "matrices in a list": (
        {"z": nn.ParameterList([bare(16, 16), bare(16, 16)])},
        lambda s, x: (x @ s.z[0]).relu() @ s.z[1],
        {"z.0", "z.1"},
    ),
    "bilinear": ({"layer": nn.Bilinear(16, 16, 16)}, lambda s, x: s.layer(x, x), {"layer.weight"}),
    "a recurrent cell": (
        {"cell": nn.GRUCell(16, 16)},
        lambda s, x: s.cell(x[:, 0])[:, None] + x,
        {"cell.weight_ih", "cell.weight_hh"},
    ),
    "attention of other widths": (
        {"a": nn.MultiheadAttention(16, 2, kdim=12, vdim=10, batch_first=True)},
        lambda s, x: s.a(x, x[..., :12], x[..., :10])[0],
        {"a.q_proj_weight", "a.k_proj_weight", "a.v_proj_weight", "a.out_proj.weight"},
    ),
    "packed attention": (
        {"a": nn.MultiheadAttention(16, 2, batch_first=True)},
        lambda s, x: s.a(x, x, x)[0],
        {"a.in_proj_weight", "a.out_proj.weight"},
    ),
    "bags of embeddings": (
        {"bag": nn.EmbeddingBag(5, 16)},
        lambda s, x: x + s.bag(torch.zeros(len(x), 2, dtype=torch.long))[:, None],
        set(),
    ),
    "attention of many positions": (
        {"q": nn.Linear(16, 16), "k": nn.Linear(16, 16)},
        lambda s, x: scores(s.q(x), s.k(x)) @ x,
        {"q.weight", "k.weight"},
    ),
    "shares of features": ({"q": nn.Linear(16, 16)}, lambda s, x: s.q(x).softmax(-1), {"q.weight"}),
}


@pytest.mark.filterwarnings("ignore:the model trains factors of low-rank adapters")
@pytest.mark.parametrize("name", UNUSUAL)
def test_parts_with_unusual_names_are_known_by_what_they_do(name):
    parts, part, expected = UNUSUAL[name]
    controller = pruned(Around(parts, part), X)
    assert set(controller.masks) == {"body.weight"} | {f"s.{key}" for key in expected}


@pytest.mark.parametrize(
    ("name", "factors"),
    [
        ("LoRA as parameters", "s.layer.A, s.layer.B"),
        ("DoRA as layers", "s.layer.down.weight"),
        ("bare factors beside a frozen layer", "s.A, s.B"),
        ("transposed factors of any name", "s.first, s.second"),
        ("factors as layers beside a frozen one", "s.down.weight, s.up.weight"),
        ("factors in a subclass of Linear", "s.layer.P, s.layer.Q"),
    ],
)
def test_factors_are_said_whatever_their_names(name, factors):
    parts, part, _ = UNUSUAL[name]
    with pytest.warns(UserWarning, match=rf"low-rank adapter.*{factors}.*merged weight.*dense"):
        pruned(Around(parts, part), X)


@pytest.mark.parametrize("place", ["body", "head"])
def test_a_tied_matrix_is_pruned_once_or_not_at_all(place):
    """One that a head shares is a head's; one that two layers of the body share is one of its weights."""
    net = Around(
        {"again": nn.Linear(16, 16 if place == "body" else 3)}, lambda s, x: x + s.again(x).sum(-1, keepdim=True)
    )
    net.s.again.weight = getattr(net, place).weight
    assert set(pruned(net, X).masks) == {"body.weight"}


def pruned(net, probe, **options):
    optimizer = torch.optim.SGD(net.parameters())
    return sc.attach(
        net, optimizer, sparsity=sc.Target(0.5, **options), policy="no_op", readings=sc.Readings(probe=probe)
    )


@pytest.mark.parametrize("name", LAYERS)
def test_each_layer_offers_its_weights_by_its_type(name):
    layer, expected = LAYERS[name]
    found = {row.name for row in explain_parameters(layer) if row.prunable}
    if expected is None:
        expected = {key for key, p in layer.named_parameters() if p.ndim == 2}
    assert found == expected


@pytest.mark.parametrize("name", MODELS)
def test_only_what_multiplies_is_pruned(name):
    build, expected = MODELS[name]
    controller = pruned(build(), X)
    assert set(controller.masks) == expected
    assert {row.name for row in controller.explain() if row.prunable} == expected


def test_low_rank_factors_stay_dense_with_one_warning():
    net = nn.Sequential(Adapter(), nn.ReLU(), nn.Linear(16, 3))
    with pytest.warns(UserWarning, match=r"low-rank adapter.*0\.lora_A\.weight.*merged weight.*dense") as said:
        controller = pruned(net, X)
    assert len(said) == 1
    assert set(controller.masks) == {"0.base.weight"}
    controller.detach()
    with pytest.warns(UserWarning, match="merged weight"):
        assert set(pruned(net, X, include="*lora_?.weight").masks) == {"0.lora_A.weight", "0.lora_B.weight"}


def test_frozen_adapters_are_no_concern():
    net = nn.Sequential(Adapter(), nn.ReLU(), nn.Linear(16, 3))
    for name, p in net.named_parameters():
        p.requires_grad_("lora" not in name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert set(pruned(net, X).masks) == {"0.base.weight"}


def test_include_overrides_and_explain_says_so():
    net = Positions()
    controller = pruned(net, X, include=["pos", "head.weight", "block.weight"], exclude="head")
    assert set(controller.masks) == {"pos", "block.weight"}
    table = controller.explain()
    assert table["pos"].reason == "named by include"
    assert table["head.weight"].reason == "named by exclude"
    assert not table["queries"].prunable
    lines = str(table).splitlines()
    assert lines[0].split() == ["parameter", "shape", "role", "prunable", "reason"]
    assert len(lines) == 1 + len(list(net.parameters())) == 1 + len(table)


def test_explain_says_that_the_output_layer_is_not_known_before_the_first_batch():
    net = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    controller = sc.attach(net, optimizer, sparsity=0.5, policy="no_op")
    before = controller.explain()
    net(X).sum().backward()
    optimizer.step()
    after = controller.explain()
    assert before["2.weight"].prunable
    assert str(before).splitlines()[-1].startswith("No batch was seen yet")
    assert not after["2.weight"].prunable
    assert "No batch" not in str(after)


def test_explain_says_what_is_frozen_and_what_no_optimizer_steps():
    net = nn.Sequential(*(nn.Linear(16, 16) for _ in range(4)))
    net[0].requires_grad_(False)
    optimizer = torch.optim.SGD([*net[0].parameters(), *net[2].parameters()])
    with pytest.warns(UserWarning, match=r"no attached optimizer steps 1\.weight"):
        table = sc.attach(net, optimizer, sparsity=0.5, policy="no_op", readings=sc.Readings(probe=X)).explain()
    assert [row.name for row in table if row.prunable] == ["2.weight"]
    assert "frozen" in table["0.weight"].reason
    assert "no attached optimizer" in table["1.weight"].reason
    assert table["3.weight"].role == "output layer"


def test_every_role_has_a_reason_and_the_prunable_ones_are_roles():
    assert set(REASONS) >= PRUNABLE
    assert all(REASONS.values())
