"""The decoder of the Grokfast paper's modular arithmetic, and how to compute no more of it than its loss needs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from surgecollapse.errors import ConfigError
from surgecollapse.lab.nets.layers import activation_of, check_heads, dropout_of
from surgecollapse.lab.nets.token_stack import TokenStack

ECONOMIES = ("all", "last", "prefixes")


class Decoder(TokenStack):
    """A causal decoder that goes on from the *normalized* value: n = LN₁(x), x ← n + attention(n), x ← x + MLP(LN₂(x)).

    The published code of Grokfast has it so (arXiv 2405.20233, modular arithmetic). It has two layers of width 128,
    four heads, GELU, MLP four times as wide, learned positions. A final LayerNorm and an untied head without bias over
    all tokens follow. There is one position more than there are tokens in a question: 422,784 parameters for 99 tokens.

    Only the last position's logits enter the loss, and ``economy`` says what else is computed:

    * ``all``: every position of every layer, as published.
    * ``last``: the last layer's queries, MLP and head at the last position alone.
    * ``prefixes``: also, what is computed at a position depends on the tokens up to it alone. So each prefix that
      occurs in a batch is computed once. Of ``x op y =`` the first two positions have at most p different ones.

    All three give the same logits and gradients but for float rounding.

    Args:
        vocabulary: number of different tokens, which is also that of the outputs.
        length: tokens in a question.
        width: width of the residual stream, a multiple of ``heads``.
        hidden: width of the MLP.
        layers: number of blocks.
        heads: attention heads.
        activation: ``relu`` or ``gelu``.
        dropout: rate after the MLP's activation; not with ``prefixes``, where samples share what is computed.
        economy: ``all``, ``last`` or ``prefixes``.
        temperature: where given, the stream stays on the unit sphere. Every LayerNorm gives way to x/‖x‖, also after
            the last residual sum. The logits are this temperature times the cosines of stream and rows of the head
            (Yildirim 2026, arXiv 2603.05228). There the net has one layer and other residual sums.

    Raises:
        ConfigError: for shapes that do not fit, or an unknown economy.

    >>> decoder = Decoder(99, 4)
    >>> decoder(torch.zeros(2, 4, dtype=torch.int64)).shape, sum(p.numel() for p in decoder.parameters())
    (torch.Size([2, 99]), 422784)
    """

    def __init__(
        self,
        vocabulary: int,
        length: int,
        *,
        width: int = 128,
        hidden: int = 512,
        layers: int = 2,
        heads: int = 4,
        activation: str = "gelu",
        dropout: float = 0.0,
        economy: str = "prefixes",
        temperature: float | None = None,
    ) -> None:
        check_heads("decoder", width, heads)
        if economy not in ECONOMIES:
            raise ConfigError(f"unknown economy {economy!r}: expected one of {', '.join(ECONOMIES)}")
        if economy == "prefixes" and dropout:
            raise ConfigError("economy 'prefixes' computes what samples share once, so it takes no dropout: use 'last'")
        block = partial(Block, width, hidden, heads, activation, dropout, spherical=temperature is not None)
        super().__init__(vocabulary, length, length + 1, width, layers, block)
        self.economy, self.temperature = economy, temperature
        if temperature is not None:
            self.norm = UnitNorm()

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, vocabulary) of what follows the token rows (n, length)."""
        if self.economy == "prefixes":
            return self._by_prefixes(x)
        stream = self.tokens(x) + self.positions.weight[: x.shape[1]]
        *first, final = self._layers()
        for block in first:
            stream = block(stream, self.causal)
        if self.economy == "last":
            return self._read(final.at_last(stream))
        return self._read(final(stream, self.causal)[:, -1])

    def _layers(self) -> list[Block]:
        return [block for block in self.blocks if isinstance(block, Block)]

    def _read(self, stream: Tensor) -> Tensor:
        if self.temperature is None:
            return self.head(self.norm(stream))  # type: ignore[no-any-return]
        return self.temperature * F.linear(self.norm(stream), F.normalize(self.head.weight, dim=-1))

    def _by_prefixes(self, x: Tensor) -> Tensor:
        tree = prefix_tree(x, self.tokens.num_embeddings)
        stream = F.embedding(tree.token, self.tokens.weight) + F.embedding(tree.depth, self.positions.weight)
        *first, final = self._layers()
        for block in first:
            stream = block.over_tree(stream, tree, 0)
        leaves = final.over_tree(stream, tree, len(tree.ancestors) - 1)
        return F.embedding(tree.leaf, self._read(leaves))


