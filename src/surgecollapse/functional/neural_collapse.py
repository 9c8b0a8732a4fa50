"""Neural collapse: how far features and classifier are from the corners of a simplex, one for each class."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from surgecollapse.functional.rank import real


class NeuralCollapse(NamedTuple):
    """The four properties of Papyan, Han and Donoho (2020, arXiv 2008.08186), each 0 where collapse is complete.

    All fields are 0-dim tensors; what needs a classifier that was not given is NaN.
    """

    within: Tensor
    """NC1: tr(Σ_W Σ_B⁺)/C, scatter within classes against scatter between them."""
    norms: Tensor
    """NC2, equal norms: standard deviation of ‖μ_c − μ_G‖ over its mean."""
    angles: Tensor
    """NC2, equal and largest angles: mean over pairs of classes of |cos ∠ + 1/(C − 1)|."""
    duality: Tensor
    """NC3: ‖Wᵀ/‖W‖_F − M/‖M‖_F‖²_F in [0, 4], M having the columns μ_c − μ_G."""
    disagreement: Tensor
    """NC4: share of samples to which the net gives another class than the nearest class mean does."""


def neural_collapse(
    features: Tensor, labels: Tensor, *, weight: Tensor | None = None, predictions: Tensor | None = None
) -> NeuralCollapse:
    """Measure the four properties on the features before the last linear layer.

    Here μ_c is the mean of class c and μ_G the mean of the μ_c. Between classes Σ_B = mean_c (μ_c − μ_G)(μ_c − μ_G)ᵀ.
    Σ_W is the mean over classes of the covariance within each. Deviation: the paper has balanced classes, where this is
    the same; with unbalanced ones each class counts alike. The paper measures on the training data; on held-out data
    the same numbers say how far collapse generalizes.

    Args:
        features: ``(n, d)``, the inputs of the last layer.
        labels: integer classes ``(n,)``; at least two different ones. Classes that do not occur are left out.
        weight: ``(K, d)`` of the last layer, row c for class c.
        predictions: classes that the net chooses ``(n,)``.

    Returns:
        The measures, in float32 at least; all NaN where features or weight are not finite.

    Raises:
        ValueError: if shapes do not fit, values are complex, there is one class only, or the weight has no row for a
            class.

    >>> corners = torch.eye(3) - 1 / 3  # an exact simplex: two samples on each corner
    >>> found = neural_collapse(corners.repeat(2, 1), torch.tensor([0, 1, 2, 0, 1, 2]), weight=5 * corners)
    >>> [round(abs(value.item()), 6) for value in found[:4]]
    [0.0, 0.0, 0.0, 0.0]
    """
    _check(features, labels, weight, predictions)
    dtype = torch.promote_types(features.dtype, torch.float32)
    if not bool(features.isfinite().all()) or (weight is not None and not bool(weight.isfinite().all())):
        return NeuralCollapse(*[features.new_tensor(torch.nan, dtype=dtype)] * len(NeuralCollapse._fields))
    x = features.detach().double()
    classes, place = torch.unique(labels, return_inverse=True)
    means = torch.stack([x[place == c].mean(0) for c in range(len(classes))])
    directions = means - means.mean(0)
    nothing = x.new_tensor(torch.nan)
    duality, disagreement = nothing, nothing
    if weight is not None:
        rows = weight.detach().double()[classes]
        duality = (rows / rows.norm() - directions / directions.norm()).square().sum()
    if predictions is not None:
        nearest = classes[torch.cdist(x, means).argmin(1)]
        disagreement = (nearest != predictions).double().mean()
    norms = directions.norm(dim=1)
    found = (_scatter(x - means[place], place, directions), norms.std(correction=0) / norms.mean())
    return NeuralCollapse(*(v.to(dtype) for v in (*found, _angles(directions, norms), duality, disagreement)))


def _scatter(deviations: Tensor, place: Tensor, directions: Tensor) -> Tensor:
    """tr(Σ_W Σ_B⁺)/C: along each axis of Σ_B, the variance within classes over that between them."""
    count = len(directions)
    sigma, axes = torch.linalg.svd(directions, full_matrices=False)[1:]
    # The centered means of C classes span C − 1 directions at most.
    real = sigma[: count - 1] > sigma[0] * 1e-10
    along = (deviations @ axes[: count - 1].T)[:, real].square()
    within = torch.stack([along[place == c].mean(0) for c in range(count)]).mean(0)
    # 1/C of the sum over axes; Σ_B has the eigenvalues σ²/C.
    found: Tensor = (within / sigma[: count - 1][real].square()).sum()
    return torch.where(real.any(), found, torch.nan)


def _angles(directions: Tensor, norms: Tensor) -> Tensor:
    count = len(directions)
    cosines = (directions / norms[:, None]) @ (directions / norms[:, None]).T
    apart = ~torch.eye(count, dtype=torch.bool, device=directions.device)
    return (cosines[apart] + 1 / (count - 1)).abs().mean()


def _check(features: Tensor, labels: Tensor, weight: Tensor | None, predictions: Tensor | None) -> None:
    real(features, "features")
    if features.dim() != 2 or labels.shape != features.shape[:1]:
        raise ValueError(
            f"expected features (n, d) and labels (n,), got {tuple(features.shape)} and {tuple(labels.shape)}"
        )
    if len(labels) == 0 or bool((labels == labels[0]).all()):
        raise ValueError("neural collapse is about classes as opposed to each other: expected labels of two at least")
    if weight is not None and (weight.dim() != 2 or weight.shape[1] != features.shape[1]):
        raise ValueError(f"expected a weight (classes, {features.shape[1]}), got {tuple(weight.shape)}")
    if weight is not None and int(labels.max()) >= len(weight):
        raise ValueError(f"the weight has {len(weight)} rows, too few for class {int(labels.max())}")
    if predictions is not None and predictions.shape != labels.shape:
        raise ValueError(f"expected predictions {tuple(labels.shape)}, got {tuple(predictions.shape)}")
