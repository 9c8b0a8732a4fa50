"""Recycling: dormant units get new weights, while the output of the network stays the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from surgecollapse.act.ledger import Ledger, energies
from surgecollapse.act.masked_weights import MaskedWeights
from surgecollapse.act.optimizer_state import forget
from surgecollapse.act.randomness import Generators
from surgecollapse.act.weight_counters import WeightCounters
from surgecollapse.protocols import UnitConnection


class Recycler:
    """Gives dormant units new incoming weights and zeros as outgoing ones (ReDo).

    Sokar, Agarwal, Castro, Evci 2023 (arXiv 2302.12902, algorithm 1). Incoming weights of every unit of a dormancy of
    at most τ are drawn anew. Outgoing ones are set to zero, the bias too (as in the published code). The optimizer's
    moments of all three are reset. A unit whose activation was always zero changes no output by it: its outgoing
    weights are zero afterwards.

    Deviations: new weights are N(0, σ²) with σ the root mean square that the weight had when the library was attached,
    whatever its initializer. The published code draws Xavier-uniform. Under a mask closed weights stay closed, and a
    unit all of whose incoming weights are closed is left as it is.

    Args:
        weights: the prunable weights; their units are recycled.
        owner: gives the optimizer that steps a parameter, ``None`` if none does.
        generators: for the new weights.
        optimizer_state: ``reset | keep | warmup | ramp``, of which the last is ``reset`` here.
        counters: of each weight, which begin anew with it; ``None`` without any.
    """

    def __init__(
        self,
        weights: MaskedWeights,
        owner: Callable[[Tensor], Optimizer | None],
        generators: Generators,
        optimizer_state: str,
        *,
        counters: WeightCounters | None = None,
    ) -> None:
        self._weights, self._owner, self._generators = weights, owner, generators
        self._optimizer_state, self._counters = optimizer_state, counters
        self.scales: dict[str, float] = {}
        """Root mean square of each weight at first."""
        self.measure_scales()

    def measure_scales(self) -> None:
        """Take the scale of every weight that has none yet."""
        new = {name: p for name, p in self._weights.params.items() if name not in self.scales}
        found = energies(new, self._weights.shards)
        self.scales |= {name: (energy / new[name].numel()) ** 0.5 for name, energy in found.items()}

    @torch.no_grad()
    def recycle(
        self, params: Mapping[str, nn.Parameter], connections: Sequence[UnitConnection], dormancy: float
    ) -> tuple[Ledger, dict[str, Any]]:
        """Recycle the dormant units of these connections.

        Args:
            params: every parameter by canonical name.
            connections: where the units go, and their dormancy.
            dormancy: greatest dormancy that is recycled.

        Returns:
            The ledger, and details: ``units``, the number recycled by weight, and ``left``, why others were passed by.
        """
        if self._weights.shards.sharded:
            raise ValueError(
                "recycling rewrites all weights of a unit, which lie on several processes here: choose another policy "
                "than redo, or train with DistributedDataParallel"
            )
        steered, left = [], {}
        for connection in connections:
            still = [
                n for n in _weights_of(connection) if not params[n].requires_grad or self._owner(params[n]) is None
            ]
            if still:
                left[connection.incoming] = f"has units of {still[0]}, which is not trained"
            else:
                steered.append(connection)
        dormant = [self._dormant(connection, dormancy) for connection in steered]
        counts: list[int] = torch.stack([d.count_nonzero() for d in dormant]).tolist() if dormant else []
        found = [(p, d) for p, d, count in zip(steered, dormant, counts, strict=True) if count]
        changed = {name: params[name] for connection, _ in found for name in _weights_of(connection)}
        ledger = Ledger(before=energies(changed), recycled=sum(counts))
        # A weight may be the way out of one layer's units and the way in of the next's: zeros are written last.
        drawn = {connection.incoming: self._renew(params, connection, units) for connection, units in found}
        ledger.injected = energies(drawn)
        for connection, units in found:
            self._silence(params[connection.outgoing], connection, units)
        self._weights.apply()
        ledger.after = energies(changed)
        units_by_name = {connection.incoming: count for connection, count in zip(steered, counts, strict=True)}
        return ledger, {"units": units_by_name, "left": left}

    def _dormant(self, connection: UnitConnection, dormancy: float) -> Tensor:
        is_open = self._weights.mask(connection.incoming).flatten(1).any(1)
        return (connection.scores.to(is_open.device) <= dormancy) & is_open

    def _renew(self, params: Mapping[str, nn.Parameter], connection: UnitConnection, units: Tensor) -> Tensor:
        """Draw the incoming weights of these units; the bias starts at zero."""
        weight = params[connection.incoming]
        rows = units.nonzero().squeeze(1)
        mask = self._weights.mask(connection.incoming)
        noise = torch.randn(
            (len(rows), *weight.shape[1:]), device=weight.device, generator=self._generators.on(weight.device)
        )
        values = (noise * self.scales[connection.incoming]).to(weight.dtype) * mask[rows]
        weight[rows] = values
        self._forget(weight, _along(units, weight, 0), mask)
        self._count_anew(connection.incoming, _along(units, weight, 0))
        if connection.bias is not None:
            params[connection.bias][rows] = 0
            self._forget(params[connection.bias], units, torch.ones_like(units))
        return values

    def _silence(self, weight: nn.Parameter, connection: UnitConnection, units: Tensor) -> None:
        """Zero the columns that take these units in."""
        chosen = _along(units.repeat_interleave(connection.columns), weight, 1)
        weight.masked_fill_(chosen, 0)
        live = (
            self._weights.mask(connection.outgoing) if connection.outgoing in self._weights.params else ~chosen | chosen
        )
        self._forget(weight, chosen, live)
        self._count_anew(connection.outgoing, chosen)

    def _count_anew(self, name: str, chosen: Tensor) -> None:
        if self._counters is not None:
            self._counters.restart(name, chosen)

    def _forget(self, param: nn.Parameter, chosen: Tensor, live: Tensor) -> None:
        owner = self._owner(param)
        assert owner is not None
        forget(owner, param, chosen & live, live, self._optimizer_state)

    def state_dict(self) -> dict[str, Any]:
        """The first scales: a resumed run cannot measure them again."""
        return {"scales": dict(self.scales)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore them; of a weight that the state does not know, the present scale is taken."""
        known = state.get("scales", {})
        self.scales |= {name: scale for name, scale in known.items() if name in self._weights.params}


def _weights_of(connection: UnitConnection) -> list[str]:
    return [connection.incoming, *([connection.bias] if connection.bias else []), connection.outgoing]


def _along(chosen: Tensor, weight: Tensor, dim: int) -> Tensor:
    """Spread a choice along one dimension over the whole weight."""
    shape = [1] * weight.ndim
    shape[dim] = -1
    return chosen.view(shape).expand(weight.shape)
