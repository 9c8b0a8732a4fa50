"""Carries out decisions: collapse → rewire → surge → recycle → pump → freeze, each one logged with its energy."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from surgecollapse.act.collapse import zero_lowest
from surgecollapse.act.input_noise import InputNoise
from surgecollapse.act.ledger import Ledger
from surgecollapse.act.prunable import named_weights
from surgecollapse.act.rewiring import Rewiring
from surgecollapse.act.surge import refill_zeros
from surgecollapse.events import Decision, Intervention
from surgecollapse.functional.selection import count_true

logger = logging.getLogger(__name__)

ActivationEnergy = Callable[[], dict[str, float]]
"""Mean squared activation of every site on the probe batch, with the weights as they are now."""
FindDepth = Callable[[Decision, float, float], dict[str, Any]]
"""Searches the depth of a collapse: (decision, least, most) → details, ``depth`` among them."""

Renew = Callable[[float], tuple[Ledger, dict[str, Any]]]
"""Recycles units of at most a dormancy: τ → ledger, details."""


class Actor:
    """Turns a :class:`~surgecollapse.events.Decision` into changed weights and a list of interventions.

    Args:
        model: the unwrapped model.
        rewiring: opens and closes weights.
        pump: the input noise.
        find_depth: searches the depth where a decision bounds it by a floor.
        activation_energy: measures the net before and after each act on its weights.
        renew: recycles dormant units.
        overrides: ``growth``, ``initial`` and ``rho`` where the user's choice comes before the decision's.
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
        """Do what the decision says.

        Raises:
            ValueError: if it asks for something impossible (a depth outside [0, 1), an unknown criterion …).
        """
        self._done, self._step, self._signals = [], step, signals
        if any(part is not None for part in (decision.depth, decision.rewire, decision.surge, decision.recycle)):
            self._activations = self._activation_energy()
        closed: dict[str, Tensor] | None = None
        if decision.depth is not None:
            closed = self._collapse(decision)
        if decision.rewire is not None:
            self._rewire(decision)
        if decision.surge is not None:
            self._surge(decision, closed)
        if decision.recycle is not None:
            self._recycle(decision)
        if decision.pump is not None and decision.pump != self.pump.sigma:
            self.pump.set(decision.pump)
            self.log("pump", decision, sigma=decision.pump)
        if decision.freeze and not self.frozen:
            self.frozen = True
            self.log("freeze", decision)
        return self._done

    def _collapse(self, decision: Decision) -> dict[str, Tensor]:
        least, most = decision.depth if isinstance(decision.depth, tuple) else (decision.depth, decision.depth)
        if least is None or most is None or not 0.0 <= least <= most < 1.0:
            raise ValueError(f"depth must be a sparsity in [0, 1), or (least, most) of two, got {decision.depth}")
        before, weights = self.rewiring.weights.sparsity, self.rewiring.weights
        if not decision.held:
            ledger = zero_lowest(self._scope(decision.scope), least)
            self.log("collapse", decision, ledger, before, depth=least)
            return {}
        least, most = self.rewiring.reachable(least), self.rewiring.reachable(most)
        layers = decision.layers
        missing = self.rewiring.wanted(least, layers) - (weights.only(layers) if layers else weights).live
        if missing > 0:  # sparser than the target already: reopen exactly what is missing
            self._reopen(decision, missing, None)
            return {}
        searched = least < most and decision.floor is not None
        details = self._find_depth(decision, least, most) if searched else {"depth": most}
        remember = "last" in (decision.initial, self._overrides.get("initial"))
        masks = self.rewiring.plan(details["depth"], self._signals, decision.distribution, decision.saliency, layers)
        ledger, closed = self.rewiring.collapse(masks, remember=remember)
        self.rewiring.check_collapsed(details["depth"], layers)
        self.log("collapse", decision, ledger, before, **details)
        return closed

    def _rewire(self, decision: Decision) -> None:
        assert decision.rewire is not None
        if not 0.0 <= decision.rewire <= 1.0:
            raise ValueError(f"rewire must be a share of the open weights in [0, 1], got {decision.rewire}")
        before = self.rewiring.weights.sparsity
        ledger = self.rewiring.rewire(
            decision.rewire, signals=self._signals, saliency=decision.saliency, **self._choice(decision)
        )
        self.log("rewire", decision, ledger, before, share=decision.rewire, rho=ledger.rho)

    def _recycle(self, decision: Decision) -> None:
        assert decision.recycle is not None
        if not decision.recycle >= 0.0:
            raise ValueError(f"recycle must be a dormancy of at least 0, got {decision.recycle}")
        ledger, details = self._renew(decision.recycle)
        self.log("recycle", decision, ledger, tau=decision.recycle, **details)

    def _choice(self, decision: Decision) -> dict[str, Any]:
        """How weights are reopened: the user's choice comes before the decision's."""
        choice: dict[str, Any] = {"growth": decision.growth, "initial": decision.initial, "rho": decision.rho}
        return choice | {key: value for key, value in self._overrides.items() if value is not None}

    def _surge(self, decision: Decision, closed: Mapping[str, Tensor] | None) -> None:
        assert decision.surge is not None
        weights = self.rewiring.weights
        if decision.reopen == "zeros":
            sigma = decision.sigma or 0.0
            ledger = refill_zeros(self._scope(decision.scope), sigma, self.rewiring.generators, weights)
            self.log("surge", decision, ledger, sigma=sigma)
            return
        if decision.reopen == "collapsed":
            # Some of them an exchange may have reopened since.
            closed = {name: chosen & ~weights.mask(name) for name, chosen in (closed or {}).items()}
            available = sum(count_true(list(closed.values())))
        else:
            chosen = weights.only(decision.layers)
            closed, available = None, chosen.size - chosen.live
        self._reopen(decision, int(decision.surge * available + 0.5), closed)

    def _reopen(self, decision: Decision, count: int, closed: Mapping[str, Tensor] | None) -> None:
        if not count:
            return
        weights = self.rewiring.weights
        before = weights.sparsity
        if closed is None:
            chosen = weights.only(decision.layers).params
            closed = {name: ~weights.mask(name) & (name in chosen) for name in weights.params}
        choice = self._choice(decision)
        ledger = self.rewiring.surge(closed, count, signals=self._signals, sigma=decision.sigma, **choice)
        if ledger.changed:  # fewer weights than half a tile reopen none
            self.log("surge", decision, ledger, before, rho=ledger.rho)

    def _scope(self, scope: str) -> Mapping[str, nn.Parameter]:
        if scope == "prunable":
            return self.rewiring.weights.params
        return {n: p for n, p in named_weights(self._model).items() if p.is_floating_point() and p.requires_grad}

    def log(
        self,
        kind: str,
        decision: Decision,
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
            phase=decision.phase,
            reason=decision.reason,
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
