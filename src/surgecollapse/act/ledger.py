"""The energy ledger: what an act did to ‖W‖² of each parameter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from surgecollapse.events import LayerChange
from surgecollapse.functional import weight_energy
from surgecollapse.torch_utils.shards import Shards, local


@torch.no_grad()
def energies(
    params: Mapping[str, Tensor], shards: Shards | None = None, values: Mapping[str, Tensor] | None = None
) -> dict[str, float]:
    """Squared Euclidean norm of each parameter, with one host sync.

    Args:
        params: by name.
        shards: sums over the processes that hold parts of them.
        values: of some of them, to take in place of their own; of a sharded one the part that is here.
    """
    values = {name: local(p).detach() for name, p in params.items()} if values is None else values
    return (shards or Shards()).sums(params, {name: weight_energy(value) for name, value in values.items()})


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
