"""Rank and dormant units of layers whose activations are known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from surgecollapse.lab.hidden_state import hidden_state


def linear(rows):
    layer = nn.Linear(len(rows[0]), len(rows), bias=False)
    layer.weight.data = torch.tensor(rows)
    return layer


def test_rank_is_that_of_the_last_hidden_layer_and_dormant_units_are_averaged_over_layers():
    # First layer: 4 units, of which one is never above zero. Second: 2 units, both alive.
    first = linear([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [-1.0, -1.0]])
    second = linear([[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]])
    layers = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), linear([[1.0, 1.0]]))
    found = hidden_state(layers, torch.eye(2))  # hidden: the identity, of two equal singular values
    assert found == {"rank": pytest.approx(2.0, abs=5e-4), "dormant": (1 / 4 + 0) / 2}


def test_unequal_singular_values_give_the_exponential_of_their_entropy():
    layers = nn.Sequential(linear([[1.0, 0.0], [0.0, 1.0]]), nn.ReLU(), linear([[1.0, 1.0]]))
    found = hidden_state(layers, torch.tensor([[3.0, 0.0], [0.0, 1.0]]))
    # Roy and Vetterli: shares 3/4 and 1/4.
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert found["rank"] == pytest.approx(math.exp(entropy), abs=1e-3)


def test_units_of_a_convolution_are_its_channels():
    # The second channel sees the sum of what is negative, so that it is never above zero.
    convolution = nn.Conv2d(1, 2, 1, bias=False)
    convolution.weight.data = torch.tensor([1.0, -1.0]).view(2, 1, 1, 1)
    layers = nn.Sequential(convolution, nn.ReLU(), nn.Flatten(), nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 1))
    layers[3].bias.data.fill_(100.0)
    assert hidden_state(layers, torch.rand(5, 1, 2, 2))["dormant"] == (1 / 2 + 0) / 2


def test_silent_layers_have_rank_zero():
    layers = nn.Sequential(linear([[-1.0], [-2.0]]), nn.ReLU(), linear([[1.0, 1.0]]))
    assert hidden_state(layers, torch.ones(3, 1)) == {"rank": 0.0, "dormant": 1.0}
