"""The Grokfast paper's decoder: its size, its unusual residual, and three ways of computing the same."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from surgecollapse.lab.config import ConfigError, make_config
from surgecollapse.lab.nets.decoder import ECONOMIES, Decoder, prefix_tree
from surgecollapse.lab.training.building import build_model
from surgecollapse.lab.training.loading import load_data


def decoder(economy="all", *, vocabulary=13, length=4, seed=0, dtype=torch.float64, **options):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Decoder(vocabulary, length, width=16, hidden=24, economy=economy, **options).to(dtype)


def questions(rows=40, vocabulary=13, length=4, seed=0):
    return torch.randint(0, vocabulary, (rows, length), generator=torch.Generator().manual_seed(seed))


def published(net, x):
    """The published forward pass, step by step, without modules of ours."""
    stream = net.tokens(x) + net.positions(torch.arange(x.shape[1]))
    mask = torch.full((x.shape[1],) * 2, float("-inf"), dtype=stream.dtype).triu(1)
    for block in net.blocks:
        stream = block.norm_1(stream)
        q, k, v = F.linear(stream, block.attention.in_proj_weight, block.attention.in_proj_bias).chunk(3, -1)
        heads = [part.unflatten(-1, (4, -1)).transpose(1, 2) for part in (q, k, v)]
        scores = heads[0] @ heads[1].transpose(-1, -2) / heads[0].shape[-1] ** 0.5 + mask
        mixed = (scores.softmax(-1) @ heads[2]).transpose(1, 2).flatten(2)
        stream = stream + block.attention.out_proj(mixed)
        first, _, second = block.mlp
        stream = stream + second(F.gelu(first(block.norm_2(stream))))
    return net.head(net.norm(stream))[:, -1]


def test_the_papers_decoder_has_its_number_of_parameters():
    config = make_config(task="grokfast-modular")
    data = load_data(config)
    net = build_model(config, data)
    assert sum(p.numel() for p in net.parameters()) == 422_784  # the paper's 423k
    assert len(data.x_train) == 4_656
    assert len(data.x_train) + len(data.x_validation) + len(data.x_test) == 9_312
    assert net.head.bias is None
    assert not torch.equal(net.head.weight, net.tokens.weight)


@pytest.mark.parametrize("economy", ECONOMIES)
def test_every_economy_is_the_published_computation(economy):
    net, x = decoder(economy), questions()
    assert torch.allclose(net(x), published(net, x), atol=1e-12)


@pytest.mark.parametrize("economy", ["last", "prefixes"])
@pytest.mark.parametrize(("rows", "length"), [(40, 4), (1, 4), (30, 1), (7, 2)])
def test_gradients_are_those_of_the_whole_computation(economy, rows, length):
    x, labels = questions(rows, length=length), questions(rows, length=1)[:, 0]
    gradients = []
    for kind in ("all", economy):
        net = decoder(kind, length=length)
        F.cross_entropy(net(x), labels).backward()
        gradients.append([p.grad for p in net.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(gradients[1])
    assert all(torch.allclose(one, two, atol=1e-12) for one, two in zip(*gradients, strict=True))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 2e-3)])
@pytest.mark.parametrize("economy", ["last", "prefixes"])
def test_loss_curves_are_those_of_the_whole_computation(economy, dtype, tolerance):
    curves = []
    for kind in ("all", economy):
        net = decoder(kind, dtype=dtype)
        optimizer = torch.optim.Adam(net.parameters(), lr=3e-3, betas=(0.9, 0.98))
        losses = []
        for step in range(40):
            optimizer.zero_grad()
            x = questions(64, seed=step % 2)
            loss = F.cross_entropy(net(x), (x[:, 0] + x[:, 2]) % 13)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        curves.append(losses)
    assert curves[0][-1] < 0.9 * curves[0][0]
    assert curves[0] == pytest.approx(curves[1], rel=tolerance)


def test_a_prefix_is_computed_once():
    net, rows = decoder("prefixes"), []
    net.blocks[0].mlp[0].register_forward_hook(lambda module, args, output: rows.append(len(output)))
    x = torch.cartesian_prod(torch.arange(11), torch.tensor([11]), torch.arange(11), torch.tensor([12]))
    net(x)
    assert rows == [11 + 11 + 121 + 121]
    attended = []
    net.blocks[1].attention.register_forward_hook(lambda module, args, output: attended.append(len(output[0])))
    net(x)
    assert attended == [121], "readings see the attention module, at the last position"


def test_a_tree_names_every_prefix_and_its_ancestors():
    x = questions(200, vocabulary=3)
    tree = prefix_tree(x, 3)
    for depth, ancestors in enumerate(tree.ancestors):
        spelled = tree.token[ancestors]
        assert len(spelled) == len({tuple(row) for row in x[:, : depth + 1].tolist()})
        assert torch.equal(tree.depth[ancestors], torch.arange(depth + 1).expand_as(ancestors))
    assert torch.equal(tree.token[tree.ancestors[-1]][tree.leaf], x)


def test_dropout_is_computed_for_each_sample():
    with pytest.raises(ConfigError, match="takes no dropout: use 'last'"):
        decoder("prefixes", dropout=0.1)
    config = make_config(task="grokfast-modular", modulus=11, dropout=0.1)
    net = build_model(config, load_data(config))
    assert net.economy == "last"
    assert sum(isinstance(part, nn.Dropout) for part in net.modules()) == 2


def test_shapes_and_economies_that_are_impossible_are_refused():
    with pytest.raises(ConfigError, match="multiple of its 4 heads, got 18"):
        Decoder(9, 4, width=18)
    with pytest.raises(ConfigError, match="unknown economy 'none': expected one of all, last, prefixes"):
        Decoder(9, 4, economy="none")


def test_a_spherical_decoder_is_its_definition_by_hand():
    net, x = decoder("all", temperature=5.0), questions()
    stream = F.normalize(net.tokens(x) + net.positions(torch.arange(x.shape[1])), dim=-1)
    mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
    for block in net.blocks:
        attended, _ = block.attention(stream, stream, stream, attn_mask=mask, need_weights=False)
        stream = F.normalize(stream + attended, dim=-1)
        stream = F.normalize(stream + block.mlp(stream), dim=-1)
    cosines = stream[:, -1] @ (net.head.weight / net.head.weight.norm(dim=1, keepdim=True)).T
    assert torch.allclose(net(x), 5.0 * cosines, atol=1e-12)
    assert net(x).abs().max() <= 5.0
    assert not any(isinstance(module, nn.LayerNorm) for module in net.modules())


@pytest.mark.parametrize("economy", ["last", "prefixes"])
def test_every_economy_of_a_spherical_decoder_gives_the_same_logits(economy):
    x = questions()
    assert torch.allclose(decoder(economy, temperature=5.0)(x), decoder("all", temperature=5.0)(x), atol=1e-12)


def test_scales_of_the_head_and_of_the_tables_do_not_matter_on_the_sphere():
    net, x = decoder("all", temperature=5.0), questions()
    before = net(x)
    with torch.no_grad():
        for weight in (net.head.weight, net.tokens.weight, net.positions.weight):
            weight.mul_(3.0)
    assert torch.allclose(net(x), before, atol=1e-12)
