"""The samples and the nets of the banks."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
import torch.nn.functional as F
from grokking_bank.members import problem as symbolic
from torch import Tensor, nn

Net = Literal["mlp", "cnn", "transformer"]
TASKS: dict[str, tuple[Net, ...]] = {
    "digits": ("mlp", "cnn"),
    "mnist": ("mlp", "cnn"),
    "mnist1d": ("mlp", "cnn"),
    "sensors": ("mlp", "cnn"),
    "prototypes": ("mlp",),
    "add-23": ("mlp", "transformer"),
    "s4": ("mlp", "transformer"),
    "parity": ("mlp", "transformer"),
}
"""Tasks, and the nets that learn each."""


@dataclass(frozen=True)
class Problem:
    """Samples of one task as one net takes them."""

    x: Tensor
    y: Tensor
    classes: int


@cache
def problem(task: str, net: Net) -> Problem:
    """At most 2,000 samples of a task; vectors for an MLP, images or series for a CNN, tokens for a transformer.

    >>> problem("add-23", "transformer").x.shape, problem("sensors", "cnn").x.shape
    (torch.Size([529, 3]), torch.Size([2000, 8, 32]))
    """
    if task in ("add-23", "s4", "parity"):
        return _symbolic("parity-15" if task == "parity" else task, net)
    x, y, classes = _sampled(task)
    return Problem(x.flatten(1) if net == "mlp" else x, y, classes)


def _symbolic(name: str, net: Net) -> Problem:
    found = symbolic(name)
    x = found.inputs
    if net == "transformer":
        if name.startswith("parity"):
            x = F.pad((x > 0).long(), (0, 1), value=2)
        else:
            half = x.shape[1] // 2
            x = torch.stack([x[:, :half].argmax(1), x[:, half:].argmax(1), torch.full((len(x),), half)], 1)
    return Problem(x, found.labels, found.classes)


def _sampled(task: str) -> tuple[Tensor, Tensor, int]:
    from surgecollapse.lab.data.images import digits, mnist5k
    from surgecollapse.lab.data.mnist1d import mnist1d
    from surgecollapse.lab.data.sensors import CLASSES, sensor_series
    from surgecollapse.lab.data.synthetic import dummy

    if task == "sensors":
        return *sensor_series(2_000, seed=0), CLASSES
    if task == "prototypes":
        data = dummy(0.5, 3_400, seed=0)
    elif task == "digits":
        data = digits(0)
    elif task == "mnist":
        data = mnist5k(0)
    elif task == "mnist1d":
        data = mnist1d()
    else:
        raise ValueError(f"unknown task {task!r}: expected one of {', '.join(TASKS)}")
    x = F.avg_pool2d(data.x_train, 2) if task == "mnist" else data.x_train
    return x[:2_000], data.y_train[:2_000], data.num_classes


def build(
    task: str,
    net: Net,
    *,
    seed: int,
    scale: float = 1.0,
    bias: float = 0.0,
    activation: str = "relu",
    width: int = 64,
) -> nn.Module:
    """A net for a task: two hidden layers, two or three convolutions, or one block of a transformer.

    Args:
        task: a key of :data:`TASKS`.
        net: one of its nets.
        seed: of the initial weights.
        scale: factor of all initial weights but biases.
        bias: added to all initial biases in front of activations.
        activation: ``relu`` or ``gelu``.
        width: of an MLP; a CNN has an eighth and a quarter, a transformer a half.
    """
    from surgecollapse.lab.nets.cnn import SeriesCNN, SmallCNN
    from surgecollapse.lab.nets.mlp import MLP
    from surgecollapse.lab.nets.transformer import OneLayerTransformer

    data = problem(task, net)
    shape = tuple(data.x.shape[1:])
    channels = (width // 8, width // 4)
    made: nn.Module
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if net == "mlp":
            made = MLP(shape[0], (width, width), data.classes, activation)
        elif net == "cnn" and len(shape) == 3:
            made = SmallCNN(shape, channels, data.classes, activation)
        elif net == "cnn":
            made = SeriesCNN(shape, channels, data.classes, activation)
        else:
            made = OneLayerTransformer(
                int(data.x.max()) + 1, shape[0], data.classes, width=width // 2, hidden=2 * width, activation=activation
            )
    parts = list(made.modules())
    with torch.no_grad():
        for weight in made.parameters():
            if weight.ndim > 1:
                weight.mul_(scale)
        for layer in feeding(parts):
            layer.bias.add_(bias)
    return made


def feeding(parts: list[nn.Module]) -> list[nn.Linear | nn.Conv1d | nn.Conv2d]:
    """Layers whose output goes straight into an activation."""
    return [
        layer
        for layer, after in itertools.pairwise(parts)
        if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d) and isinstance(after, nn.ReLU | nn.GELU)
    ]
