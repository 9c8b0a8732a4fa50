"""Compaction of random nets: whatever is cut, the outputs stay, and nothing is left for a second time."""

import random

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from surgecollapse.export.compact import compact_model

KINDS = ("conv", "conv", "point", "norm", "relu", "inplace", "gelu", "slope", "depth", "pool")
KINDS += ("+", "-", "*", "cat", "gate", "scale")


class RandomNet(nn.Module):
    """A random graph of operations on images, with random dead rows, columns, scales and shifts."""

    def __init__(self, seed):
        super().__init__()
        self.draw = random.Random(seed)
        torch.manual_seed(seed)
        self.parts, self.steps, channels = nn.ModuleList(), [], [3]
        for _ in range(self.draw.randint(3, 9)):
            channels.append(self.add_step(channels))
        self.flat = self.draw.random() < 0.5
        self.hidden = nn.Linear(channels[-1] * (25 if self.flat else 1), 6)
        self.head = nn.Linear(6, 2)
        self.thin(self.draw.choice([0.3, 0.6, 0.8]))

    def add_step(self, channels):
        """Choose an operation and what it reads; return its number of channels."""
        source = self.draw.randrange(max(0, len(channels) - 3), len(channels))
        width = channels[source]
        kind = self.draw.choice(KINDS)
        partners = [i for i in range(1, len(channels)) if channels[i] == width and i != source]
        if kind in "+-*" and not partners:
            kind = "conv"
        if kind in ("+", "-", "*", "cat"):
            other = self.draw.randrange(len(channels)) if kind == "cat" else self.draw.choice(partners)
            self.steps.append((kind, source, other))
            return width + channels[other] if kind == "cat" else width
        if kind in ("gate", "scale"):
            self.steps.append((kind, source, None))
            return width
        new = self.draw.choice([3, 4, 4, 5])
        mode = self.draw.choice(["zeros", "zeros", "circular"])
        self.parts.append(
            {
                "conv": lambda: nn.Conv2d(width, new, 3, padding=1, bias=self.draw.random() < 0.5, padding_mode=mode),
                "point": lambda: nn.Conv2d(width, new, 1),
                "norm": lambda: nn.BatchNorm2d(width, affine=self.draw.random() < 0.8),
                "relu": nn.ReLU,
                "inplace": lambda: nn.ReLU(inplace=True),
                "gelu": nn.GELU,
                "slope": lambda: nn.PReLU(self.draw.choice([1, width])),
                "depth": lambda: nn.Conv2d(width, width, 3, padding=1, groups=width),
                "pool": lambda: self.draw.choice([nn.MaxPool2d(3, 1, 1), nn.AvgPool2d(3, 1, 1)]),
            }[kind]()
        )
        self.steps.append(("part", source, len(self.parts) - 1))
        return new if kind in ("conv", "point") else width

    @torch.no_grad()
    def thin(self, share):
        """Zero single weights, rows, columns and vectors."""
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
            for parameter in module.parameters(recurse=False):
                if parameter.ndim == 1:
                    parameter.normal_().mul_(torch.rand(len(parameter)) < self.draw.choice([0.5, 1]))
                    continue
                parameter.mul_(torch.rand(parameter.shape[:2] + (1,) * (parameter.ndim - 2)) > share)
                if self.draw.random() < 0.5:
                    parameter[torch.rand(len(parameter)) < share] = 0
                if self.draw.random() < 0.5:
                    parameter[:, torch.rand(parameter.shape[1]) < share] = 0

    def forward(self, x):
        values = [x]
        for kind, source, other in self.steps:
            a = values[source]
            if kind == "part":
                values.append(self.parts[other](a))
            elif kind == "cat":
                values.append(torch.cat([a, values[other]], 1))
            elif kind == "gate":
                values.append(a * torch.sigmoid(a.mean((2, 3), keepdim=True)))
            elif kind == "scale":
                values.append(1 - a / 2)
            else:
                b = values[other]
                values.append(a + b if kind == "+" else a - b if kind == "-" else a * b)
        last = values[-1]
        return self.head(F.gelu(self.hidden(last.flatten(1) if self.flat else last.mean((2, 3)))))


@pytest.mark.parametrize("group", range(3))
def test_random_nets_compute_the_same_with_fewer_units_and_a_second_pass_finds_none(group):
    cut = 0
    for seed in range(10 * group, 10 * group + 10):
        net = RandomNet(seed).double().eval()
        result = compact_model(net, torch.randn(2, 3, 5, 5, dtype=torch.float64))
        x = torch.randn(4, 3, 5, 5, dtype=torch.float64)
        with torch.no_grad():
            expected, given = net(x.clone()), result.model(x.clone())
        assert (expected - given).abs().max() <= 1e-12 * max(1.0, float(expected.abs().max())), seed
        assert compact_model(result.model, x.clone()).units_cut == 0, seed
        cut += result.units_cut
    assert cut > 30
