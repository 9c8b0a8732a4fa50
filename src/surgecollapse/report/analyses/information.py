"""Information plane."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from surgecollapse.analysis.information_plane import CAVEAT, information_plane
from surgecollapse.report.analyses.loaded_run import undetermined
from surgecollapse.report.analyses.registry import analysis
from surgecollapse.report.analyses.result import AnalysisResult, each_run

if TYPE_CHECKING:
    from surgecollapse.report.analyses.loaded_run import LoadedRun


@analysis("information", "Information plane")
@each_run("information")
def _information(run: LoadedRun, file: str) -> AnalysisResult:
    """The information plane: binned estimates of I(input; layer) and I(layer; label).

    Of binned activations T, inputs X that all differ, and labels Y::

        I(X; T) = H(T),  I(T; Y) = H(T) + H(Y) − H(T, Y)

    The estimates depend on the bins. They show how activations cluster, not how much the network forgets.

    When to use:
        To compare with published information planes. Read the caveat on the page first.

    Cost:
        One forward pass of the samples for each checkpoint, and one principal-component analysis for each layer.

    Deviations:
        The paper bins every unit; here the two leading principal components of each layer are binned, each between its
        own ends.

    Source:
        Shwartz-Ziv and Tishby 2017, arXiv 1703.00810; criticism: Saxe et al. 2018.
    """
    plane = information_plane(run.steps, [one.layers for one in run.history], run.validation[1])
    last = plane.with_label[-1][-1]
    return AnalysisResult(
        file,
        f"Information plane of {run.name}",
        f"{CAVEAT} On {plane.samples} validation samples.",
        plane,
        f"I(last layer; label) {last:.2f} of {plane.label_entropy:.2f} nats"
        if math.isfinite(last)
        else undetermined(run),
        run.name,
        wide=True,
    )
