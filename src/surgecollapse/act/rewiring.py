"""Opening and closing of weights, with the optimizer's moments and the energy ledger kept in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from surgecollapse.act.collapse import plan_collapse
from surgecollapse.act.layouts import Layouts
from surgecollapse.act.ledger import Ledger, energies
from surgecollapse.act.masked_weights import MaskedWeights
from surgecollapse.act.optimizer_state import check_optimizer_state, forget
from surgecollapse.act.randomness import Generators
from surgecollapse.act.regrowth_ramp import RegrowthRamp
from surgecollapse.act.surge import REGROW_INIT, choose_reopened, fill_reopened, growth_scores
from surgecollapse.errors import one_of
from surgecollapse.functional import (
    ALLOCATIONS,
    Pattern,
    exchange_tiles,
    kept,
    lowest,
    minimum_live,
)
from surgecollapse.functional.criteria.registry import GROWTH, RANDOM, SALIENCY, check_saliency
from surgecollapse.functional.growth import random
from surgecollapse.functional.selection import count_true
from surgecollapse.functional.structured import open_count
from surgecollapse.plugins import find
from surgecollapse.protocols import Criterion


def criterion_of(option: str, chosen: str | Criterion | None) -> str | Criterion | None:
    """One of our criteria by its name as it stands; one that a package offers by its name as a function.

    Args:
        option: ``saliency`` or ``growth``.
        chosen: as the user gave it.

    Raises:
        ValueError: for a name that nobody offers.
        TypeError: if what a package offers cannot be called.
    """
    own = (*SALIENCY, RANDOM) if option == "saliency" else GROWTH
    if not isinstance(chosen, str) or chosen in own:
        return chosen
    found: Criterion = find("criteria", option, chosen, SALIENCY, also=own)
    return found


class Rewiring:
    """Writes masks, first values and optimizer moments.

    Args:
        weights: the prunable weights.
        owner: gives the optimizer that steps a parameter, by name.
        generators: for random growth and noise.
        saliency: what is closed first: ``magnitude``, ``taylor``, or a criterion.
        growth: what is reopened first, see :func:`~surgecollapse.act.surge.choose_reopened`.
        regrow_init: ``zero | noise | last``.
        noise_energy_budget: bound on injected over live energy.
        allocation: ``global | layer | erk``.
        min_density: least open share of every parameter.
        optimizer_state: ``reset | keep | warmup | ramp``.
        pattern: weights open and close in its tiles; ``None``: one by one.
        layouts: which dimensions of a weight are its rows, for a pattern.
    """

    def __init__(
        self,
        weights: MaskedWeights,
        owner: Callable[[str], Optimizer],
        generators: Generators,
        *,
        saliency: str | Criterion,
        growth: str | Criterion,
        regrow_init: str,
        noise_energy_budget: float,
        allocation: str,
        min_density: float,
        optimizer_state: str,
        pattern: Pattern | None = None,
        layouts: Layouts | None = None,
    ) -> None:
        if isinstance(saliency, str):
            check_saliency(saliency)
        if isinstance(growth, str):
            one_of("growth", growth, GROWTH)
        if not 0.0 <= noise_energy_budget < float("inf"):
            raise ValueError(f"noise_energy_budget must be finite and at least 0, got {noise_energy_budget}")
        if not 0.0 <= min_density < 1.0:
            raise ValueError(f"min_density must be in [0, 1), got {min_density}")
        self.weights, self._owner = weights, owner
        self.generators = generators
        self._saliency = saliency
        self.growth = growth
        self.regrow_init = one_of("regrow_init", regrow_init, REGROW_INIT)
        self.noise_energy_budget, self.min_density = noise_energy_budget, min_density
        self.allocation = one_of("allocation", allocation, ALLOCATIONS)
        self.optimizer_state, self.pattern = check_optimizer_state(optimizer_state), pattern
        self.layouts = layouts or Layouts()
        self.ramp = RegrowthRamp(weights, owner) if optimizer_state == "ramp" else None
        self._last: dict[str, Tensor] = {}
        self.starved: list[str] = []

    def _criterion(self, saliency: str | Criterion | None) -> Criterion:
        """The function behind a saliency; ``random`` draws from the library's own generators."""
        chosen = self._saliency if saliency is None else saliency
        if not isinstance(chosen, str):
            return chosen
        if check_saliency(chosen) == RANDOM:
            return lambda weight, signal: random(weight.shape, self.generators.on(weight.device))  # noqa: ARG005
        return SALIENCY[chosen]

    def reachable(self, sparsity: float) -> float:
        """The sparsity itself; under ``N:M`` at most the pattern's own."""
        exact = self.pattern.sparsity if self.pattern is not None else None
        return sparsity if exact is None else min(sparsity, exact)

    def wanted(self, sparsity: float, layers: Sequence[str] = ()) -> int:
        """Number of weights (of the named layers) that a sparsity is to leave open."""
        weights = self.weights.only(layers) if layers else self.weights
        live = kept(weights.size, sparsity)
        if self.pattern is None:
            return live
        return open_count(self.layouts.shapes(weights.params), live, self.pattern, sparsity)

    def minima(self) -> dict[str, int]:
        """Fewest weights that each parameter keeps open."""
        sizes = self.layouts.shapes(self.weights.params)
        if self.pattern is None:
            return minimum_live(sizes, self.min_density)
        return {name: self.pattern.least(shape, self.min_density) for name, shape in sizes.items()}

    def check_target(self, sparsity: float) -> None:
        """Check that a sparsity leaves every parameter its minimum density.

        Raises:
            ValueError: if it does not, naming the parameters.
        """
        minima, live = self.minima(), self.wanted(sparsity)
        if sum(minima.values()) > live:
            tiles = f" in tiles of {self.pattern.name!r}" if self.pattern else ""
            smaller = ", or take smaller tiles" if tiles else ""
            named = ", ".join(f"{name} ({n})" for name, n in minima.items())
            raise ValueError(
                f"sparsity {sparsity:g} leaves {live} of {self.weights.size} weights, but a minimum density of "
                f"{self.min_density:g} needs {sum(minima.values())}{tiles}: {named}. Lower "
                f"min_density or the sparsity, or exclude layers{smaller}"
            )

    def at(self, sparsity: float) -> bool:
        """Whether the masks leave as many weights open as this sparsity is to: exactly, or as near as tiles come."""
        return abs(self.weights.live - self.wanted(sparsity)) <= self._room(sparsity, self.weights)

    def _room(self, sparsity: float, weights: MaskedWeights) -> int:
        if self.pattern is None or sparsity == self.pattern.sparsity:
            return 0
        return sum(map(self.pattern.tile_size, self.layouts.shapes(weights.params).values())) // 2

    def check_collapsed(self, sparsity: float, layers: Sequence[str] = ()) -> None:
        """Assert that a collapse left as many weights open as it was to: exactly, or as near as tiles come."""
        weights = self.weights.only(layers) if layers else self.weights
        off = abs(weights.live - self.wanted(sparsity, layers))
        room = self._room(sparsity, weights)
        assert off <= room, f"a collapse to {sparsity} left {weights.live} of {weights.size} weights open"

    def newly_starved(self, allocation: str | None) -> list[str]:
        """Parameters that a global threshold would close further than their minimum density, not named before.

        Only those whose minimum is a smaller share than that of all prunable weights together.
        """
        if (allocation or self.allocation) != "global" or (self.pattern is not None and self.pattern.keep):
            return []
        least = self.minima()
        density = self.weights.live / self.weights.size
        found = [
            name
            for name, p in self.weights.params.items()
            if name not in self.starved and self.weights.live_in(name) <= least[name] < density * p.numel()
        ]
        self.starved += found
        return found

    def plan(
        self,
        sparsity: float,
        signals: Mapping[str, Tensor],
        allocation: str | None,
        saliency: str | None = None,
        layers: Sequence[str] = (),
        *,
        values: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Masks of a collapse (of the named layers) to ``sparsity``; nothing is written.

        With ``values`` (of every weight) these are judged instead, and what is closed may be opened.
        """
        weights = self.weights.only(layers) if layers else self.weights
        if values is not None:
            weights = self.weights.with_values(values)
        masks = plan_collapse(
            weights,
            sparsity,
            saliency=self._criterion(saliency),
            signals=signals,
            allocation=one_of("allocation", allocation or self.allocation, ALLOCATIONS),
            min_density=self.min_density,
            pattern=self.pattern,
            layouts=self.layouts,
        )
        return masks | {name: self.weights.mask(name) for name in self.weights.params if name not in masks}

    def one_ranking(self, allocation: str | None, saliency: str | None) -> bool:
        """Whether all parameters are ranked together, by magnitude."""
        chosen = self._saliency if saliency is None else saliency
        return (allocation or self.allocation) == "global" and chosen == "magnitude" and self.pattern is None

    def check_without_gradient(self, saliency: str | None = None) -> None:
        """Refuse a criterion by name that does not judge weights by their own values.

        Raises:
            ValueError: if it is ``taylor`` or ``random``.
        """
        chosen = self._saliency if saliency is None else saliency
        if isinstance(chosen, str) and chosen not in ("magnitude", "lamp"):
            raise ValueError(
                f"a soft threshold judges weights by their own values: saliency must be magnitude or lamp, got {chosen}"
            )

    def forget_values(self) -> None:
        """Drop remembered values: nothing is regrown with them any more."""
        self._last.clear()

    @contextmanager
    def trial(self, masks: Mapping[str, Tensor]) -> Iterator[None]:
        """Wear ``masks`` for as long as the context lasts; afterwards every weight is bitwise what it was."""
        with torch.no_grad():
            saved = {name: p.detach().clone() for name, p in self.weights.params.items()}
            try:
                for name, p in self.weights.params.items():
                    p.mul_(masks[name])
                yield
            finally:
                for name, p in self.weights.params.items():
                    p.copy_(saved[name])

    @torch.no_grad()
    def collapse(self, masks: Mapping[str, Tensor], *, remember: bool = False) -> tuple[Ledger, dict[str, Tensor]]:
        """Close weights for good; ``remember`` keeps their last values for a later surge.

        Returns:
            The ledger, and name → boolean of what was closed just now.
        """
        params = self.weights.params
        ledger = Ledger(before=energies(params))
        flipped = {name: self.weights.mask(name) ^ masks[name] for name in params}
        closed = {name: chosen & ~masks[name] for name, chosen in flipped.items()}
        if remember:
            self._remember(closed)
        self._flip(masks, flipped)
        ledger.pruned = sum(count_true(list(closed.values())))
        ledger.grown = sum(count_true(list(flipped.values()))) - ledger.pruned
        ledger.after = energies(params)
        return ledger, closed

    def last_value(self, name: str) -> Tensor:
        """Values that closed weights of a parameter had, where they were kept; zeros elsewhere."""
        value = self.weights.params[name].detach()
        kept = self._last.get(name)
        return torch.zeros_like(value) if kept is None else kept.to(value)

    def _remember(self, closed: Mapping[str, Tensor]) -> None:
        """Keep the values of weights that are about to be closed."""
        for name, chosen in closed.items():
            value = self.weights.params[name].detach()
            before = self._last.get(name)
            before = torch.zeros_like(value) if before is None else before.to(value)
            self._last[name] = torch.where(chosen, value, before)

    @torch.no_grad()
    def surge(
        self,
        closed: Mapping[str, Tensor],
        count: int,
        *,
        signals: Mapping[str, Tensor],
        growth: str | Criterion | None = None,
        regrow_init: str | None = None,
        noise_energy_budget: float | None = None,
        noise_std: float | None = None,
    ) -> Ledger:
        """Reopen ``count`` of the ``closed`` weights (the nearest number that whole tiles reach) and fill them."""
        params = self.weights.params
        ledger = Ledger(before=energies(params))
        opened = self._choose(closed, count, growth, signals)
        masks = {name: self.weights.mask(name) | opened[name] for name in params}
        self._flip(masks, opened)
        ledger.injected = self._fill(opened, sum(ledger.before.values()), regrow_init, noise_energy_budget, noise_std)
        ledger.grown = count if self.pattern is None else sum(count_true(list(opened.values())))
        ledger.after = energies(params)
        return ledger

    @torch.no_grad()
    def exchange(
        self,
        share: float,
        *,
        signals: Mapping[str, Tensor],
        saliency: str | None = None,
        growth: str | Criterion | None = None,
        regrow_init: str | None = None,
        noise_energy_budget: float | None = None,
        remember: bool = False,
    ) -> Ledger:
        """Exchange ``share`` of the open weights of each parameter for as many others; its density stays exact.

        As in RigL's published code, a weight may be reopened by the very exchange that would have closed it: it then
        simply stays, value and moments included. Under a pattern tiles are exchanged, see
        :func:`~surgecollapse.functional.exchange_tiles`.
        """
        params, criterion = self.weights.params, self._criterion(saliency)
        ledger = Ledger(before=energies(params))
        masks: dict[str, Tensor] = {}
        for name, p in params.items():
            mask, scores = self.weights.mask(name), criterion(p.detach(), signals.get(name))
            if self.pattern is not None:
                grow = growth_scores(self._growth(growth), p.detach(), signals.get(name), self.generators)
                way = self.layouts.of(name, p.shape)
                rows = (way.into_rows(scores), way.into_rows(grow), way.into_rows(mask))
                masks[name] = way.back(exchange_tiles(*rows, share, self.pattern))
                continue
            count = int(share * self.weights.live_in(name) + 0.5)
            (dropped,) = lowest([scores], count, eligible=[mask])
            stays = mask & ~dropped
            closed = dropped | self.weights.closed(name)
            masks[name] = stays | self._choose({name: closed}, count, growth, signals)[name]
        flipped = {name: self.weights.mask(name) ^ masks[name] for name in params}
        opened = {name: flipped[name] & masks[name] for name in params}
        if remember or (regrow_init or self.regrow_init) == "last":
            self._remember({name: flipped[name] & ~masks[name] for name in params})
        self._flip(masks, flipped)
        ledger.grown = sum(count_true(list(opened.values())))
        # Of tiles that change places, one may lie at an edge and be smaller.
        ledger.pruned = sum(count_true(list(flipped.values()))) - ledger.grown
        ledger.injected = self._fill(opened, sum(ledger.before.values()), regrow_init, noise_energy_budget)
        ledger.after = energies(params)
        return ledger

    def _growth(self, growth: str | Criterion | None) -> str | Criterion:
        return one_of("growth", growth, GROWTH) if isinstance(growth, str) else growth or self.growth

    def _choose(
        self,
        closed: Mapping[str, Tensor],
        count: int,
        growth: str | Criterion | None,
        signals: Mapping[str, Tensor],
    ) -> dict[str, Tensor]:
        return choose_reopened(
            self.weights,
            closed,
            count,
            growth=self._growth(growth),
            signals=signals,
            generators=self.generators,
            allocation=self.allocation,
            pattern=self.pattern,
            layouts=self.layouts,
        )

    def _fill(
        self,
        opened: Mapping[str, Tensor],
        live_energy: float,
        regrow_init: str | None,
        noise_energy_budget: float | None,
        noise_std: float | None = None,
    ) -> dict[str, float]:
        return fill_reopened(
            self.weights.params,
            opened,
            regrow_init=one_of("regrow_init", regrow_init or self.regrow_init, REGROW_INIT),
            live_energy=live_energy,
            noise_energy_budget=self.noise_energy_budget if noise_energy_budget is None else noise_energy_budget,
            generators=self.generators,
            last=self._last,
            noise_std=noise_std,
        )

    def _flip(self, masks: Mapping[str, Tensor], flipped: Mapping[str, Tensor]) -> None:
        for name, p in self.weights.params.items():
            forget(self._owner(name), p, flipped[name], masks[name], self.optimizer_state)
            if self.ramp is not None:
                self.ramp.flip(name, flipped[name] & masks[name], masks[name])
        self.weights.set(masks, dict(zip(masks, count_true(list(masks.values())), strict=True)))

    @torch.no_grad()
    def restore_zeros(self) -> None:
        """Put closed weights and their moments back to zero where a non-finite gradient reached them (inf · 0)."""
        for name, p in self.weights.params.items():
            if self.weights.held(name) is not None:
                live = self.weights.mask(name)
                p.masked_fill_(~live, 0)
                forget(self._owner(name), p, ~live, live, self.optimizer_state)

    def state_dict(self) -> dict[str, Any]:
        """Remembered values, where there are any, and which parameters were said to be at their minimum."""
        last = {name: value.clone() for name, value in self._last.items()}
        ramp = {} if self.ramp is None else {"ramp": self.ramp.state_dict()}
        return {"last": last, "starved": list(self.starved), **ramp}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore them."""
        self.starved = list(state.get("starved", ()))
        self._last = {
            name: value.to(self.weights.params[name].device, copy=True) for name, value in state["last"].items()
        }
        if self.ramp is not None and "ramp" in state:
            self.ramp.load_state_dict(state["ramp"])
