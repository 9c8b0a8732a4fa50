"""How updates lie to the rows that they change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from zlib import crc32

import torch
from torch import Tensor

from surgecollapse.observe.monitors.registry import monitor

if TYPE_CHECKING:
    from surgecollapse.protocols import MonitorContext, Series


@monitor("update_geometry")
class UpdateGeometry:
    """Radial share and relative size of the optimizer's last step, over the rows of each weight matrix.

    A row w is the weights of one output, Δ what the last step changed in it, masks included::

        update/radial_share  Σ(Δ·w/‖w‖)² / Σ‖Δ‖²  over the rows: the part that only makes rows longer or shorter
        update/row_ratio     median of ‖Δ‖/‖w‖ over the rows that were not zero

    The tangential share is one minus the radial one. Random directions in d dimensions have a radial share of 1/d. Rows
    of zeros have no direction: their updates count as tangential. Of a matrix of more than ``rows`` rows so many are
    measured, drawn once and for all; what did not move has no share.

    Args:
        rows: most rows of one matrix.

    When to use:
        Weights grow, and training loss falls with them: a large radial share says that steps only scale rows. It calls
        for weight decay, OrthoGrad or bounded rows. A row ratio far above 1e-2 suggests a rate that is too high.

    Cost:
        A copy of at most 128 rows of each matrix, and three passes over them.

    Deviations:
        None.

    Source:
        The decomposition of Prieto et al. 2025, arXiv 2501.04697, for steps in place of gradients.
    """

    name = "update_geometry"
    needs = ()

    def __init__(self, rows: int = 128) -> None:
        if rows < 1:
            raise ValueError(f"rows must be at least 1, got {rows}")
        self._rows, self._step = rows, 0
        self._kept: dict[str, Tensor] = {}
        self._chosen: dict[tuple[str, int], Tensor] = {}

    def prepare(self, context: MonitorContext) -> None:
        """Remember rows before the step whose update is measured."""
        self._step = context.step
        self._kept = {name: self._some(name, w).clone() for name, w in context.weights.items() if w.ndim >= 2}

    def measure(self, context: MonitorContext) -> Mapping[str, Series]:
        """Two numbers a weight matrix."""
        kept, self._kept = self._kept, {}
        if self._step != context.step - 1:
            return {}
        share: dict[str | None, Tensor] = {}
        ratio: dict[str | None, Tensor] = {}
        for name, before in kept.items():
            if name in context.weights:
                old = before.to(context.weights[name].device)
                share[name], ratio[name] = _geometry(old, self._some(name, context.weights[name]))
        return {"update/radial_share": share, "update/row_ratio": ratio} if share else {}

    def _some(self, name: str, weight: Tensor) -> Tensor:
        """Some rows of a matrix, at least in float32."""
        matrix = weight.detach().flatten(1)
        if len(matrix) > self._rows:
            key = (name, len(matrix))
            if key not in self._chosen:
                generator = torch.Generator().manual_seed(crc32(name.encode()))
                drawn = torch.randperm(len(matrix), generator=generator)[: self._rows].sort().values
                self._chosen[key] = drawn.to(matrix.device, non_blocking=True)
            matrix = matrix[self._chosen[key]]
        return matrix.to(torch.promote_types(matrix.dtype, torch.float32))

    def state_dict(self) -> dict[str, Any]:
        """The rows of the step before, between the two."""
        return {"step": self._step, "kept": dict(self._kept)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self._step, self._kept = state["step"], dict(state["kept"])


def _geometry(before: Tensor, now: Tensor) -> tuple[Tensor, Tensor]:
    """Radial share and median ratio of rows (rows, d); NaN where nothing moved, or every row was zero."""
    change = now - before
    lengths = torch.linalg.vector_norm(before, dim=1)
    there = lengths > 0
    along = (change * before).sum(1) / torch.where(there, lengths, torch.ones_like(lengths))
    share = along.square().sum() / change.square().sum()
    ratios = torch.linalg.vector_norm(change, dim=1) / torch.where(there, lengths, torch.full_like(lengths, torch.nan))
    return share, ratios.nanmedian()
