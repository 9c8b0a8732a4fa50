"""Similarity of representations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from surgecollapse.analysis.representations import represent
from surgecollapse.analysis.similarity import representation_change, similarity_map
from surgecollapse.report.analyses.loaded_run import thin, undetermined
from surgecollapse.report.analyses.registry import analysis
from surgecollapse.report.analyses.result import AnalysisResult, stem

if TYPE_CHECKING:
    from surgecollapse.report.analyses.loaded_run import LoadedRun


@analysis("cka", "Representations")
def _cka(runs: Sequence[LoadedRun]) -> list[AnalysisResult]:
    """How similar representations are: through training, between layers, and between the networks of several runs.

    Linear CKA of centered representations X and Y, debiased::

        CKA(X, Y) = ‖XᵀY‖²_F / (‖XᵀX‖_F · ‖YᵀY‖_F)

    1 means equal up to rotation and scale. The debiased form brings unrelated wide layers to about 0.

    When to use:
        To see when each layer settles, or whether two methods learn the same representations.

    Cost:
        One forward pass of the samples for each checkpoint, and one Gram matrix of samples × samples for each layer.

    Deviations:
        The unbiased estimator of HSIC, not the paper's biased one.

    Source:
        Kornblith et al. 2019, arXiv 1905.00414; Nguyen, Raghu, Kornblith 2021, arXiv 2010.15327, for the debiased form.
    """
    found = []
    for index, run in enumerate(runs):
        layers = [one.layers for one in run.history]
        change = representation_change(run.steps, layers)
        ends = zip((row[-1] for row in change.to_first), change.layers, strict=True)
        moved = min(((value, name) for value, name in ends if math.isfinite(value)), default=None)
        found.append(
            AnalysisResult(
                stem("cka", index, len(runs)),
                f"Representations of {run.name} through training",
                f"Similarity of each layer at {len(run.steps)} times with itself at the start and at the end, on "
                f"{len(run.validation[0])} validation samples. Runs with `keep_checkpoints = 0` and a smaller "
                "`checkpoint_every` have more times.",
                change,
                f"start to end {moved[0]:.2f} in {moved[1]}" if moved else undetermined(run),
                run.name,
                wide=True,
            )
        )
        grid = similarity_map(layers[-1], layers[-1], names=(run.name, run.name))
        found.append(
            AnalysisResult(
                stem("cka-layers", index, len(runs)),
                f"Layers of {run.name}",
                "Similarity of each layer with each other at the end of training.",
                grid,
                f"first to last layer {grid.values[0][-1]:.2f}"
                if math.isfinite(grid.values[0][-1])
                else undetermined(run),
                run.name,
            )
        )
    return [*found, *_between(runs)]


def _between(runs: Sequence[LoadedRun]) -> list[AnalysisResult]:
    """The first net with each of the others, where they read the same samples."""
    found = []
    for index, other in enumerate(runs[1:]):
        first = runs[0]
        x = first.validation[0]
        if other.data.input_shape != first.data.input_shape or other.data.x_train.dtype != x.dtype:
            continue
        layers = [thin(represent(run.model, x)).layers for run in (first, other)]
        grid = similarity_map(layers[0], layers[1], names=(first.name, other.name))
        best = max((value for row in grid.values for value in row if not math.isnan(value)), default=math.nan)
        found.append(
            AnalysisResult(
                f"cka-nets-{index + 2}",
                f"{first.name} and {other.name}",
                f"Similarity of the layers of two nets on the same samples, validation data of {first.name}.",
                grid,
                "not determined: no layer of one of the nets is finite"
                if math.isnan(best)
                else f"most alike {best:.2f}",
                f"{first.name}, {other.name}",
            )
        )
    return found
