"""Pure maths: tensors in, new tensors out; no state, no hooks, no randomness of its own."""

from surgecollapse.functional.energy import (
    activation_energy,
    bounded_noise_scale,
    energy_lost_gaussian,
    energy_lost_laplace,
    energy_lost_uniform,
    excess_loss,
    weight_energy,
)
from surgecollapse.functional.entropy import (
    ENTROPY,
    dead_units,
    histogram_entropy,
    on_off_entropy,
    predictive_entropy,
    sign_covariance_entropy,
    spectral_entropy,
    target_entropy,
    unit_energy_entropy,
)
from surgecollapse.functional.filters import (
    ema_coefficients,
    frequency_response,
    grokfast,
    grokfast_ma,
    linear_filter,
    ma_coefficients,
)
from surgecollapse.functional.growth import GROWTH, share_by_momentum
from surgecollapse.functional.masks import DISTRIBUTIONS, allocate, collapse_masks, minimum_live, pack, unpack
from surgecollapse.functional.saliency import SALIENCY, magnitude, taylor
from surgecollapse.functional.schedules import SCHEDULES
from surgecollapse.functional.selection import highest, kept, lowest

__all__ = [
    "DISTRIBUTIONS",
    "ENTROPY",
    "GROWTH",
    "SALIENCY",
    "SCHEDULES",
    "activation_energy",
    "allocate",
    "bounded_noise_scale",
    "collapse_masks",
    "dead_units",
    "ema_coefficients",
    "energy_lost_gaussian",
    "energy_lost_laplace",
    "energy_lost_uniform",
    "excess_loss",
    "frequency_response",
    "grokfast",
    "grokfast_ma",
    "highest",
    "histogram_entropy",
    "kept",
    "linear_filter",
    "lowest",
    "ma_coefficients",
    "magnitude",
    "minimum_live",
    "on_off_entropy",
    "pack",
    "predictive_entropy",
    "share_by_momentum",
    "sign_covariance_entropy",
    "spectral_entropy",
    "target_entropy",
    "taylor",
    "unit_energy_entropy",
    "unpack",
    "weight_energy",
]
