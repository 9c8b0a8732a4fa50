"""Collapse: close the weights of lowest saliency, exactly as many as the sparsity asks."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from surgecollapse.act.layouts import Layouts
from surgecollapse.act.ledger import Ledger, energies
from surgecollapse.act.masked_weights import MaskedWeights
from surgecollapse.act.scores import score as scored
from surgecollapse.act.sharded_ranking import ShardedRanking
from surgecollapse.functional import Pattern, collapse_masks, collapse_tiles, kept, magnitude
from surgecollapse.functional.selection import Ranking
from surgecollapse.functional.structured import open_count
from surgecollapse.protocols import Criterion
from surgecollapse.torch_utils.shards import Shards, local, part_of, whole


@torch.no_grad()
def plan_collapse(
    weights: MaskedWeights,
    sparsity: float,
    *,
    saliency: Criterion,
    signals: Mapping[str, Tensor],
    allocation: str,
    min_density: float,
    pattern: Pattern | None = None,
    layouts: Layouts | None = None,
) -> dict[str, Tensor]:
    """Choose the masks of a collapse to ``sparsity``; nothing is written.

    A weight that is closed already stays closed: among zeros, open ones (reopened, not yet moved) go last. Masks that
    came from another allocation may leave a parameter fewer open weights than ``layer`` or ``erk`` give it. Only then
    are some of its closed weights opened, at zero.

    Args:
        weights: the prunable weights and their masks.
        sparsity: share of zeros to reach, at least the present one.
        saliency: criterion whose lowest scores are closed.
        signals: dense gradients by name, for criteria that use them.
        allocation: ``global | layer | erk``.
        min_density: least share of a parameter that stays open.
        pattern: closes whole tiles only, see :func:`~surgecollapse.functional.collapse_tiles`.
        layouts: which dimensions of a weight are its rows, for a pattern.

    Returns:
        Name → boolean mask, true where open; exactly ``kept(N, sparsity)`` true in all, or under a pattern the nearest
        number that whole tiles reach.
    """
    scores: dict[str, Tensor] = {}
    for name, p in weights.params.items():
        value = weights.value(name)
        if saliency is magnitude and weights.dense:
            scores[name] = value  # the selection takes magnitudes itself: no copy is needed
            continue
        signal = signals.get(name)
        if signal is None and signals:  # others have a gradient: this one took no part in the loss
            signal = torch.zeros_like(value)
        score = scored(saliency, p, value, signal)
        if not weights.dense:  # then an open zero must outrank a closed one, in another parameter too
            wide = score.to(torch.promote_types(score.dtype, torch.float32))
            score = wide.clamp(min=torch.finfo(wide.dtype).tiny)
            held = weights.held(name)
            score = score if held is None else score.mul_(held)
        scores[name] = score
    live = kept(weights.size, sparsity)
    if pattern is None:
        ranking = weights.ranking
        return collapse_masks(scores, live, allocation=allocation, min_density=min_density, ranking=ranking)
    layouts = layouts or Layouts()
    live = open_count(layouts.shapes(weights.params), live, pattern, sparsity)
    # A tile may lie on several processes: each ranks all tiles of whole weights, and keeps its part of the masks.
    rows = layouts.into_rows({name: whole(weights.params[name], score) for name, score in scores.items()})
    masks = collapse_tiles(rows, live, pattern, allocation=allocation, min_density=min_density)
    return {name: part_of(weights.params[name], mask) for name, mask in layouts.back(masks).items()}


@torch.no_grad()
def zero_lowest(params: Mapping[str, Tensor], share: float, shards: Shards | None = None) -> Ledger:
    """Write zeros into the ``share`` of each parameter that is lowest in magnitude; no mask is kept (classic rule)."""
    shards = shards or Shards()
    ranking = ShardedRanking(lambda: params, shards) if shards.sharded else Ranking()
    ledger = Ledger(before=energies(params, shards))
    for name, p in params.items():
        value = local(p).detach()
        (chosen,) = ranking.lowest({name: value}, p.numel() - kept(p.numel(), share))
        ledger.pruned += ranking.counts({name: chosen & (value != 0)})[name]
        value.masked_fill_(chosen, 0)
    ledger.after = energies(params, shards)
    return ledger
