"""Attention with fewer heads than ``nn.MultiheadAttention`` can have at its width."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class FewerHeads(nn.Module):
    """Multi-head attention whose heads need not fill the width: h heads of d units each, on queries of width E.

    Called as :class:`torch.nn.MultiheadAttention` is, but it computes no attention weights: the second of what it
    returns is ``None``.

    Args:
        attention: what to take heads from; not with ``add_bias_kv`` or ``add_zero_attn``.
        heads: numbers of the heads to keep.
        shift: vector (E,) to add to the output, of the heads that are left out; or none.

    >>> whole = nn.MultiheadAttention(4, 2, batch_first=True).eval()
    >>> _ = nn.init.zeros_(whole.out_proj.weight[:, 2:].detach())
    >>> x = torch.randn(1, 3, 4)
    >>> torch.allclose(FewerHeads(whole, [0])(x, x, x)[0], whole(x, x, x, need_weights=False)[0], atol=1e-6)
    True
    """

    _qkv_same_embed_dim = False
    """Keeps ``nn.TransformerEncoderLayer`` from passing by this module's forward."""

    def __init__(self, attention: nn.MultiheadAttention, heads: list[int], shift: Tensor | None = None) -> None:
        super().__init__()
        self.embed_dim, self.head_dim, self.num_heads = attention.embed_dim, attention.head_dim, len(heads)
        self.dropout, self.batch_first = attention.dropout, attention.batch_first
        units = torch.cat([torch.arange(head * self.head_dim, (head + 1) * self.head_dim) for head in heads])
        weights = projections(attention)
        bias = attention.in_proj_bias
        biases = [None] * 3 if bias is None else list(bias.detach().chunk(3))
        self.query, self.key, self.value = (
            _linear(weight[units], None if vector is None else vector[units], weight)
            for weight, vector in zip(weights, biases, strict=True)
        )
        out = attention.out_proj
        held = out.bias if shift is None else shift if out.bias is None else out.bias.double() + shift
        self.out_proj = _linear(out.weight[:, units], held, out.weight)
        self.training = attention.training

    @property
    def in_proj_bias(self) -> Tensor | None:
        """The bias of the value projection; ``nn.TransformerEncoderLayer`` asks whether there is one."""
        return self.value.bias

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = False,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, None]:
        """Return the output, shaped as the queries are, and ``None``.

        Args:
            query: (n, L, E), or (L, n, E) without ``batch_first``, or (L, E).
            key: (n, S, …).
            value: (n, S, …).
            key_padding_mask: (n, S); ``True`` where a key is padding, or floats to add.
            need_weights: ignored.
            attn_mask: (L, S) or (n·heads before the cut, L, S); ``True`` where not to look, or floats to add.
            average_attn_weights: ignored.
            is_causal: a hint; ``attn_mask`` is what counts.

        Raises:
            ValueError: for a mask for each head: it would have to be cut too.
        """
        if attn_mask is not None and attn_mask.ndim != 2:
            raise ValueError("FewerHeads takes one attn_mask (L, S) for all heads")
        del need_weights, average_attn_weights, is_causal
        batched = query.dim() == 3
        q, k, v = (self._split(layer(x), batched) for layer, x in self._inputs(query, key, value))
        mask = _additive(attn_mask, q.dtype)
        if key_padding_mask is not None:
            padding = _additive(key_padding_mask, q.dtype)
            assert padding is not None
            padding = padding.view(-1, 1, 1, padding.shape[-1])
            mask = padding if mask is None else mask + padding
        mixed = F.scaled_dot_product_attention(q, k, v, mask, self.dropout if self.training else 0.0)
        merged = self.out_proj(mixed.transpose(1, 2).flatten(2))
        if not batched:
            return merged[0], None
        return merged if self.batch_first else merged.transpose(0, 1), None

    def _inputs(self, query: Tensor, key: Tensor, value: Tensor) -> zip[tuple[nn.Module, Tensor]]:
        return zip((self.query, self.key, self.value), (query, key, value), strict=True)

    def _split(self, x: Tensor, batched: bool) -> Tensor:
        """(n, heads, L, head_dim)."""
        x = x.unsqueeze(0) if not batched else x if self.batch_first else x.transpose(0, 1)
        return x.view(*x.shape[:-1], self.num_heads, self.head_dim).transpose(1, 2)


def projections(attention: nn.MultiheadAttention) -> list[Tensor]:
    """Weights of queries, keys and values, (E, in) each."""
    if attention.in_proj_weight is not None:
        return list(attention.in_proj_weight.detach().chunk(3))
    parts = (attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight)
    return [part.detach() for part in parts]


def dead_heads(attention: nn.MultiheadAttention) -> tuple[list[int], Tensor | None]:
    """Heads without effect on the output, or whose effect is a constant vector; one always stays.

    A head whose columns in the output projection are zero has no effect. One whose rows in the value projection are
    zero gives W_o·b_v everywhere, as attention weights sum to one.

    Returns:
        Their numbers, and the sum (E,) of the constants in float64, or ``None`` if it is zero.
    """
    d = attention.head_dim
    value = projections(attention)[2]
    bias = attention.in_proj_bias
    constant = (
        torch.zeros(len(value), dtype=torch.float64) if bias is None else bias.detach().double().chunk(3)[2].cpu()
    )
    out = attention.out_proj.weight.detach().cpu().double()
    dead: list[int] = []
    shift = torch.zeros(len(out), dtype=torch.float64)
    for head in range(attention.num_heads):
        units = slice(head * d, (head + 1) * d)
        unread, silent = not out[:, units].any(), not value[units].any()
        if (unread or silent) and len(dead) < attention.num_heads - 1:
            dead.append(head)
            shift += out[:, units] @ constant[units] if silent else 0
    return dead, shift if shift.any() else None


def obstacle(attention: nn.MultiheadAttention) -> str:
    """Why heads cannot be taken out of this module; empty if they can."""
    if attention.bias_k is not None or attention.add_zero_attn:
        return "add_bias_kv and add_zero_attn are not taken apart"
    return ""


def _linear(weight: Tensor, bias: Tensor | None, like: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.detach().clone())
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().to(like).clone())
    return layer


def _additive(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """A mask as floats to add, as ``nn.MultiheadAttention`` does it."""
    if mask is None or mask.is_floating_point():
        return mask
    return torch.zeros_like(mask, dtype=dtype).masked_fill(mask, -torch.inf)
