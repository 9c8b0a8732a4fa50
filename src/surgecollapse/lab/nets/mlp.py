"""Linear layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from surgecollapse.lab.nets.layers import activation_of, dropout_of

if TYPE_CHECKING:
    from collections.abc import Sequence


class MLP(nn.Module):
    """Linear layers with an activation and dropout between them; inputs of any shape are flattened.

    Args:
        inputs: values per sample.
        widths: hidden widths; none of them makes a linear classifier.
        classes: outputs.
        activation: ``relu`` or ``gelu``.
        dropout: rate after each hidden activation.
        bias: whether the linear layers have biases.

    >>> import torch
    >>> MLP(4, (8, 8), 3)(torch.zeros(2, 2, 2)).shape
    torch.Size([2, 3])
    """

    def __init__(
        self,
        inputs: int,
        widths: Sequence[int],
        classes: int,
        activation: str = "relu",
        dropout: float = 0.0,
        bias: bool = True,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Flatten()]
        for width in widths:
            layers += [nn.Linear(inputs, width, bias=bias), activation_of(activation), *dropout_of(dropout)]
            inputs = width
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(inputs, classes, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, classes)."""
        return self.head(self.body(x))  # type: ignore[no-any-return]
