"""Whether predictions move as a linear recurrence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from surgecollapse.functional import dynamic_mode_residual
from surgecollapse.observe.monitors.registry import monitor

if TYPE_CHECKING:
    from surgecollapse.protocols import MonitorContext, Series

QUANTILES = 16
"""Numbers that stand for the distribution of log-probabilities."""


@monitor("dynamic_modes")
class DynamicModes:
    """``modes/residual``: the share of the motion of log-probabilities that a linear recurrence does not predict.

    A snapshot is the distribution of log-probabilities over the probe batch, as sixteen quantiles: of the noted labels,
    without labels of the likeliest class. The last ``window`` of them give
    :func:`surgecollapse.functional.dynamic_mode_residual`. Let X and Y be the differences of snapshots, stacked over
    ``delays``, before and after a step. Let V be the ``rank`` leading right singular vectors of X. Then::

        modes/residual = ‖Y − Y V Vᵀ‖/‖Y‖

    Near 0 a few decaying modes explain what happens; near 1 none do. Recurrences need even spacing: where the distance
    between two events changes, the window begins anew.

    Args:
        window: snapshots.
        delays: snapshots that a column of the Hankel matrix stacks.
        rank: modes.

    When to use:
        A network has fitted, and you want to see whether its predictions are still on the move. Not among the default
        monitors: name it. As an alarm before generalization it has not beaten the slope of the validation loss.

    Cost:
        One forward pass of the probe batch, shared with the other monitors, and an eigendecomposition of a matrix of
        ``window`` − ``delays`` rows.

    Deviations:
        Written from the abstract. Differences of snapshots replace the snapshots, so that constants do not count;
        number of quantiles, window, delays and rank are this project's. Spectrum and effective rank are not recorded.

    Source:
        Wang, Ying and Kanamori 2026, arXiv 2605.08237.
    """

    name = "dynamic_modes"
    needs = ("outputs",)

    def __init__(self, window: int = 16, delays: int = 4, rank: int = 4) -> None:
        if delays < 1 or rank < 1 or window < delays + rank + 3:
            raise ValueError(
                "expected delays and rank of at least 1 and a window of at least delays + rank + 3, got "
                f"{delays}, {rank} and {window}"
            )
        self._window, self._delays, self._rank = window, delays, rank
        self._history: list[Tensor] = []
        self._step, self._spacing = 0, 0

    def measure(self, context: MonitorContext) -> Mapping[str, Series]:
        """One number, once the window is full."""
        rows = context.scores
        if rows is None or rows.shape[1] < 2 or not len(rows):
            return {}
        spacing = context.step - self._step
        if self._history and self._spacing and spacing != self._spacing:
            self._history = self._history[-1:]
        self._spacing = spacing if self._history else 0
        self._step = context.step
        self._history = [*self._history, _quantiles(rows, context.targets)][-self._window :]
        if len(self._history) < self._window:
            return {}
        together = torch.stack([snapshot.to(rows.device) for snapshot in self._history])
        return {"modes/residual": dynamic_mode_residual(together, delays=self._delays, rank=self._rank)}

    def state_dict(self) -> dict[str, Any]:
        """The snapshots, and when they were taken."""
        return {"history": list(self._history), "step": self._step, "spacing": self._spacing}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self._history = list(state["history"])
        self._step, self._spacing = state["step"], state["spacing"]


def _quantiles(scores: Tensor, targets: Tensor | None) -> Tensor:
    """Quantiles of the log-probabilities of rows ``(n, classes)``, evenly spaced from the least to the largest."""
    log_p = scores.detach().double().log_softmax(1)
    labeled = targets is not None and targets.shape == log_p.shape[:1] and targets.dtype == torch.int64
    if labeled and targets is not None:
        chosen = log_p.gather(1, targets.to(log_p.device).clamp(0, log_p.shape[1] - 1).unsqueeze(1)).squeeze(1)
    else:
        chosen = log_p.amax(1)
    at = torch.linspace(0, 1, QUANTILES, dtype=chosen.dtype, device=chosen.device)
    return torch.quantile(chosen, at)
