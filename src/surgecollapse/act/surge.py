"""Surge: reopen closed weights, and give them their first value within the energy budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from surgecollapse.act.layouts import Layouts
from surgecollapse.act.ledger import Ledger, energies
from surgecollapse.act.masked_weights import MaskedWeights
from surgecollapse.act.randomness import Generators
from surgecollapse.act.scores import random_scores, score
from surgecollapse.functional import Pattern, bounded_noise_scale, reopen_tiles
from surgecollapse.functional.apportion import apportion
from surgecollapse.functional.growth import share_by_means, sum_of_open
from surgecollapse.protocols import Criterion
from surgecollapse.torch_utils.shards import Shards, local, part_of, whole


@torch.no_grad()
def choose_reopened(
    weights: MaskedWeights,
    closed: Mapping[str, Tensor],
    count: int,
    *,
    growth: str | Criterion,
    signals: Mapping[str, Tensor],
    generators: Generators,
    allocation: str,
    pattern: Pattern | None = None,
    layouts: Layouts | None = None,
) -> dict[str, Tensor]:
    """Choose ``count`` of the ``closed`` weights to reopen.

    Args:
        weights: the prunable weights.
        closed: name → boolean, true where a weight may be reopened.
        count: how many, in all.
        growth: ``random``; ``gradient`` and ``ema_gradient``, the highest magnitude of the signal; ``momentum``; or a
            criterion of one's own. With ``momentum`` each parameter's share follows the mean signal of its open
            weights, and within it the highest magnitude counts. That is sparse momentum (Dettmers & Zettlemoyer, arXiv
            1907.04840).
        signals: the dense gradient that belongs to ``growth``, by name. A parameter without one is drawn at random,
            behind every parameter that has one.
        generators: the library's own generators.
        allocation: ``global`` lets parameters compete; otherwise each reopens the same share.
        pattern: reopens whole tiles, as many as come nearest to ``count``.
        layouts: which dimensions of a weight are its rows, for a pattern.

    Returns:
        Name → boolean, true where a weight is to be reopened.
    """
    names = list(closed)
    scores = {n: growth_scores(growth, weights, n, signals.get(n), generators) for n in names}
    turned = layouts or Layouts()

    def choose(some: Sequence[str], wanted: int) -> list[Tensor]:
        if pattern is None:
            return weights.ranking.highest({n: scores[n] for n in some}, wanted, closed)
        params = {n: weights.params[n] for n in some}
        ways = {n: turned.of(n, p.shape) for n, p in params.items()}
        rows = [way.into_rows(whole(params[n], scores[n])) for n, way in ways.items()]
        free = [way.into_rows(whole(params[n], closed[n])) for n, way in ways.items()]
        found = reopen_tiles(rows, wanted, pattern, eligible=free)
        return [part_of(params[n], way.back(mask)) for (n, way), mask in zip(ways.items(), found, strict=True)]

    if allocation == "global" and growth != "momentum":
        return dict(zip(names, choose(names, count), strict=True))
    if growth == "momentum" and signals.keys() >= closed.keys():
        counts = share_by_means(*_momenta(weights, {n: signals[n] for n in names}, closed), count)
    else:
        room = weights.ranking.counts({n: closed[n] for n in names})
        counts = apportion(room, dict.fromkeys(names, 0), room, count)
    return {n: choose([n], counts[n])[0] for n in names}


def _momenta(
    weights: MaskedWeights, signals: Mapping[str, Tensor], closed: Mapping[str, Tensor]
) -> tuple[dict[str, float], dict[str, int], dict[str, int]]:
    """Of each parameter the sum of |signal| over open weights, and the numbers of open and of closed ones."""
    open_ = {name: ~closed[name] for name in signals}
    sums = {name: sum_of_open(signal, open_[name]) for name, signal in signals.items()}
    counts = weights.ranking.counts(open_)
    return (
        weights.shards.sums(weights.params, sums),
        counts,
        {name: weights.params[name].numel() - count for name, count in counts.items()},
    )


def growth_scores(
    growth: str | Criterion, weights: MaskedWeights, name: str, signal: Tensor | None, generators: Generators
) -> Tensor:
    """Score one parameter for growth; where the signal is missing at random, behind all that have one."""
    param = weights.params[name]
    if callable(growth):
        return score(growth, param, weights.value(name), signal)
    if growth != "random" and signal is not None:
        return signal
    scores = random_scores(param, generators)
    return scores if growth == "random" else scores * torch.finfo(torch.float32).tiny


@torch.no_grad()
def fill_reopened(
    params: Mapping[str, Tensor],
    opened: Mapping[str, Tensor],
    shards: Shards,
    *,
    regrow_init: str,
    live_energy: float,
    noise_energy_budget: float,
    generators: Generators,
    last: Mapping[str, Tensor],
    noise_std: float | None = None,
) -> dict[str, float]:
    """Write the first values of reopened weights, in place.

    ``zero`` leaves them at zero. ``noise`` draws N(0, σ²) with σ² = ρ·E/n over the n reopened weights, E the energy of
    the live ones. It scales the draw down where chance took it over the budget ρ·E. An explicit ``noise_std`` is used
    as it is, unbounded. ``last`` restores the values that the weights had when they were closed.

    Returns:
        Energy injected, by name.
    """
    count = sum(shards.sums(params, {name: chosen.count_nonzero() for name, chosen in opened.items()}).values())
    if regrow_init == "zero" or not count:
        return dict.fromkeys(opened, 0.0)
    here = {n: local(params[n]).detach() for n in opened}
    if regrow_init == "last":
        values = {
            n: last[n].to(here[n].dtype) * c if n in last else torch.zeros_like(here[n]) for n, c in opened.items()
        }
        scale = 1.0
    else:
        scale = bounded_noise_scale(live_energy, int(count), noise_energy_budget) if noise_std is None else noise_std
        values = {n: _noise(params[n], c.device, generators) * c for n, c in opened.items()}
    if regrow_init == "noise" and noise_std is None:
        # Of the values that will be written, and of the draw itself.
        rounding = max(torch.finfo(torch.float32).eps, *(torch.finfo(params[n].dtype).eps for n in opened))
        budget = noise_energy_budget * live_energy * (1 - 2 * rounding)
        total = sum(energies(params, shards, values).values()) * scale**2
        if total > budget:
            scale *= (budget / total) ** 0.5
    written = {n: (value * scale).to(here[n].dtype) for n, value in values.items()}
    for n, chosen in opened.items():
        here[n].copy_(torch.where(chosen, written[n], here[n]))
    return energies(params, shards, written)


def _noise(param: Tensor, device: torch.device, generators: Generators) -> Tensor:
    """Standard normal noise for the part of a parameter that is here, of one draw for the whole on every rank."""
    return part_of(param, torch.randn(param.shape, device=device, generator=generators.on(device)))


@torch.no_grad()
def refill_zeros(
    params: Mapping[str, Tensor], noise_std: float, generators: Generators, weights: MaskedWeights
) -> Ledger:
    """Fill every exact zero that no mask holds with N(0, σ²), whatever it costs (the classic rule's recovery)."""
    shards = weights.shards
    ledger = Ledger(before=energies(params, shards))
    zeros = {name: local(p).detach() == 0 for name, p in params.items()}
    for name in zeros.keys() & weights.params.keys():
        zeros[name] &= weights.mask(name)
    ledger.grown = int(sum(shards.sums(params, {name: zero.count_nonzero() for name, zero in zeros.items()}).values()))
    ledger.injected = fill_reopened(
        params,
        zeros,
        shards,
        regrow_init="noise",
        live_energy=0.0,
        noise_energy_budget=0.0,
        generators=generators,
        last={},
        noise_std=noise_std,
    )
    ledger.after = energies(params, shards)
    return ledger
