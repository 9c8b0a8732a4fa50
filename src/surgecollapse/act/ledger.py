"""The energy ledger: what an act did to ‖W‖² of each parameter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from surgecollapse.events import LayerChange
from surgecollapse.functional import weight_energy


@torch.no_grad()
def energies(params: Mapping[str, Tensor]) -> dict[str, float]:
    """Squared Euclidean norm of each parameter, with one host sync."""
    if not params:
        return {}
    squares = [weight_energy(p) for p in params.values()]
    values = torch.stack([s.to(squares[0].device, torch.float64) for s in squares]).tolist()
    return dict(zip(params, values, strict=True))


@dataclass
class Ledger:
    """Counts and energies of one act, parameter by parameter."""

    before: dict[str, float]
    after: dict[str, float] = field(default_factory=dict)
    injected: dict[str, float] = field(default_factory=dict)
    """Energy that was put in as noise or restored values."""
    pruned: int = 0
    grown: int = 0
    recycled: int = 0
    """Units."""

    @property
    def changed(self) -> bool:
        """Whether any weight was closed, opened, filled or drawn anew."""
        return bool(self.pruned or self.grown or self.recycled)

    @property
    def energy_fraction(self) -> float:
        """Injected over live energy."""
        live = sum(self.before.values())
        return sum(self.injected.values()) / live if live else 0.0

    def layers(self, sizes: Mapping[str, int], live: Mapping[str, int]) -> tuple[LayerChange, ...]:
        """One record a parameter."""
        return tuple(
            LayerChange(
                name=name,
                size=sizes[name],
                live=live[name],
                energy_before=self.before[name],
                energy_after=self.after[name],
                energy_injected=self.injected.get(name, 0.0),
            )
            for name in self.before
        )
