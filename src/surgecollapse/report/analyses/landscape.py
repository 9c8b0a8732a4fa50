"""Analyses of the loss around the final nets and between them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import torch

from surgecollapse.analysis.alignment import align, permute
from surgecollapse.analysis.local_learning_coefficient import MIXED, local_learning_coefficient
from surgecollapse.analysis.mode_connectivity import curved_path, linear_path
from surgecollapse.analysis.open_weights import open_weights
from surgecollapse.analysis.spectral_density import spectral_density
from surgecollapse.analysis.surface import loss_surface
from surgecollapse.functional import Hessian, Restricted, batch_loss
from surgecollapse.report.analyses.registry import analysis
from surgecollapse.report.analyses.result import AnalysisResult, NotApplicable, each_run

if TYPE_CHECKING:
    from surgecollapse.analysis.mode_connectivity import LossPath
    from surgecollapse.report.analyses.loaded_run import LoadedRun


@analysis("connectivity", "Mode connectivity")
def connectivity(runs: Sequence[LoadedRun]) -> list[AnalysisResult]:
    """The loss between two networks: straight, on a trained curve, and after permuting units.

    The barrier is the largest excess over the line between the ends; 0 means one basin. On the straight line::

        barrier = max_t [L((1 − t)·a + t·b) − (1 − t)·L(a) − t·L(b)],  t in [0, 1]

    Of one run alone, the line goes from its start to its end.

    When to use:
        For two or more runs with networks of one shape.

    Cost:
        One evaluation of the loss for each point of a path; the curve is trained for 300 steps.

    Deviations:
        The paper trains the curve by SGD for many epochs, here Adam takes 300 steps: a failure to find a path proves
        nothing. Batch-norm statistics are recomputed at each point. Networks with residual connections are not aligned.

    Source:
        Garipov et al. 2018, arXiv 1802.10026; Ainsworth, Hayase, Srinivasa 2022, arXiv 2209.04836.
    """
    first = runs[0]
    x, y, criterion = first.batch
    if len(runs) == 1:
        initial = next(first.nets())[1]
        path = linear_path(initial, first.model, criterion, x, y)
        caption = f"Training loss on {len(x)} samples on the straight line from the initial net to the final one."
        return [_path("connectivity", path, f"{first.name}, from start to end", caption, first.name)]
    found = []
    for index, other in enumerate(runs[1:], start=2):
        if _shapes(first) != _shapes(other):
            continue
        names = f"{first.name} and {other.name}"
        where = f"Training loss on {len(x)} samples of {first.name}"
        line = linear_path(first.model, other.model, criterion, x, y)
        curve = curved_path(first.model, other.model, criterion, x, y, masks=(first.masks, other.masks))
        found.append(
            _path(
                f"connectivity-{index}", line, f"Between {names}", f"{where} on the straight line between them.", names
            )
        )
        caption = f"{where} on a Bezier curve whose middle was trained to be low (Garipov et al., arXiv 1802.10026)."
        found.append(_path(f"connectivity-curve-{index}", curve, f"Around, from {names}", caption, names))
        with suppress(ValueError):  # nets that are no chains of layers have no permutation that is known
            matched = permute(other.model, align(first.model, other.model, x).permutations)
            line = linear_path(first.model, matched, criterion, x, y)
            caption = f"{where}, the second net's units permuted to match the first (arXiv 2209.04836)."
            found.append(_path(f"connectivity-aligned-{index}", line, f"Between {names}, aligned", caption, names))
    if not found:
        raise NotApplicable("no other run has a net of the same shape as the first")
    return found


@analysis("surface", "Loss surface")
@each_run("surface")
def surface(run: LoadedRun, file: str) -> AnalysisResult:
    """The loss in two random directions around each final network, with the norms of its filters.

    L(θ + a·d_1 + b·d_2), where each filter of d_1 and d_2 is as long as that of θ. It is a slice: two random directions
    of thousands say little about the others.

    When to use:
        To illustrate, not to conclude.

    Cost:
        441 evaluations of the loss, on a grid of 21 × 21 points.

    Deviations:
        Pruned weights stay at zero: the directions are those of the open weights.

    Source:
        Li et al. 2018, arXiv 1712.09913.
    """
    x, y, criterion = run.batch
    grid = loss_surface(run.model, criterion, x, y, masks=run.masks)
    losses, middle = [loss for row in grid.losses for loss in row], len(grid.steps) // 2
    highest = max((loss for loss in losses if math.isfinite(loss)), default=math.nan)
    broken = sum(not math.isfinite(loss) for loss in losses)
    caption = (
        f"Training loss on {len(x)} samples in two random directions with the norms of the filters (Li et al., "
        "arXiv 1712.09913). The point is the net; pruned weights stay at zero."
    )
    said = f"loss {grid.losses[middle][middle]:.2g} in the middle, up to {highest:.2g}"
    if broken:
        said += f", not finite at {broken} of {len(grid.steps) ** 2} points"
    title = f"Loss around {run.name}"
    return AnalysisResult(file, title, caption, grid, said, run.name)


@analysis("density", "Curvature spectrum")
@each_run("density")
def density(run: LoadedRun, file: str) -> AnalysisResult:
    """The density of the Hessian's eigenvalues at each final network, and its effective dimension Σ h/(h + z).

    Typically a bulk at zero and a few large eigenvalues. The effective dimension counts directions whose curvature
    exceeds z, by default 1% of the largest eigenvalue.

    When to use:
        To compare the curvature of networks beyond their largest eigenvalue.

    Cost:
        240 Hessian products: 60 for each of four random vectors.

    Deviations:
        None.

    Source:
        Ghorbani, Krishnan, Xiao 2019, arXiv 1901.10159.
    """
    x, y, criterion = run.batch
    weights, masks = open_weights(run.model, run.masks)
    hessian = Hessian(batch_loss(run.model, criterion, x, y), weights)
    kept = torch.cat([masks.get(name, torch.ones_like(w)).flatten().bool() for name, w in weights.items()])
    live = Restricted(hessian, kept)
    spectrum = spectral_density(live, torch.empty(live.size, dtype=hessian.gradient.dtype))
    scale = 0.01 * abs(spectrum.largest) or 1.0
    dimension = spectrum.effective_dimension(scale)
    caption = (
        f"Of the training loss on {len(x)} samples by the weights that are open (stochastic Lanczos quadrature, arXiv "
        f"1901.10159). Effective dimension Σ h/(h + z) = {dimension:.1f} of {spectrum.size:,} at z = 1% of "
        "the largest eigenvalue."
    )
    said = f"{spectrum.smallest:.2g} to {spectrum.largest:.3g}, effective dimension {dimension:.1f}"
    title = f"Eigenvalues of the Hessian of {run.name}"
    return AnalysisResult(file, title, caption, spectrum, said, run.name)


@analysis("llc", "Learning coefficient")
@each_run("llc")
def learning_coefficient(run: LoadedRun, file: str) -> AnalysisResult:
    """The local learning coefficient: how degenerate each final network's minimum is, by Langevin dynamics.

    The estimate is nβ(E_β L − L*), β = 1/ln n, localized around the minimum. Trust it where the chains are level after
    the burn-in, ``at_half_step`` agrees with ``value``, and ``r_hat`` is near 1. A network that is not at a minimum can
    give a negative number.

    When to use:
        To compare one network at one sample size. Do not read it as its dimension.

    Cost:
        Three chains of 300 Langevin steps, and the same at half the step size.

    Deviations:
        The burn-in is excluded, and the step size is checked by halving it.

    Source:
        Lau, Furman, Wang, Murfet, Wei 2023, arXiv 2308.12108; closed forms: Aoyagi and Watanabe 2005.
    """
    x, y, criterion = run.batch
    estimate = local_learning_coefficient(
        run.model, criterion, x, y, batch=min(128, len(x)), chains=3, draws=200, burn_in=100, masks=run.masks
    )
    caption = (
        f"Local learning coefficient by Langevin dynamics on {len(x)} training samples (Lau et al., arXiv "
        f"2308.12108), of the weights that are open. R̂ = {estimate.r_hat:.2f}, must be at most {MIXED}."
    )
    said = f"not determined: {estimate.doubt}"
    if not estimate.doubt:
        said = f"{estimate.value:.3g} ± {estimate.standard_error:.2g}, at half the step {estimate.at_half_step:.3g}"
        caption += f" Half the step size gives {estimate.at_half_step:.3g}, and the step itself {estimate.value:.3g}."
    title = f"Learning coefficient of {run.name}"
    return AnalysisResult(file, title, caption, estimate, said, run.name)


def _path(name: str, path: LossPath, title: str, caption: str, subject: str) -> AnalysisResult:
    said = f"barrier {path.barrier:.3g}, ends {path.losses[0]:.2g} and {path.losses[-1]:.2g}"
    return AnalysisResult(name, title, caption, path, said, subject)


def _shapes(run: LoadedRun) -> dict[str, torch.Size]:
    return {name: p.shape for name, p in run.model.named_parameters()}
