"""Pure maths: tensors in, new tensors out; no state, no hooks, no randomness of its own."""

from surgecollapse.events.switches import ALLOCATIONS, GROWTH
from surgecollapse.functional.commutator import commutator_defect
from surgecollapse.functional.concentration import gini, inverse_participation_ratio
from surgecollapse.functional.criteria.lamp import lamp
from surgecollapse.functional.criteria.magnitude import magnitude
from surgecollapse.functional.criteria.registry import SALIENCY
from surgecollapse.functional.criteria.taylor import taylor
from surgecollapse.functional.criticality import branching_ratio, chi, lyapunov_exponent
from surgecollapse.functional.cross_entropies import (
    log_stablemax,
    softmax_cross_entropy_float64,
    stablemax,
    stablemax_cross_entropy,
    temperature_cross_entropy,
)
from surgecollapse.functional.curvature import (
    Eigenpair,
    Hessian,
    Restricted,
    TraceEstimate,
    batch_loss,
    hutchinson_trace,
    largest_eigenvalue,
    stability_threshold,
)
from surgecollapse.functional.dimension import hessian_effective_dimension, levina_bickel, two_nn
from surgecollapse.functional.dormancy import dormancy
from surgecollapse.functional.dynamic_modes import dynamic_mode_residual
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
from surgecollapse.functional.heavy_tails import (
    Bulk,
    PowerLaw,
    marchenko_pastur_bulk,
    power_law,
)
from surgecollapse.functional.information import (
    discretize,
    symbol_entropy,
    symbol_mutual_information,
)
from surgecollapse.functional.masks import allocate, collapse_masks, minimum_live, pack, unpack
from surgecollapse.functional.neural_collapse import NeuralCollapse, neural_collapse
from surgecollapse.functional.patterns import Pattern, nm_mask, parse_pattern
from surgecollapse.functional.projections import gram, inner_product, orthogonal_gradient
from surgecollapse.functional.rank import (
    effective_rank,
    gram_spectra,
    numerical_rank,
    participation_ratio,
    rounding_level,
    sample_participation_ratio,
    singular_values,
    spectral_rank,
    stable_rank,
)
from surgecollapse.functional.selection import highest, kept, lowest
from surgecollapse.functional.similarity import linear_cka, unbiased_hsic
from surgecollapse.functional.soft_threshold import (
    channel_scale,
    magnitude_restoring_scale,
    soft_threshold,
    soft_threshold_inverse,
)
from surgecollapse.functional.stagnation import (
    Alignment,
    naive_loss_minimization,
    softmax_collapse,
    zero_loss_share,
)
from surgecollapse.functional.structured import collapse_tiles, exchange_tiles, reopen_tiles
from surgecollapse.schedules import SCHEDULES

__all__ = [
    "ALLOCATIONS",
    "ENTROPY",
    "GROWTH",
    "SALIENCY",
    "SCHEDULES",
    "Alignment",
    "Bulk",
    "Eigenpair",
    "Hessian",
    "NeuralCollapse",
    "Pattern",
    "PowerLaw",
    "Restricted",
    "TraceEstimate",
    "activation_energy",
    "allocate",
    "batch_loss",
    "bounded_noise_scale",
    "branching_ratio",
    "channel_scale",
    "chi",
    "collapse_masks",
    "collapse_tiles",
    "commutator_defect",
    "cutoff_frequency",
    "dead_units",
    "discretize",
    "dormancy",
    "dynamic_mode_residual",
    "effective_rank",
    "ema_coefficients",
    "energy_lost_gaussian",
    "energy_lost_laplace",
    "energy_lost_uniform",
    "excess_loss",
    "exchange_tiles",
    "frequency_response",
    "gini",
    "gram",
    "gram_spectra",
    "grokfast",
    "grokfast_ma",
    "hessian_effective_dimension",
    "highest",
    "histogram_entropy",
    "hutchinson_trace",
    "inner_product",
    "inverse_participation_ratio",
    "is_stable",
    "kept",
    "lamp",
    "largest_eigenvalue",
    "largest_pole",
    "levina_bickel",
    "linear_cka",
    "linear_filter",
    "log_stablemax",
    "lowest",
    "lyapunov_exponent",
    "ma_coefficients",
    "magnitude",
    "magnitude_restoring_scale",
    "marchenko_pastur_bulk",
    "minimum_live",
    "naive_loss_minimization",
    "neural_collapse",
    "nm_mask",
    "numerical_rank",
    "on_off_entropy",
    "orthogonal_gradient",
    "pack",
    "parse_pattern",
    "participation_ratio",
    "power_law",
    "predictive_entropy",
    "reopen_tiles",
    "rounding_level",
    "sample_participation_ratio",
    "sign_covariance_entropy",
    "singular_values",
    "soft_threshold",
    "soft_threshold_inverse",
    "softmax_collapse",
    "softmax_cross_entropy_float64",
    "spectral_entropy",
    "spectral_rank",
    "stability_threshold",
    "stable_rank",
    "stablemax",
    "stablemax_cross_entropy",
    "symbol_entropy",
    "symbol_mutual_information",
    "target_entropy",
    "taylor",
    "temperature_cross_entropy",
    "two_nn",
    "unbiased_hsic",
    "unit_energy_entropy",
    "unpack",
    "weight_energy",
    "zero_loss_share",
]