class Block(nn.Module):
    """One layer of :class:`Decoder`."""

    def __init__(
        self, width: int, hidden: int, heads: int, activation: str, dropout: float, *, spherical: bool = False
    ) -> None:
        super().__init__()
        self.norm_1: nn.Module = UnitNorm() if spherical else nn.LayerNorm(width)
        self.norm_2: nn.Module = UnitNorm() if spherical else nn.LayerNorm(width)
        self.attention = TreeAttention(width, heads, batch_first=True)
        between = [activation_of(activation), *dropout_of(dropout)]
        self.mlp = nn.Sequential(nn.Linear(width, hidden), *between, nn.Linear(hidden, width))

    def forward(self, x: Tensor, causal: Tensor) -> Tensor:
        """Every position: (n, length, width) to the same."""
        x = self.norm_1(x)
        attended, _ = self.attention(x, x, x, attn_mask=causal, need_weights=False)
        return self._widen(x + attended)

    def at_last(self, x: Tensor) -> Tensor:
        """The last position alone, which sees them all: (n, length, width) to (n, width)."""
        x = self.norm_1(x)
        last = x[:, -1:]
        attended, _ = self.attention(last, x, x, need_weights=False)
        return self._widen((last + attended)[:, 0])

    def over_tree(self, x: Tensor, tree: PrefixTree, first: int) -> Tensor:
        """Every prefix of depth ``first`` and deeper, each attending to itself and those before it.

        Args:
            x: (prefixes, width), all depths.
            tree: which prefix goes on with which.
            first: depth from which on results are wanted.

        Returns:
            (prefixes from that depth on, width).
        """
        x = self.norm_1(x)
        attended, _ = self.attention(x, tree=tree, first=first)
        return self._widen(x[tree.starts[first] :] + attended)

    def _widen(self, x: Tensor) -> Tensor:
        if isinstance(self.norm_2, UnitNorm):  # then what the residual sum goes on from is on the sphere, too
            x = self.norm_2(x)
            return x + self.mlp(x)  # type: ignore[no-any-return]
        return x + self.mlp(self.norm_2(x))  # type: ignore[no-any-return]


class UnitNorm(nn.Module):
    """x/‖x‖₂ along the last axis, without parameters.

    >>> UnitNorm()(torch.tensor([3.0, 4.0])).tolist()
    [0.60..., 0.80...]
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return vectors of length 1; zero for zero."""
        return F.normalize(x, dim=-1)


class TreeAttention(nn.MultiheadAttention):
    """Multi-head attention that can also be asked for the prefixes of a tree; a module, so that hooks see it."""

    def forward(self, *args: Any, tree: PrefixTree | None = None, first: int = 0, **options: Any) -> Any:
        """As the parent, or with ``tree``: (prefixes, width) to those of depth ``first`` and deeper, and ``None``."""
        if tree is None:
            return super().forward(*args, **options)
        return self._over_tree(args[0], tree, first), None

    def _over_tree(self, x: Tensor, tree: PrefixTree, first: int) -> Tensor:
        width, heads = self.embed_dim, self.num_heads
        weight, bias = self.in_proj_weight, self.in_proj_bias
        begin = tree.starts[first]
        queries = F.linear(x[begin:], weight[:width], bias[:width])
        both = F.linear(x, weight[width:], bias[width:])
        attended = []
        for depth in range(first, len(tree.ancestors)):
            start, stop = tree.starts[depth] - begin, tree.starts[depth + 1] - begin
            rows, seen = stop - start, depth + 1
            # F.embedding, not an index: its backward adds up rows without sorting them.
            picked = F.embedding(tree.ancestors[depth], both).view(rows, seen, 2, heads, width // heads)
            keys, values = picked.permute(2, 0, 3, 1, 4).unbind(0)
            query = queries[start:stop].view(rows, 1, heads, width // heads).transpose(1, 2)
            mixed = F.scaled_dot_product_attention(query, keys, values)
            attended.append(mixed.reshape(rows, width))
        outcome: Tensor = self.out_proj(torch.cat(attended))
        return outcome


@dataclass(frozen=True)
class PrefixTree:
    """The different prefixes of token rows; those of one depth lie together, the empty one is left out."""

    token: Tensor
    """Last token of each prefix (prefixes,)."""
    depth: Tensor
    """Its position (prefixes,)."""
    starts: tuple[int, ...]
    """Where each depth begins; one entry more than there are depths."""
    ancestors: tuple[Tensor, ...]
    """For each depth t, the prefixes of 1 … t+1 tokens of each of its prefixes, itself last (count, t+1)."""
    leaf: Tensor
    """For each row, its place among the deepest prefixes (rows,)."""


def prefix_tree(x: Tensor, vocabulary: int) -> PrefixTree:
    """Find the different prefixes of token rows (n, length).

    >>> tree = prefix_tree(torch.tensor([[5, 1], [5, 2], [5, 1]]), 6)
    >>> tree.token.tolist(), tree.starts, tree.ancestors[1].tolist(), tree.leaf.tolist()
    ([5, 1, 2], (0, 1, 3), [[0, 1], [0, 2]], [0, 1, 0])
    """
    place = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    tokens, starts, ancestors = [], [0], []
    before = torch.zeros(1, 0, dtype=torch.int64, device=x.device)
    for column in x.unbind(1):
        codes, place = torch.unique(place * vocabulary + column, return_inverse=True)
        parent = torch.div(codes, vocabulary, rounding_mode="floor")
        itself = torch.arange(len(codes), device=x.device) + starts[-1]
        before = torch.cat([before[parent], itself[:, None]], dim=1)
        tokens.append(codes - parent * vocabulary)
        ancestors.append(before)
        starts.append(starts[-1] + len(codes))
    counts = torch.tensor([len(part) for part in tokens], device=x.device)
    depth = torch.arange(len(tokens), device=x.device).repeat_interleave(counts)
    return PrefixTree(torch.cat(tokens), depth, tuple(starts), tuple(ancestors), place)
