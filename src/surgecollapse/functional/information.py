"""Estimates of entropy and mutual information from samples, in nats.

Read these with care. No estimator of mutual information works in high dimension from few samples. A lower bound with
high confidence cannot exceed O(ln n) (McAllester and Stratos, arXiv 1811.04251), and plug-in estimates saturate there.
In a deterministic net with continuous activations I(input; layer) is infinite or constant. Binned estimates show how
activations cluster at the scale of the bins, not how information is compressed (Goldfeld et al., arXiv 1810.05728; Saxe
et al. 2018, ICLR). Compare only estimates of one kind, with the same bins and samples.
"""

from __future__ import annotations

import torch
from torch import Tensor


def discretize(x: Tensor, bins: int = 30, *, low: float | None = None, high: float | None = None) -> Tensor:
    """Number the patterns that rows make when each value is put into one of equal bins.

    Args:
        x: ``(n, units)``.
        bins: number of bins between the ends, for all units alike.
        low: lower end; by default the smallest value.
        high: upper end; by default the largest value. Values beyond an end go into its bin.

    Returns:
        Symbols, int64 ``(n,)`` from 0: rows with the same pattern have the same one.

    Raises:
        ValueError: if ``x`` is not of two dimensions or not finite, or there is no bin.

    >>> discretize(torch.tensor([[0.0, 0.1], [0.1, 0.0], [1.0, 0.9]]), bins=2)
    tensor([0, 0, 1])
    """
    if x.dim() != 2 or not bool(x.isfinite().all()):
        raise ValueError(f"expected finite values (n, units), got shape {tuple(x.shape)}")
    if bins < 1:
        raise ValueError(f"expected one bin at least, got {bins}")
    wide = x.detach().double()
    if not wide.numel():
        return torch.zeros(len(x), dtype=torch.int64, device=x.device)
    bottom = float(wide.min()) if low is None else low
    top = float(wide.max()) if high is None else high
    cells = ((wide - bottom) / max(top - bottom, 1e-300) * bins).floor().clamp(0, bins - 1).to(torch.int32)
    symbols: Tensor = torch.unique(cells, dim=0, return_inverse=True)[1]
    return symbols


def symbol_entropy(symbols: Tensor, *, correct: bool = True) -> Tensor:
    """Plug-in entropy −Σ p̂ ln p̂ of what occurs, with the correction of Miller (1955) and Madow, (m − 1)/(2n).

    The plug-in form is biased downward, the more so the more of the m symbols occur once or never. The correction takes
    away the first order of that.

    Args:
        symbols: integers ``(n,)``.
        correct: whether the correction is added.

    Returns:
        0-dim float64 tensor, at least 0, in nats; the plug-in form is at most ln n.

    >>> symbol_entropy(torch.tensor([0, 1, 0, 1]), correct=False)  # ln 2
    tensor(0.6931, dtype=torch.float64)
    >>> symbol_entropy(torch.tensor([0, 1, 0, 1]))  # + 1/8
    tensor(0.8181, dtype=torch.float64)
    """
    counts: Tensor = torch.unique(symbols, return_counts=True)[1].double()
    share = counts / counts.sum()
    correction = (len(counts) - 1) / (2 * max(1, symbols.numel())) if correct else 0.0
    return (-(share * share.log()).sum()).clamp(min=0) + correction


def symbol_mutual_information(first: Tensor, second: Tensor, *, correct: bool = True) -> Tensor:
    """H(A) + H(B) − H(A, B) of two rows of symbols, each by :func:`symbol_entropy`.

    The plug-in form is biased upward by about (m_A − 1)(m_B − 1)/(2n) for independent symbols. With as many symbols as
    samples it is H of the other one, whatever the truth.

    Args:
        first: integers ``(n,)``.
        second: integers ``(n,)``.
        correct: whether entropies are corrected; the result may then be below 0 or above the smaller entropy.

    Returns:
        0-dim float64 tensor, in nats.

    Raises:
        ValueError: if the shapes differ.

    >>> a = torch.tensor([0, 0, 1, 1])
    >>> symbol_mutual_information(a, 1 - a, correct=False)  # ln 2
    tensor(0.6931, dtype=torch.float64)
    """
    if first.shape != second.shape or first.dim() != 1:
        raise ValueError(f"expected two rows of symbols (n,), got {tuple(first.shape)} and {tuple(second.shape)}")
    both = torch.unique(torch.stack([first, second], 1), dim=0, return_inverse=True)[1]
    entropies = [symbol_entropy(symbols, correct=correct) for symbols in (first, second, both)]
    return entropies[0] + entropies[1] - entropies[2]
