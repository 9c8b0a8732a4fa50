"""Pure maths: tensors in, new tensors out; no state, no hooks, no randomness of its own."""

from surgecollapse.functional.cross_entropies import (
    log_stablemax,
    softmax_cross_entropy_float64,
    stablemax,
    stablemax_cross_entropy,
    temperature_cross_entropy,
)
from surgecollapse.functional.dimension import hessian_effective_dimension, levina_bickel, two_nn
from surgecollapse.functional.dormancy import dormancy
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
    cutoff_frequency,
    ema_coefficients,
    frequency_response,
    grokfast,
    grokfast_ma,
    is_stable,
    largest_pole,
    linear_filter,
    ma_coefficients,
)
from surgecollapse.functional.growth import GROWTH, share_by_momentum
from surgecollapse.functional.masks import DISTRIBUTIONS, allocate, collapse_masks, minimum_live, pack, unpack
from surgecollapse.functional.patterns import Pattern, nm_mask, parse_pattern
from surgecollapse.functional.projections import gram, inner_product, orthogonal_gradient
from surgecollapse.functional.rank import (
    effective_rank,
    gram_spectra,
    numerical_rank,
    participation_ratio,
    sample_participation_ratio,
    singular_values,
    spectral_rank,
    stable_rank,
)
from surgecollapse.functional.saliency import SALIENCY, magnitude, taylor
from surgecollapse.functional.schedules import SCHEDULES
from surgecollapse.functional.selection import highest, kept, lowest
from surgecollapse.functional.stagnation import (
    Alignment,
    naive_loss_minimisation,
    softmax_collapse,
    zero_loss_share,
)
from surgecollapse.functional.structured import collapse_tiles, exchange_tiles, reopen_tiles

__all__ = [
    "DISTRIBUTIONS",
    "ENTROPY",
    "GROWTH",
    "SALIENCY",
    "SCHEDULES",
    "Alignment",
    "Pattern",
    "activation_energy",
    "allocate",
    "bounded_noise_scale",
    "collapse_masks",
    "collapse_tiles",
    "cutoff_frequency",
    "dead_units",
    "dormancy",
    "effective_rank",
    "ema_coefficients",
    "energy_lost_gaussian",
    "energy_lost_laplace",
    "energy_lost_uniform",
    "excess_loss",
    "exchange_tiles",
    "frequency_response",
    "gram",
    "gram_spectra",
    "grokfast",
    "grokfast_ma",
    "hessian_effective_dimension",
    "highest",
    "histogram_entropy",
    "inner_product",
    "is_stable",
    "kept",
    "largest_pole",
    "levina_bickel",
    "linear_filter",
    "log_stablemax",
    "lowest",
    "ma_coefficients",
    "magnitude",
    "minimum_live",
    "naive_loss_minimisation",
    "nm_mask",
    "numerical_rank",
    "on_off_entropy",
    "orthogonal_gradient",
    "pack",
    "parse_pattern",
    "participation_ratio",
    "predictive_entropy",
    "reopen_tiles",
    "sample_participation_ratio",
    "share_by_momentum",
    "sign_covariance_entropy",
    "singular_values",
    "softmax_collapse",
    "softmax_cross_entropy_float64",
    "spectral_entropy",
    "spectral_rank",
    "stable_rank",
    "stablemax",
    "stablemax_cross_entropy",
    "target_entropy",
    "taylor",
    "temperature_cross_entropy",
    "two_nn",
    "unit_energy_entropy",
    "unpack",
    "weight_energy",
    "zero_loss_share",
]
