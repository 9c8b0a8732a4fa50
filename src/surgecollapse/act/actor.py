"""Carries out decisions: collapse → rewire → surge → recycle → pump → freeze, each one logged with its energy."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from surgecollapse.act.collapse import zero_lowest
from surgecollapse.act.depth import deepest
from surgecollapse.act.input_noise import InputNoise
from surgecollapse.act.ledger import Ledger
from surgecollapse.act.prunable import named_weights
from surgecollapse.act.recycle import Recycler
from surgecollapse.act.rewiring import Rewiring
from surgecollapse.act.surge import refill_zeros
from surgecollapse.events import Decision, Intervention
from surgecollapse.functional.selection import count_true
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
        rewiring: opens and closes weights.
        recycler: starts dormant units afresh.
        noise: the input noise.
        net: measures the net, before and after each act on its weights.
        overrides: ``growth``, ``regrow_init`` and ``noise_energy_budget`` where the user's choice comes before the
            decision's.
    """

    def __init__(
        self,
        model: nn.Module,
        rewiring: Rewiring,
        recycler: Recycler,
        noise: InputNoise,
        net: NetView,
        overrides: Mapping[str, Any],
    ) -> None:
        self._model, self.rewiring, self.recycler, self.noise = model, rewiring, recycler, noise
        self.net, self._overrides = net, overrides
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
            self._activations = self.net.activation_energy()
        closed: dict[str, Tensor] | None = None
        if decision.depth is not None:
            closed = self._collapse(decision)
        if decision.rewire is not None:
            self._exchange(decision)
        if decision.surge is not None:
            self._surge(decision, closed)
        if decision.recycle is not None:
            self._recycle(decision)
        if decision.pump is not None and decision.pump != self.noise.std:
            self.noise.set(decision.pump)
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
        remember = "last" in (decision.initial, self._overrides.get("regrow_init"))
        masks = self.rewiring.plan(details["depth"], self._signals, decision.distribution, decision.saliency, layers)
        ledger, closed = self.rewiring.collapse(masks, remember=remember)
        self.rewiring.check_collapsed(details["depth"], layers)
        self.log("collapse", decision, ledger, before, **details)
        return closed

    def _find_depth(self, decision: Decision, least: float, most: float) -> dict[str, Any]:
        """Search the deepest collapse whose measure on the probe batch stays over the decision's floor.

        Never deeper than the minimum density of every parameter allows.
        """
        assert decision.floor is not None
        rewiring = self.rewiring
        most = max(least, min(most, 1.0 - sum(rewiring.minima().values()) / rewiring.weights.size))

        def measure(sparsity: float) -> float:
            masks = rewiring.plan(sparsity, self._signals, decision.distribution, decision.saliency)
            with rewiring.trial(masks):
                return self.net.measure(decision.measure)

        found = deepest(measure, least, most, decision.floor)
        return {
            "depth": found.sparsity,
            "measured": found.measured,
            "tries": found.tries,
            "floor": decision.floor,
            "measure": decision.measure,
            "least": least,
            "most": most,
        }

    def _exchange(self, decision: Decision) -> None:
        assert decision.rewire is not None
        if not 0.0 <= decision.rewire <= 1.0:
            raise ValueError(f"rewire must be a share of the open weights in [0, 1], got {decision.rewire}")
        before = self.rewiring.weights.sparsity
        ledger = self.rewiring.exchange(
            decision.rewire, signals=self._signals, saliency=decision.saliency, **self._choice(decision)
        )
        self.log("rewire", decision, ledger, before, share=decision.rewire, rho=ledger.rho)

    def _recycle(self, decision: Decision) -> None:
        assert decision.recycle is not None
        if not decision.recycle >= 0.0:
            raise ValueError(f"recycle must be a dormancy of at least 0, got {decision.recycle}")
        connections, lost = self.net.unit_connections(list(self.rewiring.weights.params))
        ledger, details = self.recycler.recycle(named_weights(self._model), connections, decision.recycle)
        details["left"] = {**lost, **details["left"]}
        self.log("recycle", decision, ledger, tau=decision.recycle, **details)

    def _choice(self, decision: Decision) -> dict[str, Any]:
        """How weights are reopened: the user's choice comes before the decision's."""
        choice: dict[str, Any] = {
            "growth": decision.growth,
            "regrow_init": decision.initial,
            "noise_energy_budget": decision.rho,
        }
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
        ledger = self.rewiring.surge(closed, count, signals=self._signals, noise_std=decision.sigma, **choice)
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
