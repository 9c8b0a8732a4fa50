"""The one-layer transformer of the grokking studies."""

from __future__ import annotations

from torch import Tensor, nn

from surgecollapse.lab.nets.layers import activation_of, check_heads, dropout_of


class OneLayerTransformer(nn.Module):
    """One causal block without LayerNorm: h = e + attention(e), h + MLP(h), linear head on the last position.

    The architecture of Nanda et al. (2301.05217): width 128, 4 heads, MLP 512, ReLU, learned positions,
    untied head without bias. Deviation: attention has no biases, and the tables start at N(0,
    1/width). Only the last position is computed, as no other enters the loss: it sees them all.

    Args:
        vocabulary: number of different tokens.
        length: tokens in a sample.
        classes: outputs.
        width: width of the residual stream, a multiple of ``heads``.
        hidden: width of the MLP.
        heads: attention heads.
        activation: ``relu`` or ``gelu``.
        dropout: rate after the MLP's activation.

    >>> import torch
    >>> OneLayerTransformer(7, 4, 5, width=8, hidden=16)(torch.zeros(2, 4, dtype=torch.int64)).shape
    torch.Size([2, 5])
    """

    def __init__(
        self,
        vocabulary: int,
        length: int,
        classes: int,
        *,
        width: int = 128,
        hidden: int = 512,
        heads: int = 4,
        activation: str = "relu",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_heads("transformer", width, heads)
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(length, width)
        self.attention = nn.MultiheadAttention(width, heads, bias=False, batch_first=True)
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden), activation_of(activation), *dropout_of(dropout), nn.Linear(hidden, width)
        )
        self.head = nn.Linear(width, classes, bias=False)
        for table in (self.tokens, self.positions):
            nn.init.normal_(table.weight, std=width**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, classes) that follow token rows (n, length)."""
        embedded = self.tokens(x) + self.positions.weight[: x.shape[1]]
        last = embedded[:, -1:]
        attended, _ = self.attention(last, embedded, embedded, need_weights=False)
        stream = (last + attended)[:, 0]
        return self.head(stream + self.mlp(stream))  # type: ignore[no-any-return]
