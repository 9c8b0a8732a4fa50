"""What decoders share: tables of tokens and positions, blocks, a last norm, and an untied head."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class TokenStack(nn.Module):
    """The parts of a decoder, in the order in which they draw their first weights.

    Args:
        vocabulary: number of different tokens, which is also that of the outputs.
        length: tokens in a row.
        positions: rows of the table of positions.
        width: width of the residual stream.
        layers: number of blocks.
        block: makes one.
    """

    causal: Tensor
    """(length, length), true where a position may not look."""

    def __init__(
        self, vocabulary: int, length: int, positions: int, width: int, layers: int, block: Callable[[], nn.Module]
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(positions, width)
        self.blocks = nn.ModuleList(block() for _ in range(layers))
        self.norm: nn.Module = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.register_buffer("causal", torch.ones(length, length, dtype=torch.bool).triu(1), persistent=False)
