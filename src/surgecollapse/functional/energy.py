"""Energies of weights and activations, what pruning takes from them, and noise that stays within a budget."""

from __future__ import annotations

from collections.abc import Callable
from math import exp, inf, isfinite, log1p, pi, sqrt
from statistics import NormalDist
from typing import overload

import torch
from torch import Tensor

_CHUNK = 1 << 24  # bounds the temporary memory of a sum


def weight_energy(weight: Tensor) -> Tensor:
    """Energy of a parameter: its squared Euclidean norm ‖W‖².

    Args:
        weight: any shape; low precision is summed in float32.

    Returns:
        0-dimensional tensor on the device, at least 0.

    >>> weight_energy(torch.tensor([[3.0], [4.0]])).item()
    25.0
    """
    dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
    # vector_norm would need no temporaries, but adds up naively: off by 2e-3 at 20 million float32 entries.
    parts = torch.split(weight.reshape(-1), _CHUNK)
    return torch.stack([part.to(dtype).square().sum() for part in parts]).sum()


def activation_energy(x: Tensor) -> Tensor:
    """Second moment of activations: the mean over rows and units of x².

    Args:
        x: activations of any shape; low precision is averaged in float32.

    Returns:
        0-dimensional tensor on the device, at least 0; NaN for an empty tensor.

    >>> activation_energy(torch.tensor([[1.0, -3.0]])).item()
    5.0
    """
    return weight_energy(x) / x.numel() if x.numel() else torch.full((), torch.nan, device=x.device)


@overload
def bounded_noise_scale(live_energy: float, count: int, noise_energy_budget: float) -> float: ...
@overload
def bounded_noise_scale(live_energy: Tensor, count: int, noise_energy_budget: float) -> Tensor: ...
def bounded_noise_scale(live_energy: float | Tensor, count: int, noise_energy_budget: float) -> float | Tensor:
    """Standard deviation σ at which noise on ``count`` weights adds the share ρ of the live energy.

    count·σ² = ρ·E_live: the expected energy of the noise. So a surge is bounded by what is alive, not by a fixed σ,
    whose harm depends on the scale of the net.

    Args:
        live_energy: energy of the live weights, at least 0; a float, or a 0-dimensional tensor.
        count: number of weights that get noise, at least 0.
        noise_energy_budget: injected over live energy, at least 0.

    Returns:
        σ, of the kind of ``live_energy``; 0 where ``count`` is 0.

    Raises:
        ValueError: if ``count`` or ``noise_energy_budget`` is negative, or a float energy is negative or not finite.

    >>> bounded_noise_scale(10.0, 100, 0.1)
    0.1
    """
    if count < 0:
        raise ValueError(f"count must be at least 0, got {count}")
    if not 0.0 <= noise_energy_budget < inf:
        raise ValueError(f"noise_energy_budget must be finite and at least 0, got {noise_energy_budget}")
    if isinstance(live_energy, Tensor):
        return (noise_energy_budget * live_energy / max(count, 1)).sqrt() * (count > 0)
    if not (isfinite(live_energy) and live_energy >= 0):
        raise ValueError(f"live_energy must be finite and at least 0, got {live_energy}: check the weights")
    return sqrt(noise_energy_budget * live_energy / count) if count else 0.0


def energy_lost_gaussian(q: float) -> float:
    """Share of the energy of Gaussian weights that lies in the fraction ``q`` of smallest magnitude.

    q − 2zφ(z) with z = Φ⁻¹((1+q)/2), for mean 0 and any variance.

    Args:
        q: pruned fraction, in [0, 1].

    Returns:
        Share in [0, 1].

    Raises:
        ValueError: if ``q`` lies outside [0, 1].

    >>> round(energy_lost_gaussian(0.5), 4), energy_lost_gaussian(1.0)
    (0.0713, 1.0)
    """
    _check_fraction(q)
    if (1 + q) / 2 == 1.0:
        return 1.0
    z = NormalDist().inv_cdf((1 + q) / 2)
    return max(0.0, q - 2 * z * exp(-z * z / 2) / sqrt(2 * pi))


def energy_lost_laplace(q: float) -> float:
    """Share of the energy of Laplace weights that lies in the fraction ``q`` of smallest magnitude.

    1 − (1−q)(1 + t + t²/2) with t = −ln(1−q), for mean 0 and any scale.

    Args:
        q: pruned fraction, in [0, 1].

    Returns:
        Share in [0, 1].

    Raises:
        ValueError: if ``q`` lies outside [0, 1].

    >>> round(energy_lost_laplace(0.5), 4), energy_lost_laplace(1.0)
    (0.0333, 1.0)
    """
    _check_fraction(q)
    if q == 1.0:
        return 1.0
    t = -log1p(-q)
    return max(0.0, 1 - (1 - q) * (1 + t + t * t / 2))


def energy_lost_uniform(q: float) -> float:
    """Share of the energy of weights uniform on [−a, a] in the fraction ``q`` of smallest magnitude: q³.

    Args:
        q: pruned fraction, in [0, 1].

    Returns:
        Share in [0, 1].

    Raises:
        ValueError: if ``q`` lies outside [0, 1].

    >>> energy_lost_uniform(0.5)
    0.125
    """
    _check_fraction(q)
    return q**3


def excess_loss(gradient: Tensor, hessian: Tensor | Callable[[Tensor], Tensor], delta: Tensor) -> Tensor:
    """Rise of the loss when ``delta`` is taken from the weights, to second order; exact on quadratics.

    L(w − δ) − L(w) = −gᵀδ + ½ δᵀHδ. Pruning the entries P takes δ = w on P and 0 elsewhere.

    Args:
        gradient: g at w, any shape.
        hessian: H as a matrix ``(n, n)`` over the flattened weights, or a function that maps a tensor of
            the shape of ``delta`` to H·delta.
        delta: δ, of the shape of ``gradient``.

    Returns:
        0-dimensional tensor; negative where the loss falls.

    Raises:
        ValueError: if the shapes do not fit.

    >>> excess_loss(torch.tensor([1.0, 0.0]), torch.eye(2), torch.tensor([2.0, 2.0])).item()  # −2 + ½·8
    2.0
    """
    if gradient.shape != delta.shape:
        raise ValueError(f"gradient {tuple(gradient.shape)} and delta {tuple(delta.shape)} differ in shape")
    flat = delta.reshape(-1)
    if callable(hessian) and not isinstance(hessian, Tensor):
        curved = hessian(delta).reshape(-1)
    elif hessian.shape == (flat.numel(), flat.numel()):
        curved = hessian @ flat
    else:
        raise ValueError(f"hessian must have shape {(flat.numel(),) * 2}, got {tuple(hessian.shape)}")
    return torch.dot(flat, curved) / 2 - torch.dot(gradient.reshape(-1), flat)


def _check_fraction(q: float) -> None:
    if not 0.0 <= q <= 1.0:
        raise ValueError(f"q must lie in [0, 1], got {q}: give the pruned fraction")
