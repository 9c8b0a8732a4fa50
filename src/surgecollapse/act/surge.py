"""Surge: reopen closed weights, and give them their first value within the energy budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from surgecollapse.act.layouts import Layouts
from surgecollapse.act.ledger import Ledger, energies
from surgecollapse.act.masked_weights import MaskedWeights
from surgecollapse.act.randomness import Generators
from surgecollapse.functional import Pattern, bounded_noise_scale, highest, reopen_tiles, share_by_momentum
from surgecollapse.functional.apportion import apportion
from surgecollapse.functional.growth import random
from surgecollapse.functional.selection import count_true
from surgecollapse.protocols import Criterion

REGROW_INIT = ("zero", "noise", "last")


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
        growth: ``random``; ``gradient`` and ``ema_gradient``: highest magnitude of the signal; ``momentum``: each
            parameter's share follows the mean signal of its open weights (sparse momentum, Dettmers & Zettlemoyer,
            arXiv 1907.04840), within it the highest magnitude; or a criterion of one's own.
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
    scores = {n: growth_scores(growth, weights.params[n].detach(), signals.get(n), generators) for n in names}
    turned = layouts or Layouts()

    def choose(some: Sequence[str], wanted: int) -> list[Tensor]:
        if pattern is None:
            return highest([scores[n] for n in some], wanted, eligible=[closed[n] for n in some])
        ways = {n: turned.of(n, closed[n].shape) for n in some}
        rows = [way.into_rows(scores[n]) for n, way in ways.items()]
        found = reopen_tiles(rows, wanted, pattern, eligible=[way.into_rows(closed[n]) for n, way in ways.items()])
        return [way.back(mask) for way, mask in zip(ways.values(), found, strict=True)]

    if allocation == "global" and growth != "momentum":
        return dict(zip(names, choose(names, count), strict=True))
    if growth == "momentum" and signals.keys() >= closed.keys():
        counts = share_by_momentum({n: signals[n] for n in names}, {n: ~closed[n] for n in names}, count)
    else:
        room = dict(zip(names, count_true([closed[n] for n in names]), strict=True))
        counts = apportion(room, dict.fromkeys(names, 0), room, count)
    return {n: choose([n], counts[n])[0] for n in names}


def growth_scores(growth: str | Criterion, weight: Tensor, signal: Tensor | None, generators: Generators) -> Tensor:
    """Score one parameter for growth; where the signal is missing at random, behind all that have one."""
    if callable(growth):
        return growth(weight, signal)
    if growth != "random" and signal is not None:
        return signal
    scores = random(weight.shape, generators.on(weight.device))
    return scores if growth == "random" else scores * torch.finfo(torch.float32).tiny


@torch.no_grad()
def fill_reopened(
    params: Mapping[str, Tensor],
    opened: Mapping[str, Tensor],
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
    the live ones, and scales the draw down where chance took it over the budget ρ·E; an explicit ``noise_std`` is used
    as it is, unbounded. ``last`` restores the values that the weights had when they were closed.

    Returns:
        Energy injected, by name.
    """
    count = sum(count_true(list(opened.values())))
    if regrow_init == "zero" or not count:
        return dict.fromkeys(opened, 0.0)
    if regrow_init == "last":
        values = {
            n: last[n].to(params[n].dtype) * c if n in last else torch.zeros_like(params[n]) for n, c in opened.items()
        }
        scale = 1.0
    else:
        scale = bounded_noise_scale(live_energy, count, noise_energy_budget) if noise_std is None else noise_std
        values = {
            n: torch.randn(c.shape, device=c.device, generator=generators.on(c.device)) * c for n, c in opened.items()
        }
    if regrow_init == "noise" and noise_std is None:
        # Of the values that will be written, and of the draw itself.
        rounding = max(torch.finfo(torch.float32).eps, *(torch.finfo(params[n].dtype).eps for n in opened))
        budget = noise_energy_budget * live_energy * (1 - 2 * rounding)
        total = sum(energies(values).values()) * scale**2
        if total > budget:
            scale *= (budget / total) ** 0.5
    written = {n: (value * scale).to(params[n].dtype) for n, value in values.items()}
    for n, chosen in opened.items():
        params[n].copy_(torch.where(chosen, written[n], params[n]))
    return energies(written)


@torch.no_grad()
def refill_zeros(
    params: Mapping[str, Tensor], noise_std: float, generators: Generators, weights: MaskedWeights
) -> Ledger:
    """Fill every exact zero that no mask holds with N(0, σ²), whatever it costs (the classic rule's recovery)."""
    ledger = Ledger(before=energies(params))
    zeros = {name: p.detach() == 0 for name, p in params.items()}
    for name in zeros.keys() & weights.params.keys():
        zeros[name] &= weights.mask(name)
    ledger.grown = sum(count_true(list(zeros.values())))
    ledger.injected = fill_reopened(
        params,
        zeros,
        regrow_init="noise",
        live_energy=0.0,
        noise_energy_budget=0.0,
        generators=generators,
        last={},
        noise_std=noise_std,
    )
    ledger.after = energies(params)
    return ledger
