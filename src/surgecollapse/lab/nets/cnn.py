"""Convolutions of images and of series."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch import Tensor, nn

from surgecollapse.errors import ConfigError
from surgecollapse.lab.nets.layers import activation_of, dropout_of

if TYPE_CHECKING:
    from collections.abc import Sequence


class SmallCNN(nn.Module):
    """3×3 convolutions, each with an activation and 2×2 pooling; a linear head reads all places.

    Args:
        shape: channels, height and width of an image; both sides at least 2 to the number of layers.
        channels: output channels of each convolution.
        classes: outputs.
        activation: ``relu`` or ``gelu``.
        dropout: rate before the head.

    >>> import torch
    >>> SmallCNN((1, 8, 8), (4, 8), 10)(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        channels: Sequence[int],
        classes: int,
        activation: str = "relu",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if min(shape[1:]) < 2 ** len(channels):
            raise ConfigError(f"{len(channels)} layers of the cnn need sides ≥ {2 ** len(channels)}, got {shape[1:]}")
        layers: list[nn.Module] = []
        width = shape[0]
        for out in channels:
            layers += [nn.Conv2d(width, out, 3, padding=1), activation_of(activation), nn.MaxPool2d(2)]
            width = out
        side = math.prod(length // 2 ** len(channels) for length in shape[1:])
        self.body = nn.Sequential(*layers, nn.Flatten(), *dropout_of(dropout))
        self.head = nn.Linear(width * side, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, classes) of images (n, channels, h, w)."""
        return self.head(self.body(x))  # type: ignore[no-any-return]


class SeriesCNN(nn.Module):
    """Convolutions of length 5, then 3, all with stride 2, each with an activation; a linear head reads all places.

    The frame of the convolutional net that came with MNIST-1D (Greydanus and Kobak, arXiv 2011.14439), whose three
    layers have 25 channels.

    Args:
        shape: channels and length of a series; the length at least 4 times 2 to the number of layers.
        channels: output channels of each convolution.
        classes: outputs.
        activation: ``relu`` or ``gelu``.
        dropout: rate after each activation.

    >>> import torch
    >>> SeriesCNN((1, 40), (25, 25, 25), 10)(torch.zeros(2, 1, 40)).shape
    torch.Size([2, 10])
    """

    def __init__(
        self,
        shape: tuple[int, int],
        channels: Sequence[int],
        classes: int,
        activation: str = "relu",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        width, length = shape
        if length < 4 * 2 ** len(channels):
            raise ConfigError(
                f"{len(channels)} layers of the cnn need a length ≥ {4 * 2 ** len(channels)}, got {length}"
            )
        layers: list[nn.Module] = []
        for i, out in enumerate(channels):
            kernel = 3 if i else 5
            layers += [
                nn.Conv1d(width, out, kernel, stride=2, padding=1),
                activation_of(activation),
                *dropout_of(dropout),
            ]
            width, length = out, (length + 2 - kernel) // 2 + 1
        self.body = nn.Sequential(*layers, nn.Flatten())
        self.head = nn.Linear(width * length, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, classes) of series (n, channels, length)."""
        return self.head(self.body(x))  # type: ignore[no-any-return]
