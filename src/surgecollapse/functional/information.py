"""Estimates of entropy and mutual information from samples, in nats.

Read these with care. No estimator of mutual information works in high dimension from few samples: a lower bound with
high confidence cannot exceed O(ln n) (McAllester and Stratos, arXiv 1811.04251), and plug-in estimates saturate there.
In a deterministic net with continuous activations I(input; layer) is infinite or constant, so that what binned
estimates show is how activations cluster at the scale of the bins, not how information is compressed (Goldfeld et al.,
arXiv 1810.05728; Saxe et al. 2018, ICLR). Compare only estimates of one kind, with the same bins and samples.
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

    The plug-in form is biased downward, the more so the more of the m symbols occur once or never; the correction takes
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

    The plug-in form is biased upward by about (m_A − 1)(m_B − 1)/(2n) for independent symbols; with as many symbols as
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


def ksg_mutual_information(first: Tensor, second: Tensor, neighbors: int = 3) -> Tensor:
    """Mutual information of two continuous vectors by nearest neighbors (Kraskov et al. 2004, cond-mat/0305641).

    Algorithm 1: I = ψ(k) + ψ(n) − mean[ψ(n_x + 1) + ψ(n_y + 1)], n_x counting the points nearer in x than the k-th
    neighbor in (x, y), by the largest coordinate. Good in a few dimensions; in many it is far too low, and scales of
    coordinates matter: standardize them. Equal rows break it: add small noise to what is discrete.

    Args:
        first: ``(n, p)``.
        second: ``(n, q)``.
        neighbors: k, from 1 to n − 1; more means less variance and more bias.

    Returns:
        0-dim tensor in nats; 0 or a little below for independent vectors. NaN if a value is not finite.

    Raises:
        ValueError: if shapes do not fit, or there are not k + 1 samples.

    >>> x = torch.randn(500, 1, generator=torch.Generator().manual_seed(0))
    >>> ksg_mutual_information(x, -2 * x) > 3
    tensor(True)
    """
    if first.dim() != 2 or second.dim() != 2 or len(first) != len(second):
        raise ValueError(f"expected (n, p) and (n, q), got {tuple(first.shape)} and {tuple(second.shape)}")
    n = len(first)
    _check_neighbors(neighbors, n)
    apart = [torch.cdist(x.detach().double(), x.detach().double(), p=torch.inf) for x in (first, second)]
    radius = torch.maximum(*apart).topk(neighbors + 1, largest=False).values[:, -1:]
    # Each point is nearer to itself than that: the count is n_x + 1 already.
    counts = [(distances < radius).sum(1).clamp(min=1).double() for distances in apart]
    found = _psi(neighbors) + _psi(n) - (counts[0].digamma() + counts[1].digamma()).mean()
    finite = first.isfinite().all() & second.isfinite().all()
    return torch.where(finite, found, torch.nan).to(torch.promote_types(first.dtype, torch.float32))


def label_mutual_information(features: Tensor, labels: Tensor, neighbors: int = 3) -> Tensor:
    """Mutual information of a continuous vector and a class by nearest neighbors (Ross 2014, PLoS ONE 9, e87357).

    I = ψ(n) + ψ(k) − mean[ψ(n_c) + ψ(m)], n_c being the size of the sample's class and m the number of samples, itself
    counted, up to its k-th neighbor *in its class*; the largest coordinate is the distance. Never above the entropy of
    the classes by more than noise, and too low in many dimensions.

    Args:
        features: ``(n, d)``.
        labels: classes ``(n,)``. Classes of one sample are left out; smaller classes than k + 1 take fewer neighbors.
        neighbors: k, at least 1.

    Returns:
        0-dim tensor in nats; NaN if a value is not finite, or no class has two samples.

    Raises:
        ValueError: if shapes do not fit, or ``neighbors`` is below 1.

    >>> classes = torch.arange(2).repeat(50)
    >>> found = label_mutual_information(classes[:, None] * 9 + torch.linspace(0, 1, 100)[:, None], classes)
    >>> abs(found.item() - 0.6931) < 0.02  # ln 2
    True
    """
    if features.dim() != 2 or labels.shape != features.shape[:1]:
        raise ValueError(
            f"expected features (n, d) and labels (n,), got {tuple(features.shape)}, {tuple(labels.shape)}"
        )
    _check_neighbors(neighbors, None)
    nan = features.new_tensor(torch.nan, dtype=torch.promote_types(features.dtype, torch.float32))
    place, sizes = torch.unique(labels, return_inverse=True, return_counts=True)[1:]
    used = sizes[place] > 1
    x, own = features.detach().double()[used], place[used]
    n = len(x)
    if n == 0 or not bool(features.isfinite().all()):
        return nan
    apart = torch.cdist(x, x, p=torch.inf)
    among = torch.where(own[:, None] == own[None, :], apart, torch.inf).sort(1).values
    size = sizes[own]
    k = (size - 1).clamp(max=neighbors)
    radius = among.gather(1, k[:, None])
    # Up to the neighbor, but not that one: with the sample itself, as many as Ross's count.
    m = (apart < radius).sum(1).clamp(min=1).double()
    found: Tensor = _psi(n) + (k.double().digamma() - size.double().digamma() - m.digamma()).mean()
    return found.to(nan.dtype)


def _check_neighbors(neighbors: int, n: int | None) -> None:
    if neighbors < 1 or (n is not None and neighbors >= n):
        raise ValueError(f"neighbors must be from 1 to the number of samples − 1, got {neighbors} of {n}")


def _psi(count: int) -> float:
    return float(torch.tensor(float(count), dtype=torch.float64).digamma())
