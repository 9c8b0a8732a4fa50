"""One hidden layer over all tokens so far."""

from __future__ import annotations

from torch import Tensor, nn

from surgecollapse.lab.nets.layers import activation_of, dropout_of


class AutoregressiveMLP(nn.Module):
    """The published project's "auto-regressive" net: one fully connected ReLU layer of 256 units, then a
    linear head.

    As published (CogNetSys/stabilai, model architecture) the class is a plain two-layer perceptron on a vector. Our
    reading for token tasks: it sees the sequence so far as one-hots, side by side, and gives the logits of the next
    token. Vectors and images enter as they are.

    Args:
        inputs: values of a vector or image, or the number of tokens in a sample.
        classes: outputs.
        hidden: width.
        vocabulary: number of different tokens; 0 for vectors and images.
        activation: ``relu`` or ``gelu``.
        dropout: rate after the activation.

    >>> import torch
    >>> AutoregressiveMLP(4, 5, vocabulary=7)(torch.zeros(2, 4, dtype=torch.int64)).shape
    torch.Size([2, 5])
    """

    def __init__(
        self,
        inputs: int,
        classes: int,
        *,
        hidden: int = 256,
        vocabulary: int = 0,
        activation: str = "relu",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.hidden = nn.Linear(inputs * max(vocabulary, 1), hidden)
        self.activation = nn.Sequential(activation_of(activation), *dropout_of(dropout))
        self.head = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, classes) of the next token, or of the class."""
        if self.vocabulary:
            x = nn.functional.one_hot(x, self.vocabulary).to(self.hidden.weight.dtype)
        return self.head(self.activation(self.hidden(x.flatten(1))))  # type: ignore[no-any-return]
