"""Recurrent nets for rows of word or character numbers."""

from __future__ import annotations

from torch import Tensor, nn


class LSTMClassifier(nn.Module):
    """Embedding, LSTM layers, and a linear head on the last state or on the mean of all.

    The Grokfast paper's net for IMDb (arXiv 2405.20233): embedding 64, two layers of width 256. Deviation: two outputs
    and cross-entropy, which is its one output and binary cross-entropy with another parametrization.

    Args:
        vocabulary: number of different tokens; number 0 is padding and has a zero embedding, which is not learned.
        classes: outputs.
        embedding: width of the embedding.
        hidden: width of the state.
        layers: LSTM layers on each other.
        dropout: rate between the layers and before the head.
        readout: ``last`` or ``mean``: the state that the head reads. With the mean, gradients reach every word in one
            step, so that a short training gets further; the paper's net has the last.

    >>> import torch
    >>> LSTMClassifier(9, 2, embedding=4, hidden=6)(torch.zeros(3, 5, dtype=torch.int64)).shape
    torch.Size([3, 2])
    """

    def __init__(
        self,
        vocabulary: int,
        classes: int,
        *,
        embedding: int = 64,
        hidden: int = 256,
        layers: int = 2,
        dropout: float = 0.0,
        readout: str = "last",
    ) -> None:
        super().__init__()
        self.readout = readout
        self.tokens = nn.Embedding(vocabulary, embedding, padding_idx=0)
        self.recurrent = nn.LSTM(
            embedding, hidden, num_layers=layers, batch_first=True, dropout=dropout if layers > 1 else 0.0
        )
        self.drop = nn.Dropout(dropout)
        self.head = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, classes) of token rows (n, length)."""
        states, _ = self.recurrent(self.tokens(x))
        read = states.mean(1) if self.readout == "mean" else states[:, -1]
        return self.head(self.drop(read))  # type: ignore[no-any-return]


class LSTMPredictor(nn.Module):
    """Embedding, LSTM layers, and a linear head on every state: the recurrent counterpart of ``GPT``.

    Args:
        vocabulary: number of different tokens, which is also that of the outputs.
        embedding: width of the embedding.
        hidden: width of the state.
        layers: LSTM layers on each other.
        dropout: rate on the embeddings, between the layers and before the head.

    >>> import torch
    >>> LSTMPredictor(9, embedding=4, hidden=6)(torch.zeros(3, 5, dtype=torch.int64)).shape
    torch.Size([3, 5, 9])
    """

    def __init__(
        self, vocabulary: int, *, embedding: int = 64, hidden: int = 128, layers: int = 1, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, embedding)
        self.recurrent = nn.LSTM(
            embedding, hidden, num_layers=layers, batch_first=True, dropout=dropout if layers > 1 else 0.0
        )
        self.drop = nn.Dropout(dropout)
        self.head = nn.Linear(hidden, vocabulary)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, length, vocabulary) of the token after each of the token rows (n, length)."""
        states, _ = self.recurrent(self.drop(self.tokens(x)))
        return self.head(self.drop(states))  # type: ignore[no-any-return]
