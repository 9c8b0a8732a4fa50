"""Residual nets of images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

LAYERS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
"""Blocks of the four stages by depth (He et al. 2015, arXiv 1512.03385, table 1)."""
_WIDE = 4
"""Channels that a bottleneck puts out over those inside."""


class ResNet(nn.Module):
    """A 7×7 convolution and pooling, four stages of residual blocks, the mean over all places, and a linear head.

    He et al. 2015 (arXiv 1512.03385). Blocks are two 3×3 convolutions up to depth 34, then bottlenecks, with the stride
    in the 3×3 convolution ("v1.5"). Convolutions start as of He et al. (fan out), and the last norm of each branch at 0
    (Goyal et al. 2017, arXiv 1706.02677).

    Args:
        channels: of the images.
        classes: outputs.
        depth: 18, 34, 50, 101 or 152.
        width: channels of the first stage.

    >>> net = ResNet(3, 1000)
    >>> sum(p.numel() for p in net.parameters())
    25557032
    """

    def __init__(self, channels: int, classes: int, depth: int = 50, width: int = 64) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(channels, width, 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        bottleneck, inputs = depth >= 50, width
        stages: list[nn.Module] = []
        for stage, blocks in enumerate(LAYERS[depth]):
            inside = width * 2**stage
            for block in range(blocks):
                stride = 2 if stage and not block else 1
                made = Block(inputs, inside, stride, bottleneck=bottleneck)
                stages.append(made)
                inputs = made.outputs
        self.blocks = nn.Sequential(*stages)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(inputs, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if isinstance(module, Block):
                nn.init.zeros_(module.branch[-1].weight)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, classes) of images (n, channels, h, w)."""
        return self.head(self.pool(self.blocks(self.stem(x))))  # type: ignore[no-any-return]


class Block(nn.Module):
    """ReLU of the input, or of its projection, plus a branch of convolutions."""

    def __init__(self, inputs: int, inside: int, stride: int, *, bottleneck: bool) -> None:
        super().__init__()
        self.outputs = inside * (_WIDE if bottleneck else 1)
        sizes: Sequence[tuple[int, int, int, int]] = ((inputs, inside, 3, stride), (inside, inside, 3, 1))
        if bottleneck:
            sizes = ((inputs, inside, 1, 1), (inside, inside, 3, stride), (inside, self.outputs, 1, 1))
        layers: list[nn.Module] = []
        for first, out, kernel, step in sizes:
            layers += [
                nn.Conv2d(first, out, kernel, stride=step, padding=kernel // 2, bias=False),
                nn.BatchNorm2d(out),
                nn.ReLU(inplace=True),
            ]
        self.branch = nn.Sequential(*layers[:-1])
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != self.outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, self.outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(self.outputs)
            )
        self.activation = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) to (n, outputs, h/stride, w/stride)."""
        return self.activation(torch.add(self.branch(x), self.shortcut(x)))  # type: ignore[no-any-return]
