"""Recycling: dormant units start afresh, without a change of what the net computes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from surgecollapse.act.ledger import Ledger, energies
from surgecollapse.act.masked_weights import MaskedWeights
from surgecollapse.act.optimizer_state import check_optimizer_state, forget
from surgecollapse.act.randomness import Generators
from surgecollapse.protocols import UnitConnection


class Recycler:
    """Gives dormant units new incoming weights and closes their way out (ReDo).

    Sokar, Agarwal, Castro, Evci 2023 (arXiv 2302.12902, algorithm 1). For every unit of a dormancy of at most τ:
    incoming weights are drawn anew, outgoing ones set to zero, the bias too (as in the published code), and the
    optimizer forgets its moments of all three. A unit that was silent changes nothing by it, since what it said was
    zero, and what it says now is not heard.

    Deviations: new weights are N(0, σ²) with σ the root mean square that the weight had when the library was attached,
    whatever its initializer; the published code draws Xavier-uniform. Under a mask closed weights stay closed, and a
    unit all of whose incoming weights are closed is left as it is.

    Args:
        weights: the prunable weights; their units are recycled.
        owner: gives the optimizer that steps a parameter, ``None`` if none does.
        generators: for the new weights.
        optimizer_state: ``reset | keep | warmup | ramp``, of which the last is ``reset`` here.
    """

    def __init__(
        self,
        weights: MaskedWeights,
        owner: Callable[[Tensor], Optimizer | None],
        generators: Generators,
        optimizer_state: str,
    ) -> None:
        self._weights, self._owner, self._generators = weights, owner, generators
        self._optimizer_state = check_optimizer_state(optimizer_state)
        self.scales: dict[str, float] = {}
        """Root mean square of each weight at first."""
        self.measure_scales()

    def measure_scales(self) -> None:
        """Take the scale of every weight that has none yet."""
        new = {name: p for name, p in self._weights.params.items() if name not in self.scales}
        self.scales |= {name: (energy / new[name].numel()) ** 0.5 for name, energy in energies(new).items()}

    @torch.no_grad()
    def recycle(
        self, params: Mapping[str, nn.Parameter], passages: Sequence[UnitConnection], tau: float
    ) -> tuple[Ledger, dict[str, Any]]:
        """Recycle the dormant units of these passages.

        Args:
            params: every parameter by canonical name.
            passages: where the units go, and their dormancy.
            tau: greatest dormancy that is recycled.

        Returns:
            The ledger, and details: ``units``, the number recycled by weight, and ``left``, why others were passed by.
        """
        steered, left = [], {}
        for passage in passages:
            still = [n for n in _touched(passage) if not params[n].requires_grad or self._owner(params[n]) is None]
            if still:
                left[passage.incoming] = f"has units of {still[0]}, which is not trained"
            else:
                steered.append(passage)
        dormant = [self._dormant(passage, tau) for passage in steered]
        counts: list[int] = torch.stack([d.count_nonzero() for d in dormant]).tolist() if dormant else []
        found = [(p, d) for p, d, count in zip(steered, dormant, counts, strict=True) if count]
        touched = {name: params[name] for passage, _ in found for name in _touched(passage)}
        ledger = Ledger(before=energies(touched), recycled=sum(counts))
        # A weight may be the way out of one layer's units and the way in of the next's: zeros are written last.
        drawn = {passage.incoming: self._renew(params, passage, units) for passage, units in found}
        ledger.injected = energies(drawn)
        for passage, units in found:
            self._silence(params[passage.outgoing], passage, units)
        self._weights.apply()
        ledger.after = energies(touched)
        units_by_name = {passage.incoming: count for passage, count in zip(steered, counts, strict=True)}
        return ledger, {"units": units_by_name, "left": left}

    def _dormant(self, passage: UnitConnection, tau: float) -> Tensor:
        is_open = self._weights.mask(passage.incoming).flatten(1).any(1)
        return (passage.scores.to(is_open.device) <= tau) & is_open

    def _renew(self, params: Mapping[str, nn.Parameter], passage: UnitConnection, units: Tensor) -> Tensor:
        """Draw the incoming weights of these units; the bias starts at zero."""
        weight = params[passage.incoming]
        rows = units.nonzero().squeeze(1)
        mask = self._weights.mask(passage.incoming)
        noise = torch.randn(
            (len(rows), *weight.shape[1:]), device=weight.device, generator=self._generators.on(weight.device)
        )
        values = (noise * self.scales[passage.incoming]).to(weight.dtype) * mask[rows]
        weight[rows] = values
        self._forget(weight, _along(units, weight, 0), mask)
        if passage.bias is not None:
            params[passage.bias][rows] = 0
            self._forget(params[passage.bias], units, torch.ones_like(units))
        return values

    def _silence(self, weight: nn.Parameter, passage: UnitConnection, units: Tensor) -> None:
        """Zero the columns that take these units in."""
        chosen = _along(units.repeat_interleave(passage.columns), weight, 1)
        weight.masked_fill_(chosen, 0)
        live = self._weights.mask(passage.outgoing) if passage.outgoing in self._weights.params else ~chosen | chosen
        self._forget(weight, chosen, live)

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


def _touched(passage: UnitConnection) -> list[str]:
    return [passage.incoming, *([passage.bias] if passage.bias else []), passage.outgoing]


def _along(chosen: Tensor, weight: Tensor, dim: int) -> Tensor:
    """Spread a choice along one dimension over the whole weight."""
    shape = [1] * weight.ndim
    shape[dim] = -1
    return chosen.view(shape).expand(weight.shape)
