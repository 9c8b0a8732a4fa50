"""Intrinsic dimension."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from surgecollapse.analysis.intrinsic_dimension import intrinsic_dimensions
from surgecollapse.report.analyses.loaded_run import undetermined
from surgecollapse.report.analyses.registry import analysis
from surgecollapse.report.analyses.result import AnalysisResult, each_run

if TYPE_CHECKING:
    from surgecollapse.report.analyses.loaded_run import LoadedRun


@analysis("dimension", "Intrinsic dimension")
@each_run("dimension")
def _dimension(run: LoadedRun, file: str) -> AnalysisResult:
    """Intrinsic dimension of the representations of each layer, by nearest neighbors and by the participation ratio.

    TwoNN uses the ratio μ of the distances to the second and first neighbor, P(μ > x) = x^−d. Maximum likelihood uses
    more neighbors. The participation ratio is (Σλ)²/Σλ² of the covariance.

    When to use:
        To compare layers at the same samples. Nearest neighbors underestimate high dimensions.

    Cost:
        All distances between the samples, for each layer of the final network.

    Deviations:
        The participation ratio is corrected for the sample size.

    Source:
        Facco et al. 2017, arXiv 1803.06992 (TwoNN); Levina and Bickel 2004 (maximum likelihood).
    """
    dimensions = intrinsic_dimensions(run.history[-1].layers)
    known = [d for d in dimensions.two_nn if math.isfinite(d)]
    return AnalysisResult(
        file,
        f"Intrinsic dimension of the layers of {run.name}",
        f"At the end of training, on {len(run.validation[0])} validation samples: by nearest neighbors, of "
        "the surface on which representations lie; by the participation ratio, of the flat space they fill.",
        dimensions,
        f"TwoNN {min(known):.1f} to {max(known):.1f}" if known else undetermined(run),
        run.name,
    )
