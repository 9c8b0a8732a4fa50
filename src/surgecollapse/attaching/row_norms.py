"""A bound on the norm of each row of weights, after every optimizer step: one line in any loop."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from surgecollapse.attaching.handle import Handle
from surgecollapse.torch_utils.step_hooks import StepHooks, overflowed, parameters_of


@torch.no_grad()
def bound_rows(weight: Tensor, max_norm: float) -> None:
    """Scale each row of a weight down to a norm: w ← w · min(1, c/‖w‖₂), in place.

    Args:
        weight: of two dimensions or more, its rows are the weights of one output each, over all other axes; a vector
            is one row.
        max_norm: c, positive.

    >>> weight = torch.tensor([[3.0, 4.0], [0.3, 0.4]])
    >>> bound_rows(weight, 1.0)
    >>> weight.tolist()
    [[0.60..., 0.80...], [0.30..., 0.40...]]
    """
    rows = weight if weight.ndim < 2 else weight.flatten(1)
    sizes = rows.abs() if rows.is_complex() else rows
    norms = torch.linalg.vector_norm(sizes, dim=-1, dtype=torch.promote_types(sizes.dtype, torch.float32))
    long = norms.isfinite() & (norms > max_norm)
    factor = torch.where(long, max_norm / norms, torch.ones_like(norms)).to(weight.dtype)
    weight.mul_(factor.reshape(-1, *[1] * (weight.ndim - 1)) if weight.ndim > 1 else factor)


class ClippedRows(Handle):
    """Handle of :func:`clip_rows`; a context manager that removes its hooks on exit."""

    def __init__(self, optimizer: Any, max_norm: float, parameters: Iterable[Tensor] | None) -> None:
        if not (math.isfinite(max_norm) and max_norm > 0):
            raise ValueError(f"max_norm must be positive and finite, got {max_norm}")
        self.max_norm = float(max_norm)
        self._optimizer, self._skipped = StepHooks.chain(optimizer)[-1], False
        self._only = None if parameters is None else list(parameters)
        for weight in self._chosen():
            if hasattr(weight, "to_local"):
                raise TypeError(
                    f"clip_rows needs whole weights, got a distributed tensor of shape {tuple(weight.shape)}: norms "
                    "would be those of one shard; name those that are not sharded in parameters="
                )
        self._hooks = StepHooks(optimizer, self._before, self._after)

    def _chosen(self) -> list[Tensor]:
        return list(parameters_of(self._optimizer)) if self._only is None else self._only

    def _before(self) -> None:
        self._skipped = overflowed(self._optimizer)

    def _after(self) -> None:
        if not self._skipped:
            self.clip()

    def clip(self) -> None:
        """Bound the rows now; every optimizer step does."""
        for weight in self._chosen():
            bound_rows(weight, self.max_norm)

    def remove(self) -> None:
        """Bound nothing any more."""
        self._hooks.remove()


def clip_rows(optimizer: Any, max_norm: float, *, parameters: Iterable[Tensor] | None = None) -> ClippedRows:
    """Bound the norm of every row of weights after each step of any optimizer: w ← w · min(1, c/‖w‖₂).

    Rows of zeros, and pruned weights in any row, stay zero. A step that ``GradScaler`` skips bounds nothing.

    Args:
        optimizer: the optimizer whose ``step()`` the loop calls; wrappers are looked through.
        max_norm: c, positive and finite. The authors use 1 to 2 on modular arithmetic.
        parameters: bound these only; default: all of the optimizer. The authors leave out the table of tokens and the
            output layer, whose logits must be able to grow.

    Returns:
        A handle with ``remove``. It has no state, so that there is nothing to save.

    Raises:
        TypeError: if ``optimizer`` is none, or a parameter is a shard.
        ValueError: for a norm that is not positive and finite, or LBFGS.

    >>> import torch, surgecollapse
    >>> model = torch.nn.Linear(2, 1, bias=False)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    >>> handle = surgecollapse.clip_rows(optimizer, 5.0)
    >>> _ = torch.nn.init.zeros_(model.weight)
    >>> model.weight.grad = torch.tensor([[-6.0, -8.0]])
    >>> optimizer.step()
    >>> model.weight.tolist()
    [[3.0, 4.0]]

    When to use:
        Weights, and with them the logits, grow after the training set is fitted. It takes the place of weight decay.

    Cost:
        No state. Two passes over the weights.

    Deviations:
        A row of a convolution is all weights of one output channel; the authors' code takes the last axis. Rows within
        the bound stay bit for bit; there they are multiplied by 1 after a division that may round.

    Source:
        Volchkov, Rivlin 2026, Clip to Grok.
    """
    return ClippedRows(optimizer, max_norm, parameters)
