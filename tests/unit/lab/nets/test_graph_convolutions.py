"""Graph convolutions against PyG's, and the block model against its probabilities."""

from __future__ import annotations

import math

import pytest
import torch

from surgecollapse.lab.data.block_model import block_model, with_fewer_edges
from surgecollapse.lab.nets.gcn import GCN, propagation


def test_propagation_is_that_of_kipf_and_welling_by_hand():
    star = torch.zeros(4, 4)
    star[0, 1:] = star[1:, 0] = 1  # degrees with loops: 4, 2, 2, 2
    found = propagation(star)
    assert found[0].tolist() == pytest.approx([1 / 4, 1 / math.sqrt(8), 1 / math.sqrt(8), 1 / math.sqrt(8)])
    assert found[1].tolist() == pytest.approx([1 / math.sqrt(8), 1 / 2, 0, 0])
    # D^½·1 is an eigenvector with the value 1, which is the largest.
    assert float(torch.linalg.eigvalsh(found.double()).max()) == pytest.approx(1.0, abs=1e-6)


def test_a_matrix_that_is_not_symmetric_is_refused():
    with pytest.raises(ValueError, match="symmetric"):
        propagation(torch.tensor([[0.0, 1], [0, 0]]))


def test_the_network_is_made_of_pygs_convolutions():
    geometric = pytest.importorskip("torch_geometric.nn")
    x, adjacency, _ = block_model(30, 3, seed=1, inside=0.3, outside=0.1, features=5)
    model = GCN(5, 8, 3).eval()
    edges = torch.nonzero(adjacency).T
    for layer in (model.first, model.second):
        theirs = geometric.GCNConv(layer.in_features, 8)
        with torch.no_grad():
            theirs.lin.weight.copy_(layer.weight)
            theirs.bias.copy_(layer.bias)
            # At most 30 products of float32 in each sum, of values below 10.
            assert torch.allclose(theirs(x, edges), layer(propagation(adjacency) @ x), atol=30 * 10 * 2**-23)
            x = torch.relu(theirs(x, edges))
    with torch.no_grad():
        start = block_model(30, 3, seed=1, inside=0.3, outside=0.1, features=5)[0]
        assert torch.allclose(model(start, propagation(adjacency)), model.head(x), atol=1e-4)


def test_without_edges_it_is_a_perceptron():
    x, adjacency, _ = block_model(10, 2, seed=0)
    model = GCN(32, 8, 2)
    alone = propagation(torch.zeros_like(adjacency))
    assert torch.equal(alone, torch.eye(10))
    expected = model.head(torch.relu(model.second(torch.relu(model.first(x)))))
    assert torch.allclose(model(x, alone), expected, atol=1e-6)


def test_edges_and_features_have_their_probabilities():
    x, adjacency, y = block_model(600, 3, seed=0, inside=0.2, outside=0.05, features=16, signal=3.0)
    assert torch.equal(adjacency, adjacency.T)
    assert not bool(adjacency.diagonal().any())
    same = (y[:, None] == y) & ~torch.eye(600, dtype=torch.bool)
    for pairs, likely in ((same, 0.2), (y[:, None] != y, 0.05)):
        count = int(pairs.sum()) // 2
        error = 6 * math.sqrt(likely * (1 - likely) / count)
        assert float(adjacency[pairs].mean()) == pytest.approx(likely, abs=error)
    for label in range(3):
        mean = x[y == label].mean(0)
        # |mean|² is 9 plus the noise of 16 coordinates with variance 1/200.
        assert float(mean.norm()) == pytest.approx(3.0, abs=6 / math.sqrt(200) + 16 / 200 / 6)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_fewer_edges_are_a_part_of_the_edges(share):
    _, adjacency, _ = block_model(100, 4, seed=0, inside=0.3, outside=0.1)
    kept = with_fewer_edges(adjacency, share, seed=5)
    assert int(kept.sum()) // 2 == round(share * int(adjacency.sum()) / 2)
    assert not bool((kept > adjacency).any())
    assert torch.equal(kept, kept.T)
    assert torch.equal(kept, with_fewer_edges(adjacency, share, seed=5))
