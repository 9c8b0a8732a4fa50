"""A decoder-only transformer that predicts every next token."""

from __future__ import annotations

import math
from functools import partial

from torch import Tensor, nn

from surgecollapse.lab.nets.layers import activation_of, check_heads
from surgecollapse.lab.nets.token_stack import TokenStack


class GPT(TokenStack):
    """Pre-LayerNorm blocks x ← x + attention(LN₁(x)), x ← x + MLP(LN₂(x)), a last LayerNorm, and an untied linear head.

    The architecture of GPT-2 (Radford et al. 2019, "Language models are unsupervised multitask learners") with learned
    positions. Weights start at N(0, 1/width), those of the two layers that end a branch divided by √(2·layers); biases
    at 0. Deviations: GPT-2 has standard deviation 0.02 whatever the width, a head tied to the embedding, and dropout on
    the attention weights too.

    Args:
        vocabulary: number of different tokens, which is also that of the outputs.
        length: tokens in a row, which all rows have.
        width: width of the residual stream, a multiple of ``heads``.
        hidden: width of the MLP.
        layers: number of blocks.
        heads: attention heads.
        activation: ``relu`` or ``gelu``.
        dropout: rate on the embeddings and at the end of each branch.

    Raises:
        ConfigError: if the width is not a multiple of the heads.

    >>> import torch
    >>> gpt = GPT(66, 64)
    >>> gpt(torch.zeros(2, 64, dtype=torch.int64)).shape, sum(p.numel() for p in gpt.parameters())
    (torch.Size([2, 64, 66]), 1016704)
    """

    def __init__(
        self,
        vocabulary: int,
        length: int,
        *,
        width: int = 128,
        hidden: int = 512,
        layers: int = 5,
        heads: int = 4,
        activation: str = "gelu",
        dropout: float = 0.0,
    ) -> None:
        check_heads("gpt", width, heads)
        block = partial(GPTBlock, width, hidden, heads, activation, dropout)
        super().__init__(vocabulary, length, length, width, layers, block)
        self.drop = nn.Dropout(dropout)
        self._initialize(width, layers)

    def _initialize(self, width: int, layers: int) -> None:
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                branch_end = name.endswith(("out_proj.weight", "mlp.2.weight"))
                nn.init.normal_(parameter, std=1 / math.sqrt(width * (2 * layers if branch_end else 1)))
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, length, vocabulary) of the token after each of the token rows (n, length)."""
        stream = self.drop(self.tokens(x) + self.positions.weight)
        for block in self.blocks:
            stream = block(stream, self.causal)
        return self.head(self.norm(stream))  # type: ignore[no-any-return]


class GPTBlock(nn.Module):
    """One layer of :class:`GPT`."""

    def __init__(self, width: int, hidden: int, heads: int, activation: str, dropout: float) -> None:
        super().__init__()
        self.norm_1 = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm_2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), activation_of(activation), nn.Linear(hidden, width))
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, causal: Tensor) -> Tensor:
        """(n, length, width) to the same; ``causal`` (length, length) is true where a position may not look."""
        normed = self.norm_1(x)
        attended, _ = self.attention(normed, normed, normed, attn_mask=causal, is_causal=True, need_weights=False)
        x = x + self.drop(attended)
        return x + self.drop(self.mlp(self.norm_2(x)))  # type: ignore[no-any-return]
