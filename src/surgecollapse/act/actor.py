"""Carries out the actions of a decision in their order, each one logged with its energy."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from torch import Tensor, nn

from surgecollapse.act.collapse import zero_lowest
from surgecollapse.act.depth import deepest
from surgecollapse.act.input_noise import InputNoise
from surgecollapse.act.ledger import Ledger
from surgecollapse.act.mask_writer import MaskWriter
from surgecollapse.act.prunable import named_weights
from surgecollapse.act.recycle import Recycler
from surgecollapse.act.shadow_weights import ShadowWeights
from surgecollapse.act.surge import refill_zeros
from surgecollapse.errors import warn_user
from surgecollapse.events import (
    Action,
    Aim,
    Decision,
    Exchange,
    Freeze,
    Intervention,
    Prune,
    Recycle,
    Regrow,
    SetNoise,
    Threshold,
    Warn,
)
from surgecollapse.protocols import UnitConnection

logger = logging.getLogger(__name__)


class NetView(Protocol):
    """What an actor sees of the net, with the weights as they are at that moment."""

    def measure(self, name: str) -> float:
        """One measure on the probe batch, which a floor may bound."""
        ...

    def activation_energy(self) -> dict[str, float]:
        """Mean squared activation of every site on the probe batch."""
        ...

    def unit_connections(self, weights: Sequence[str]) -> tuple[list[UnitConnection], dict[str, str]]:
        """Where the units of these weights go, and why there is nothing for the others."""
        ...


class Actor:
    """Turns a :class:`~surgecollapse.events.Decision` into changed weights and a list of interventions.

    Args:
        model: the unwrapped model.
        writer: opens and closes weights.
        recycler: starts dormant units afresh.
        noise: the input noise.
        net: measures the net, before and after each act on its weights.
        overrides: ``growth``, ``regrow_init`` and ``noise_energy_budget`` where the user's choice comes before the
            action's.
    """

    def __init__(
        self,
        model: nn.Module,
        writer: MaskWriter,
        recycler: Recycler,
        noise: InputNoise,
        net: NetView,
        overrides: Mapping[str, Any],
    ) -> None:
        self._model, self.writer, self.recycler, self.noise = model, writer, recycler, noise
        self.planner = writer.planner
        self.net, self._overrides = net, overrides
        self.shadow = ShadowWeights(writer)
        self.frozen = False
        self.target = 1.0
        """Sparsity beyond which pruned values are remembered: at the end, so many must be open again."""
        self._done: list[Intervention] = []
        self._activations: dict[str, float] = {}

    def carry_out(self, decision: Decision, step: int, signals: Mapping[str, Tensor]) -> list[Intervention]:
        """Do what the decision says, in its order.

        Raises:
            ValueError: if it asks for something impossible (an unknown criterion, allocation …).
        """
        self._done, self._step, self._signals, self._decision = [], step, signals, decision
        self._closed: Mapping[str, Tensor] = {}
        if not all(isinstance(action, SetNoise | Threshold | Aim | Warn | Freeze) for action in decision.actions):
            self._activations = self.net.activation_energy()
        for action in decision.actions:
            self._do(action)
        return self._done

    def _do(self, action: Action) -> None:
        if isinstance(action, Exchange | Regrow | Recycle) or (isinstance(action, Prune) and action.keep_mask):
            self._end_shadow(action)
        match action:
            case Prune():
                self._prune(action)
            case Threshold():
                self._threshold(action)
            case Exchange():
                self._exchange(action)
            case Regrow():
                self._regrow(action)
            case Recycle():
                self._recycle(action)
            case SetNoise():
                if action.std != self.noise.std:
                    self.noise.set(action.std)
                    self.log("pump", noise_std=action.std)
            case Freeze():
                if not self.frozen:
                    self.frozen = True
                    self.shadow.end()
                    if self.writer.weights.sparsity <= self.target:  # else some are still to be opened at the end
                        self.writer.forget_values()
                    self.log("freeze")

    def _prune(self, action: Prune) -> None:
        least, most = action.range
        before, weights = self.writer.weights.sparsity, self.writer.weights
        if not action.keep_mask:
            ledger = zero_lowest(self._scope(action.scope), least, weights.shards)
            self.log("collapse", ledger, before, depth=least)
            return
        least, most = self.planner.reachable(least), self.planner.reachable(most)
        layers = action.layers
        missing = self.planner.wanted(least, layers) - (weights.only(layers) if layers else weights).live
        if missing > 0:  # sparser than the target already: regrow exactly what is missing
            regrow, known = Regrow(1.0, regrow_init="last"), self._remembered(layers)
            valued = min(missing, self._count(known))
            self._reopen(valued, known, layers, regrow)
            self._reopen(missing - valued, None, layers, regrow)
            return
        searched = least < most and action.floor is not None
        details = self._find_depth(action, least, most) if searched else {"depth": most}
        beyond = details["depth"] > self.target and not layers
        remember = action.keep_values or beyond or self._overrides.get("regrow_init") == "last"
        masks = self.planner.plan(details["depth"], self._signals, action.allocation, action.saliency, layers)
        ledger, self._closed = self.writer.collapse(masks, remember=remember)
        self.planner.check_collapsed(details["depth"], layers)
        self.log("collapse", ledger, before, **details)
        self._note_starved(action)

    def _threshold(self, action: Threshold) -> None:
        """Go on with the soft threshold, and log what it did since the last reading."""
        active = self.shadow.active
        before, closed, opened, reason = self.shadow.aim(action, self._decision.reason)
        if not active or not (closed or opened):
            return
        after = self.writer.weights.sparsity
        kind = "exchange" if after == before else "collapse" if after > before else "surge"
        now = self.writer.weights.energies()
        self.log(kind, Ledger(before=now, after=now), before, p=action.p, theta=action.theta)
        self._done[-1] = replace(self._done[-1], reason=reason, pruned=closed, grown=opened)
        self._note_starved(action)

    def _end_shadow(self, action: Action) -> None:
        """Make the mask an ordinary one before something else writes to it."""
        if not self.shadow.active:
            return
        pruned = isinstance(action, Prune) and not action.layers
        self.shadow.end(action.range[0] if pruned and isinstance(action, Prune) else None)
        if not self._decision.find(Freeze):
            self.log("release")

    def _note_starved(self, action: Prune | Threshold) -> None:
        """Record, and warn once, where a global threshold holds parameters at their minimum density."""
        first = not self.planner.starved
        starved = self.planner.newly_starved(action.allocation)
        if not starved:
            return
        weights, least = self.writer.weights, self.planner.min_density
        self.log(
            "starved",
            parameters={name: weights.live_in(name) for name in starved},
            min_density=least,
        )
        reason = f"held at their minimum density ({least:.2%}) by the global threshold: {', '.join(starved)}"
        self._done[-1] = replace(self._done[-1], reason=reason)
        if first:
            warn_user(
                f"pruning to {weights.sparsity:.1%} by one global threshold leaves some parameters no more than their "
                f"minimum density of {least:.2%}: {', '.join(starved)}. Consider a higher min_density, "
                "allocation='erk' or 'layer', or exclude=…"
            )

    def _find_depth(self, action: Prune, least: float, most: float) -> dict[str, Any]:
        """Search the greatest sparsity at which the measure on the probe batch stays over the action's floor.

        Never deeper than the minimum density of every parameter allows.
        """
        assert action.floor is not None
        most = max(least, min(most, 1.0 - sum(self.planner.minima().values()) / self.planner.weights.size))

        def measure(sparsity: float) -> float:
            masks = self.planner.plan(sparsity, self._signals, action.allocation, action.saliency)
            with self.writer.trial(masks):
                return self.net.measure(action.measure)

        found = deepest(measure, least, most, action.floor)
        return {
            "depth": found.sparsity,
            "measured": found.measured,
            "tries": found.tries,
            "floor": action.floor,
            "measure": action.measure,
            "least": least,
            "most": most,
        }

    def _exchange(self, action: Exchange) -> None:
        before = self.writer.weights.sparsity
        ledger = self.writer.exchange(
            action.fraction,
            signals=self._signals,
            saliency=action.saliency,
            remember=before > self.target,
            idle=action.idle,
            **self._choice(action),
        )
        self.log("exchange", ledger, before, fraction=action.fraction, energy_fraction=ledger.energy_fraction)

    def _recycle(self, action: Recycle) -> None:
        connections, lost = self.net.unit_connections(list(self.writer.weights.params))
        ledger, details = self.recycler.recycle(named_weights(self._model), connections, action.dormancy)
        details["left"] = {**lost, **details["left"]}
        self.log("recycle", ledger, dormancy=action.dormancy, **details)

    def _choice(self, action: Exchange | Regrow | None) -> dict[str, Any]:
        """How weights are regrown: the user's choice comes before the action's."""
        names = ("growth", "regrow_init", "noise_energy_budget")
        choice = {} if action is None else {name: getattr(action, name) for name in names}
        return choice | {key: value for key, value in self._overrides.items() if value is not None}

    def _regrow(self, action: Regrow) -> None:
        weights = self.writer.weights
        if action.source == "zeros":
            noise_std = action.noise_std or 0.0
            ledger = refill_zeros(self._scope(action.scope), noise_std, self.writer.generators, weights)
            self.log("surge", ledger, noise_std=noise_std)
            return
        closed: Mapping[str, Tensor] | None = None
        if action.source == "collapsed":
            # Some of them an exchange may have regrown since.
            closed = {name: chosen & ~weights.mask(name) for name, chosen in self._closed.items()}
            available = self._count(closed)
        else:
            chosen = weights.only(action.layers)
            available = chosen.size - chosen.live - chosen.fixed
        self._reopen(int(action.fraction * available + 0.5), closed, action.layers, action)

    def _reopen(
        self, count: int, closed: Mapping[str, Tensor] | None, layers: Sequence[str], action: Regrow | None = None
    ) -> None:
        if not count:
            return
        weights = self.writer.weights
        before = weights.sparsity
        if closed is None:
            chosen = weights.only(layers).params
            closed = {name: weights.closed(name) & (name in chosen) for name in weights.params}
        count = min(count, self._count(closed))  # zeros that are kept cannot be opened
        if not count:
            return
        std = None if action is None else action.noise_std
        ledger = self.writer.surge(closed, count, signals=self._signals, noise_std=std, **self._choice(action))
        if ledger.changed:  # fewer weights than half a tile reopen none
            self.log("surge", ledger, before, energy_fraction=ledger.energy_fraction)

    def _count(self, masks: Mapping[str, Tensor]) -> int:
        return sum(self.writer.weights.ranking.counts(masks).values())

    def _remembered(self, layers: Sequence[str]) -> dict[str, Tensor]:
        """The closed weights whose last value is known."""
        weights = self.writer.weights
        chosen = weights.only(layers).params
        return {
            name: weights.closed(name) & (name in chosen) & (self.writer.last_value(name) != 0)
            for name in weights.params
        }

    def _scope(self, scope: str) -> Mapping[str, nn.Parameter]:
        if scope == "prunable":
            return self.writer.weights.params
        return {n: p for n, p in named_weights(self._model).items() if p.is_floating_point() and p.requires_grad}

    def log(
        self,
        kind: str,
        ledger: Ledger | None = None,
        sparsity_before: float | None = None,
        **details: Any,
    ) -> None:
        """Add one intervention to those of this decision."""
        weights, ledger = self.writer.weights, ledger or Ledger({})
        if ledger.changed:
            before, self._activations = self._activations, self.net.activation_energy()
            # A net that routes its inputs may have run other layers before.
            details["activation_energy"] = {
                site: [before[site], after] for site, after in self._activations.items() if site in before
            }
        sizes = {name: p.numel() for name, p in named_weights(self._model).items()}
        live = {n: weights.live_in(n) if n in weights.params else sizes[n] for n in ledger.before}
        event = Intervention(
            step=self._step,
            kind=kind,
            phase=self._decision.phase,
            reason=self._decision.reason,
            sparsity_before=weights.sparsity if sparsity_before is None else sparsity_before,
            sparsity_after=weights.sparsity,
            pruned=ledger.pruned,
            grown=ledger.grown,
            energy_before=sum(ledger.before.values()),
            energy_after=sum(ledger.after.values()),
            energy_injected=sum(ledger.injected.values()),
            layers=ledger.layers(sizes, live),
            details=details,
        )
        logger.info("step %d: %s: %s", event.step, kind, event.reason)
        self._done.append(event)
