"""Carries out the actions of a decision in their order, each one logged with its energy."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from surgecollapse.act.collapse import zero_lowest
from surgecollapse.act.input_noise import InputNoise
from surgecollapse.act.ledger import Ledger
from surgecollapse.act.prunable import named_weights
from surgecollapse.act.rewiring import Rewiring
from surgecollapse.act.surge import refill_zeros
from surgecollapse.events import (
    Action,
    Decision,
    Exchange,
    Freeze,
    Intervention,
    Prune,
    Recycle,
    Regrow,
    SetNoise,
)
from surgecollapse.functional.selection import count_true

logger = logging.getLogger(__name__)

ActivationEnergy = Callable[[], dict[str, float]]
"""Mean squared activation of every site on the probe batch, with the weights as they are now."""
FindDepth = Callable[[Prune, float, float], dict[str, Any]]
"""Searches the depth of a collapse: (action, least, most) → details, ``depth`` among them."""

Renew = Callable[[float], tuple[Ledger, dict[str, Any]]]
"""Recycles units of at most a dormancy: τ → ledger, details."""


class Actor:
    """Turns a :class:`~surgecollapse.events.Decision` into changed weights and a list of interventions.

    Args:
        model: the unwrapped model.
        rewiring: opens and closes weights.
        pump: the input noise.
        find_depth: searches the depth where an action bounds it by a floor.
        activation_energy: measures the net before and after each act on its weights.
        renew: recycles dormant units.
        overrides: ``growth``, ``initial`` and ``rho`` where the user's choice comes before the action's.
    """

    def __init__(
        self,
        model: nn.Module,
        rewiring: Rewiring,
        pump: InputNoise,
        find_depth: FindDepth,
        activation_energy: ActivationEnergy,
        renew: Renew,
        overrides: Mapping[str, Any],
    ) -> None:
        self._model, self.rewiring, self.pump, self._find_depth = model, rewiring, pump, find_depth
        self._activation_energy, self._overrides = activation_energy, overrides
        self._renew = renew
        self.frozen = False
        self._done: list[Intervention] = []
        self._activations: dict[str, float] = {}

    def carry_out(self, decision: Decision, step: int, signals: Mapping[str, Tensor]) -> list[Intervention]:
        """Do what the decision says, in its order.

        Raises:
            ValueError: if it asks for something impossible (an unknown criterion, allocation …).
        """
        self._done, self._step, self._signals, self._decision = [], step, signals, decision
        self._closed: Mapping[str, Tensor] = {}
        if not all(isinstance(action, SetNoise | Freeze) for action in decision.actions):
            self._activations = self._activation_energy()
        for action in decision.actions:
            self._do(action)
        return self._done

    def _do(self, action: Action) -> None:
        match action:
            case Prune():
                self._prune(action)
            case Exchange():
                self._exchange(action)
            case Regrow():
                self._regrow(action)
            case Recycle():
                ledger, details = self._renew(action.dormancy)
                self.log("recycle", ledger, tau=action.dormancy, **details)
            case SetNoise():
                if action.std != self.pump.sigma:
                    self.pump.set(action.std)
                    self.log("pump", sigma=action.std)
            case Freeze():
                if not self.frozen:
                    self.frozen = True
                    self.log("freeze")

    def _prune(self, action: Prune) -> None:
        least, most = action.range
        before, weights = self.rewiring.weights.sparsity, self.rewiring.weights
        if not action.keep_mask:
            ledger = zero_lowest(self._scope(action.scope), least)
            self.log("collapse", ledger, before, depth=least)
            return
        least, most = self.rewiring.reachable(least), self.rewiring.reachable(most)
        layers = action.layers
        missing = self.rewiring.wanted(least, layers) - (weights.only(layers) if layers else weights).live
        if missing > 0:  # sparser than the target already: regrow exactly what is missing
            self._reopen(missing, None, layers)
            return
        searched = least < most and action.floor is not None
        details = self._find_depth(action, least, most) if searched else {"depth": most}
        remember = action.keep_values or self._overrides.get("initial") == "last"
        masks = self.rewiring.plan(details["depth"], self._signals, action.allocation, action.saliency, layers)
        ledger, self._closed = self.rewiring.collapse(masks, remember=remember)
        self.rewiring.check_collapsed(details["depth"], layers)
        self.log("collapse", ledger, before, **details)

    def _exchange(self, action: Exchange) -> None:
        before = self.rewiring.weights.sparsity
        ledger = self.rewiring.exchange(
            action.fraction, signals=self._signals, saliency=action.saliency, **self._choice(action)
        )
        self.log("exchange", ledger, before, share=action.fraction, rho=ledger.rho)

    def _choice(self, action: Exchange | Regrow | None) -> dict[str, Any]:
        """How weights are regrown: the user's choice comes before the action's."""
        choice: dict[str, Any] = {}
        if action is not None:
            choice = {"growth": action.growth, "initial": action.regrow_init, "rho": action.noise_energy_budget}
        return choice | {key: value for key, value in self._overrides.items() if value is not None}

    def _regrow(self, action: Regrow) -> None:
        weights = self.rewiring.weights
        if action.source == "zeros":
            sigma = action.noise_std or 0.0
            ledger = refill_zeros(self._scope(action.scope), sigma, self.rewiring.generators, weights)
            self.log("surge", ledger, sigma=sigma)
            return
        closed: Mapping[str, Tensor] | None = None
        if action.source == "collapsed":
            # Some of them an exchange may have regrown since.
            closed = {name: chosen & ~weights.mask(name) for name, chosen in self._closed.items()}
            available = sum(count_true(list(closed.values())))
        else:
            chosen = weights.only(action.layers)
            available = chosen.size - chosen.live
        self._reopen(int(action.fraction * available + 0.5), closed, action.layers, action)

    def _reopen(
        self,
        count: int,
        closed: Mapping[str, Tensor] | None,
        layers: Sequence[str],
        action: Regrow | None = None,
    ) -> None:
        if not count:
            return
        weights = self.rewiring.weights
        before = weights.sparsity
        if closed is None:
            chosen = weights.only(layers).params
            closed = {name: ~weights.mask(name) & (name in chosen) for name in weights.params}
        sigma = None if action is None else action.noise_std
        ledger = self.rewiring.surge(closed, count, signals=self._signals, sigma=sigma, **self._choice(action))
        if ledger.changed:  # fewer weights than half a tile reopen none
            self.log("surge", ledger, before, rho=ledger.rho)

    def _scope(self, scope: str) -> Mapping[str, nn.Parameter]:
        if scope == "prunable":
            return self.rewiring.weights.params
        return {n: p for n, p in named_weights(self._model).items() if p.is_floating_point() and p.requires_grad}

    def log(
        self,
        kind: str,
        ledger: Ledger | None = None,
        sparsity_before: float | None = None,
        **details: Any,
    ) -> None:
        """Add one intervention to those of this decision."""
        weights, ledger = self.rewiring.weights, ledger or Ledger({})
        if ledger.changed:
            before, self._activations = self._activations, self._activation_energy()
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
