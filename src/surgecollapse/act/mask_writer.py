"""Opening and closing of weights, with the optimizer's moments and the energy ledger kept in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from surgecollapse.act.ledger import Ledger
from surgecollapse.act.mask_planner import MaskPlanner
from surgecollapse.act.masked_weights import MaskedWeights
from surgecollapse.act.optimizer_state import forget
from surgecollapse.act.randomness import Generators
from surgecollapse.act.regrowth_ramp import RegrowthRamp
from surgecollapse.act.scores import score
from surgecollapse.act.surge import choose_reopened, fill_reopened, growth_scores
from surgecollapse.act.weight_counters import WeightCounters
from surgecollapse.errors import one_of
from surgecollapse.events.switches import GROWTH, OPTIMIZER_STATE, REGROW_INIT
from surgecollapse.functional import exchange_tiles
from surgecollapse.protocols import Criterion
from surgecollapse.torch_utils.shards import part_of, whole


class MaskWriter:
    """Writes masks, first values and optimizer moments.

    Args:
        planner: the prunable weights, and how they are chosen.
        owner: gives the optimizer that steps a parameter, by name.
        generators: for random growth and noise.
        growth: what is reopened first, see :func:`~surgecollapse.act.surge.choose_reopened`.
        regrow_init: ``zero | noise | last``.
        noise_energy_budget: bound on injected over live energy.
        optimizer_state: ``reset | keep | warmup | ramp``.
        counting: what is counted of each weight, see :class:`~surgecollapse.act.weight_counters.WeightCounters`;
            ``None`` for nothing.
    """

    def __init__(
        self,
        planner: MaskPlanner,
        owner: Callable[[str], Optimizer],
        generators: Generators,
        *,
        growth: str | Criterion,
        regrow_init: str,
        noise_energy_budget: float,
        optimizer_state: str,
        counting: Mapping[str, float] | None = None,
    ) -> None:
        if isinstance(growth, str):
            one_of("growth", growth, GROWTH)
        if not 0.0 <= noise_energy_budget < float("inf"):
            raise ValueError(f"noise_energy_budget must be finite and at least 0, got {noise_energy_budget}")
        self.planner, self._owner, self.generators, self.growth = planner, owner, generators, growth
        self.regrow_init = one_of("regrow_init", regrow_init, REGROW_INIT)
        self.noise_energy_budget = noise_energy_budget
        self.optimizer_state = one_of("optimizer_state", optimizer_state, OPTIMIZER_STATE)
        self.ramp = RegrowthRamp(planner.weights, owner) if optimizer_state == "ramp" else None
        self.counters = None if counting is None else WeightCounters(planner.weights, **counting)
        self._last: dict[str, Tensor] = {}

    @property
    def weights(self) -> MaskedWeights:
        """The prunable weights."""
        return self.planner.weights

    def forget_values(self) -> None:
        """Drop remembered values: nothing is regrown with them any more."""
        self._last.clear()

    @contextmanager
    def trial(self, masks: Mapping[str, Tensor]) -> Iterator[None]:
        """Apply ``masks`` within the context; afterwards every weight is bitwise what it was."""
        with torch.no_grad():
            saved = {name: value.clone() for name, value in self.weights.values.items()}
            try:
                for name, value in self.weights.values.items():
                    value.mul_(masks[name])
                yield
            finally:
                for name, value in self.weights.values.items():
                    value.copy_(saved[name])

    @torch.no_grad()
    def collapse(self, masks: Mapping[str, Tensor], *, remember: bool = False) -> tuple[Ledger, dict[str, Tensor]]:
        """Close weights for good; ``remember`` keeps their last values for a later surge.

        Returns:
            The ledger, and name → boolean of what was closed just now.
        """
        params = self.weights.params
        ledger = Ledger(before=self.weights.energies())
        flipped = {name: self.weights.mask(name) ^ masks[name] for name in params}
        closed = {name: chosen & ~masks[name] for name, chosen in flipped.items()}
        if remember:
            self._remember(closed)
        self._flip(masks, flipped)
        ledger.pruned = self._count(closed)
        ledger.grown = self._count(flipped) - ledger.pruned
        ledger.after = self.weights.energies()
        return ledger, closed

    def last_value(self, name: str) -> Tensor:
        """Values that closed weights of a parameter had, where they were kept; zeros elsewhere."""
        value = self.weights.value(name)
        kept = self._last.get(name)
        return torch.zeros_like(value) if kept is None else kept.to(value)

    def _remember(self, closed: Mapping[str, Tensor]) -> None:
        """Keep the values of weights that are about to be closed."""
        for name, chosen in closed.items():
            value = self.weights.value(name)
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
        ledger = Ledger(before=self.weights.energies())
        opened = self._choose(closed, count, growth, signals)
        masks = {name: self.weights.mask(name) | opened[name] for name in params}
        self._flip(masks, opened)
        ledger.injected = self._fill(opened, sum(ledger.before.values()), regrow_init, noise_energy_budget, noise_std)
        ledger.grown = count if self.planner.pattern is None else self._count(opened)
        ledger.after = self.weights.energies()
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
        idle: int | None = None,
    ) -> Ledger:
        """Exchange ``share`` of the open weights of each parameter for as many others; its density stays exact.

        As in RigL's published code, a weight may be reopened by the very exchange that would have closed it. It then
        simply stays, value and moments included. Under a pattern tiles are exchanged, see
        :func:`~surgecollapse.functional.exchange_tiles`.

        With ``idle``, only weights that have been idle for so many steps are closed, at most ``share`` of the open
        ones. Those that are reopened at once are renewed instead of kept.
        """
        if idle is not None:
            return self._exchange_idle(share, idle, signals, growth, regrow_init, noise_energy_budget)
        params, criterion = self.weights.params, self.planner.criterion(saliency)
        ledger = Ledger(before=self.weights.energies())
        masks: dict[str, Tensor] = {}
        for name, p in params.items():
            mask, scores = self.weights.mask(name), score(criterion, p, self.weights.value(name), signals.get(name))
            if self.planner.pattern is not None:
                grow = growth_scores(self._growth(growth), self.weights, name, signals.get(name), self.generators)
                way = self.planner.layouts.of(name, p.shape)
                drop, come, held = (way.into_rows(whole(p, part)) for part in (scores, grow, mask))
                masks[name] = part_of(p, way.back(exchange_tiles(drop, come, held, share, self.planner.pattern)))
                continue
            count = int(share * self.weights.live_in(name) + 0.5)
            (dropped,) = self.weights.ranking.lowest({name: scores}, count, {name: mask})
            stays = mask & ~dropped
            closed = dropped | self.weights.closed(name)
            masks[name] = stays | self._choose({name: closed}, count, growth, signals)[name]
        flipped = {name: self.weights.mask(name) ^ masks[name] for name in params}
        opened = {name: flipped[name] & masks[name] for name in params}
        if remember or (regrow_init or self.regrow_init) == "last":
            self._remember({name: flipped[name] & ~masks[name] for name in params})
        self._flip(masks, flipped)
        ledger.grown = self._count(opened)
        # Of tiles that change places, one may lie at an edge and be smaller.
        ledger.pruned = self._count(flipped) - ledger.grown
        ledger.injected = self._fill(opened, sum(ledger.before.values()), regrow_init, noise_energy_budget)
        ledger.after = self.weights.energies()
        return ledger

    def _exchange_idle(
        self,
        share: float,
        idle: int,
        signals: Mapping[str, Tensor],
        growth: str | Criterion | None,
        regrow_init: str | None,
        noise_energy_budget: float | None,
    ) -> Ledger:
        if self.counters is None or self.planner.pattern is not None:
            raise ValueError("an exchange of idle weights needs a policy with counting, and no pattern of tiles")
        weights, ledger = self.weights, Ledger(before=self.weights.energies())
        useless = {name: self.counters.idle_for(name, idle) for name in weights.params}
        counts = weights.ranking.counts(useless)
        masks, changed, opened = {}, {}, {}
        for name in weights.params:
            mask, count = weights.mask(name), min(counts[name], int(share * weights.live_in(name) + 0.5))
            (dropped,) = weights.ranking.lowest({name: self.counters.utility(name)}, count, {name: useless[name]})
            found = self._choose({name: dropped | weights.closed(name)}, count, growth, signals)[name]
            masks[name] = (mask & ~dropped) | found
            opened[name], changed[name] = found, dropped | found
        ledger.grown = ledger.pruned = self._count(opened)
        self._flip(masks, changed)
        for name, chosen in opened.items():
            weights.value(name).masked_fill_(chosen, 0)
        budget = self.noise_energy_budget if noise_energy_budget is None else noise_energy_budget
        budget *= ledger.grown / max(1, weights.live)
        ledger.injected = self._fill(opened, sum(ledger.before.values()), regrow_init, budget)
        ledger.after = weights.energies()
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
            allocation=self.planner.allocation,
            pattern=self.planner.pattern,
            layouts=self.planner.layouts,
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
            self.weights.shards,
            regrow_init=one_of("regrow_init", regrow_init or self.regrow_init, REGROW_INIT),
            live_energy=live_energy,
            noise_energy_budget=self.noise_energy_budget if noise_energy_budget is None else noise_energy_budget,
            generators=self.generators,
            last=self._last,
            noise_std=noise_std,
        )

    def _flip(self, masks: Mapping[str, Tensor], flipped: Mapping[str, Tensor]) -> None:
        for name in self.weights.params:
            self._forget(name, flipped[name], masks[name])
            if self.ramp is not None:
                self.ramp.flip(name, flipped[name] & masks[name], masks[name])
            if self.counters is not None:
                self.counters.restart(name, flipped[name])
        self.weights.set(masks, self.weights.ranking.counts(masks))

    def _forget(self, name: str, flipped: Tensor, live: Tensor) -> None:
        shards, p = self.weights.shards, self.weights.params[name]
        forget(self._owner(name), p, flipped, live, self.optimizer_state, shards=shards)

    def _count(self, masks: Mapping[str, Tensor]) -> int:
        return sum(self.weights.ranking.counts(masks).values())

    @torch.no_grad()
    def restore_zeros(self) -> None:
        """Put closed weights and their moments back to zero where a non-finite gradient reached them (inf · 0)."""
        for name in self.weights.params:
            if self.weights.held(name) is not None:
                live = self.weights.mask(name)
                self.weights.value(name).masked_fill_(~live, 0)
                self._forget(name, ~live, live)

    def state_dict(self) -> dict[str, Any]:
        """Remembered values, where there are any, and which parameters were said to be at their minimum."""
        params = self.weights.params
        last = {name: whole(params[name], value).clone() for name, value in self._last.items()}
        ramp = {} if self.ramp is None else {"ramp": self.ramp.state_dict()}
        counters = {} if self.counters is None else {"counters": self.counters.state_dict()}
        return {"last": last, "starved": list(self.planner.starved), **ramp, **counters}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore them."""
        self.planner.starved = list(state.get("starved", ()))
        params = self.weights.params
        self._last = {
            name: part_of(params[name], value).to(params[name].device, copy=True)
            for name, value in state["last"].items()
        }
        if self.ramp is not None and "ramp" in state:
            self.ramp.load_state_dict(state["ramp"])
        if self.counters is not None and "counters" in state:
            self.counters.load_state_dict(state["counters"])
