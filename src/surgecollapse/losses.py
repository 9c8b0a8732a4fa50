"""Losses as modules."""

from __future__ import annotations

from torch import Tensor, nn

from surgecollapse.functional.cross_entropies import stablemax_cross_entropy as stablemax_cross_entropy


class StableMaxCrossEntropy(nn.CrossEntropyLoss):
    """StableMax cross-entropy as a module, with the arguments of :class:`torch.nn.CrossEntropyLoss`.

    See :func:`surgecollapse.stablemax_cross_entropy`.

    Args:
        weight: weights of the classes (K); a buffer.
        ignore_index: class that counts for nothing.
        reduction: ``mean`` | ``sum`` | ``none``.
        label_smoothing: share of the target that is spread evenly over the classes, in [0, 1].

    >>> import torch
    >>> StableMaxCrossEntropy()(torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([0])).item()  # −ln(3/5)
    0.5108...
    """

    def __init__(
        self,
        weight: Tensor | None = None,
        *,
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        if reduction not in ("none", "mean", "sum"):
            raise ValueError(f"reduction must be 'none', 'mean' or 'sum', got {reduction!r}")
        if not 0.0 <= label_smoothing <= 1.0:
            raise ValueError(f"label_smoothing must lie in [0, 1], got {label_smoothing}")
        super().__init__(weight, ignore_index=ignore_index, reduction=reduction, label_smoothing=label_smoothing)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss of logits (n, K, …) and classes (n, …) or probabilities (n, K, …)."""
        return stablemax_cross_entropy(
            input,
            target,
            self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
        )
