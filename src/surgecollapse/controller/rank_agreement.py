"""The processes that train one model: attached alike, and with the probe batches of all in every checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from surgecollapse.events import Plan
from surgecollapse.observe.probe import Probe
from surgecollapse.torch_utils.distributed import Ranks
from surgecollapse.torch_utils.modules import snapshot


class RankAgreement:
    """Checks once that all ranks were attached alike, and keeps the probe batches of all of them.

    Args:
        ranks: the processes.
        probe: the probe batch of this one.

    Attributes:
        probes: states of the probe batches of all ranks, from the first step on; empty for a single process.
    """

    def __init__(self, ranks: Ranks, probe: Probe) -> None:
        self._ranks, self._probe = ranks, probe
        self._checked = ranks.alone
        self.probes: list[dict[str, Any]] = []
        self._of_all: list[dict[str, Any]] = []

    def joined(self) -> None:
        """The ranks were found after the model was attached to: check them, and take up the probe that this one had."""
        self._checked = False
        if len(self._of_all) == self._ranks.size:
            self.probes = self._of_all
            self._probe.load_state_dict(self.probes[self._ranks.rank])

    def check(self, plan: Plan, policy: str, step: int, params: Iterable[tuple[str, Tensor]]) -> None:
        """Compare what every rank was told, the first time that this is called.

        Raises:
            ValueError: if it differs.
        """
        if self._checked:
            return
        shapes = [(name, tuple(p.shape)) for name, p in params]
        if not self._ranks.all_agree((plan, policy, step, shapes)):
            raise ValueError(
                "the ranks were attached with different arguments (seed, sparsity, total_steps, policy) or different "
                "prunable weights, so that their masks would differ: call attach with the same ones on every rank"
            )
        self.probes = self._ranks.gathered(snapshot(self._probe.state_dict()))
        self._checked = True

    def state_dict(self) -> dict[str, Any]:
        """The probe batch of this rank, and those of all ranks where there are several."""
        return {"probe": self._probe.state_dict(), **({"probes": self.probes} if self.probes else {})}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up the probe batch that this rank had; from a run with another number of ranks, the one of its first."""
        probes = state.get("probes", [])
        self._of_all, self._ranks.awaited = probes, self._ranks.alone and len(probes) > 1
        self.probes = probes if len(probes) == self._ranks.size else []
        self._probe.load_state_dict(self.probes[self._ranks.rank] if self.probes else state["probe"])
