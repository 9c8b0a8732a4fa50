"""Graph isomorphism layers by hand and against PyG's."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from surgecollapse.lab.data.block_model import block_model
from surgecollapse.lab.nets.gcn import propagation
from surgecollapse.lab.nets.gin import GIN, GINLayer


def test_a_layer_is_the_formula_by_hand():
    # A path 0–1–2 with h = (1, 2), (3, 0), (−1, 1) and ε = 0.5:
    # node 0: 1.5·(1, 2) + (3, 0) = (4.5, 3); node 1: 1.5·(3, 0) + (1, 2) + (−1, 1) = (4.5, 3);
    # node 2: 1.5·(−1, 1) + (3, 0) = (1.5, 1.5).
    # Hidden: relu(a − b), relu(b − a) = (1.5, 0), (1.5, 0), (0, 0); output: 2·first + 10·second + 1 = 4, 4, 1.
    layer = GINLayer(2, 2)
    with torch.no_grad():
        layer.epsilon.fill_(0.5)
        layer.inner.weight.copy_(torch.tensor([[1.0, -1], [-1, 1]]))
        layer.inner.bias.zero_()
        layer.outer.weight.copy_(torch.tensor([[2.0, 10], [0, 0]]))
        layer.outer.bias.copy_(torch.tensor([1.0, 0]))
    path = torch.tensor([[0.0, 1, 0], [1, 0, 1], [0, 1, 0]])
    h = torch.tensor([[1.0, 2], [3, 0], [-1, 1]])
    assert layer.gathered(h, path).tolist() == [[4.5, 3.0], [4.5, 3.0], [1.5, 1.5]]
    assert layer(h, path).tolist() == [[4.0, 0.0], [4.0, 0.0], [1.0, 0.0]]


def test_sums_tell_regular_graphs_apart_that_means_do_not():
    # All nodes alike: in a triangle each has two neighbors, in four that are all joined three (Xu et al., section 5).
    layer = GINLayer(1, 8)
    for nodes, expected in ((3, 3.0), (4, 4.0)):
        graph, ones = torch.ones(nodes, nodes) - torch.eye(nodes), torch.ones(nodes, 1)
        assert (propagation(graph) @ ones)[:, 0].tolist() == pytest.approx([1.0] * nodes, rel=1e-6)
        assert layer.gathered(ones, graph)[:, 0].tolist() == [expected] * nodes


def test_the_order_of_nodes_does_not_matter():
    x, adjacency, _ = block_model(20, 2, seed=0, inside=0.4, features=5)
    model, order = GIN(5, 8, 2).eval(), torch.randperm(20, generator=torch.Generator().manual_seed(1))
    # At most 20 values below 100 are added in another order.
    assert torch.allclose(
        model(x, adjacency)[order], model(x[order], adjacency[order][:, order]), atol=20 * 100 * 2**-23
    )


def test_the_network_is_made_of_pygs_layers():
    geometric = pytest.importorskip("torch_geometric.nn")
    x, adjacency, _ = block_model(30, 3, seed=1, inside=0.3, outside=0.1, features=5)
    model, h = GIN(5, 8, 3).eval(), x
    edges = torch.nonzero(adjacency).T
    with torch.no_grad():
        for layer in (model.first, model.second):
            layer.epsilon.fill_(0.3)
            theirs = geometric.GINConv(nn.Sequential(layer.inner, nn.ReLU(), layer.outer), train_eps=True)
            theirs.eps.fill_(0.3)
            # At most 30 products of float32 in each sum, of values below 100.
            assert torch.allclose(theirs(h, edges), layer(h, adjacency), atol=30 * 100 * 2**-23)
            h = torch.relu(theirs(h, edges))
        assert torch.allclose(model(x, adjacency), model.head(h), atol=1e-3)


def test_without_edges_it_is_a_perceptron():
    x, adjacency, _ = block_model(10, 2, seed=0)
    model = GIN(32, 8, 2)
    expected = x
    for layer in (model.first, model.second):
        expected = torch.relu(layer.outer(torch.relu(layer.inner(expected))))
    assert torch.equal(model(x, torch.zeros_like(adjacency)), model.head(expected))
