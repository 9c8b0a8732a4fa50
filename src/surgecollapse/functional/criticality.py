"""Order and chaos through depth: how disturbances grow from layer to layer, and activity with them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def chi(before: Tensor, after: Tensor) -> Tensor:
    """Growth of a small disturbance over one layer, χ = ⟨δ'²⟩/⟨δ²⟩, means over samples and units.

    For a random δ this is ‖J‖²_F divided by the number of outputs. It is the mean squared singular value of a square
    Jacobian J. It is also the slope of the correlation map at 1 (Poole et al., arXiv 1606.05340; Schoenholz et al.,
    arXiv 1611.01232). With χ < 1 the net is ordered and neighbors merge; with χ > 1 it is chaotic; χ = 1 is the edge.

    Args:
        before: ``(n, …)``, disturbance of the input of the layer.
        after: ``(n, …)``, what became of it.

    Returns:
        0-dim tensor ≥ 0; NaN where nothing was disturbed.

    >>> chi(torch.ones(4, 2), 3 * torch.ones(4, 5))
    tensor(9.)
    """
    return after.square().mean() / before.square().mean()


def lyapunov_exponent(disturbances: Sequence[Tensor]) -> Tensor:
    """Largest Lyapunov exponent through depth, in nats a layer: mean over samples of ln(‖δ_L‖/‖δ_0‖)/L.

    Norms are root mean squares over units, so that a change of width alone is no growth. A random disturbance turns
    towards the direction that grows most, hence the largest one. In wide random nets it is ½ ln χ.

    Args:
        disturbances: ``(n, …)`` at each of the layers in order, at least two.

    Returns:
        0-dim tensor; −∞ where every disturbance died out.

    Raises:
        ValueError: for fewer than two layers.

    >>> x = torch.ones(3, 4)
    >>> lyapunov_exponent([x, 2 * x, 4 * x])  # ln 2
    tensor(0.6931, dtype=torch.float64)
    """
    if len(disturbances) < 2:
        raise ValueError(f"expected disturbances at two layers at least, got {len(disturbances)}")
    first, last = (d.flatten(1).double().square().mean(1) for d in (disturbances[0], disturbances[-1]))
    return ((last / first).log() / 2).mean() / (len(disturbances) - 1)


def branching_ratio(before: Tensor, after: Tensor) -> Tensor:
    """Active descendants per active ancestor: mean over samples of A_{l+1}/A_l, A the share of units above zero.

    1 where activity is passed on undiminished (Beggs and Plenz 2003, doi 10.1523/JNEUROSCI.23-35-11167.2003, between
    time bins; here between layers, whose shares make their widths comparable). Samples without ancestors are left out.

    Args:
        before: ``(n, units)`` activations.
        after: ``(n, units')`` activations of the next layer, of the same samples.

    Returns:
        0-dim tensor ≥ 0, in float32 at least; NaN if no sample has an active unit.

    >>> branching_ratio(torch.tensor([[1.0, 1.0, 0.0, 0.0]]), torch.tensor([[1.0, 0.0, 0.0, 0.0]]))
    tensor(0.5000)
    """
    dtype = torch.promote_types(before.dtype, torch.float32)
    ancestors, descendants = ((x > 0).flatten(1).to(dtype).mean(1) for x in (before, after))
    alive = ancestors > 0
    ratios = torch.where(alive, descendants / ancestors.clamp(min=1e-12), 0.0)
    return ratios.sum() / alive.sum()
