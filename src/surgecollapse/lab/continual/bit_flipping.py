"""Slowly changing regression: bits that flip now and then, and a fixed target network."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

_BITS, _SLOW, _HIDDEN, _SHARE = 20, 15, 100, 0.7
_CALIBRATED = 4096


def target_network(
    seed: int, bits: int = _BITS, hidden: int = _HIDDEN, share: float = _SHARE
) -> tuple[Tensor, Tensor, Tensor]:
    """Weights of a target with one layer of linear threshold units, all of them −1 or 1.

    Unit i is 1 where the inputs reach its threshold θ_i = (m + 1)·β − S_i, else 0. Here m is the number of bits, β the
    share, and S_i the number of its negative weights. A constant input of 1 stands behind the bits.

    Args:
        seed: of the weights.
        bits: m.
        hidden: threshold units.
        share: β.

    Returns:
        Weights ``(hidden, bits + 1)``, thresholds ``(hidden,)``, output weights ``(hidden,)``.
    """
    draws = torch.Generator().manual_seed(seed)
    weights = 2.0 * torch.randint(2, (hidden, bits + 1), generator=draws) - 1
    outputs = 2.0 * torch.randint(2, (hidden,), generator=draws) - 1
    return weights, (bits + 1) * share - (weights < 0).sum(1), outputs


def targets(x: Tensor, weights: Tensor, thresholds: Tensor, outputs: Tensor) -> Tensor:
    """What a target network answers to bits ``(n, bits)``: ``(n,)``.

    >>> weights, thresholds, outputs = torch.tensor([[1.0, -1.0, 1.0]]), torch.tensor([1.5]), torch.tensor([-1.0])
    >>> targets(torch.tensor([[1.0, 0.0], [1.0, 1.0]]), weights, thresholds, outputs).tolist()  # sums of 2 and 1
    [-1.0, 0.0]
    """
    sums = torch.cat([x, torch.ones(len(x), 1)], 1) @ weights.T
    return (sums >= thresholds).float() @ outputs


def bit_flipping(
    *, tasks: int, batches: int, batch_size: int, seed: int, slow: int = _SLOW
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Bits and what a fixed network answers to them; before each task but the first, one of the slow bits flips.

    The bit-flipping problem of Dohare et al. 2024 (Nature 632, *Slowly-Changing Regression*). The other bits are drawn
    anew for each sample, so that old and new tasks ask for different parts of one function. Answers have mean 0 and
    deviation 1 over random bits, so that a squared error of 1 is that of a constant.

    Args:
        tasks: how many.
        batches: of each task.
        batch_size: samples of each.
        seed: of the target, the flips and the samples.
        slow: bits that flip slowly, of 20.

    Yields:
        Number of the task, bits ``(batch_size, 20)``, answers ``(batch_size, 1)``.
    """
    target, draws = target_network(seed), torch.Generator().manual_seed(1000 + seed)
    known = targets(torch.randint(2, (_CALIBRATED, _BITS), generator=draws).float(), *target)
    mean, deviation = known.mean(), known.std()
    held = torch.randint(2, (slow,), generator=draws)
    for task in range(tasks):
        if task:
            at = int(torch.randint(slow, (), generator=draws))
            held[at] = 1 - held[at]
        for _ in range(batches):
            fast = torch.randint(2, (batch_size, _BITS - slow), generator=draws)
            x = torch.cat([held.expand(batch_size, slow), fast], 1).float()
            yield task, x, ((targets(x, *target) - mean) / deviation)[:, None]
