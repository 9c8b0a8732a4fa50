"""The operations of training by densities of the layers, whoever counts them."""

from __future__ import annotations

from collections.abc import Mapping


def stretch_operations(
    counts: Mapping[str, int], shares: Mapping[str, float], steps: float, dense_gradients: float
) -> float:
    """Σ_l c_l·(3·T·d_l + G·(1 − d_l)): multiplications by weights for one sample in T steps of equal densities.

    A step multiplies by a layer's open weights three times: forward, for the gradient of the inputs, and for the
    gradient of the weights. The last is taken dense on G of the steps (Evci et al. 2020, arXiv 1911.11134, app. H).

    Args:
        counts: c_l, multiplications by each weight tensor in one forward pass of one sample.
        shares: d_l, the share of its weights that is open; 1 for those that are not named.
        steps: T.
        dense_gradients: G.

    >>> stretch_operations({"w": 10, "head": 1}, {"w": 0.5}, steps=2, dense_gradients=1)
    41.0
    """
    shared = ((count, shares.get(name, 1.0)) for name, count in counts.items())
    return sum(count * (3 * steps * share + dense_gradients * (1 - share)) for count, share in shared)
