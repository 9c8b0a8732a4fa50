"""Neural collapse."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from surgecollapse.analysis.neural_collapse import collapse_history
from surgecollapse.analysis.representations import represent
from surgecollapse.functional import neural_collapse
from surgecollapse.report.analyses.loaded_run import undetermined
from surgecollapse.report.analyses.registry import analysis
from surgecollapse.report.analyses.result import AnalysisResult, NotApplicable, each_run

if TYPE_CHECKING:
    from surgecollapse.functional import NeuralCollapse
    from surgecollapse.report.analyses.loaded_run import LoadedRun


@analysis("neural_collapse", "Neural collapse")
@each_run("neural_collapse")
def _collapse(run: LoadedRun, file: str) -> AnalysisResult:
    """Neural collapse NC1 to NC4: features and classifier on their way to the corners of a simplex.

    Each measure is 0 where collapse is complete: within-class variance (NC1), norms and angles of the class means
    (NC2), classifier against class means (NC3), disagreement with the nearest class mean (NC4). For K classes::

        NC1 = tr(Σ_W Σ_B⁺)/K,  Σ_W the scatter within the classes, Σ_B between them

    When to use:
        For classifiers that are trained past zero training error.

    Cost:
        One forward pass of the training samples for each checkpoint, and one pseudo-inverse of features × features.

    Deviations:
        With unbalanced classes, each class counts alike.

    Source:
        Papyan, Han, Donoho 2020, arXiv 2008.08186.
    """
    x, y = run.training
    measures: list[NeuralCollapse] = []
    for _, net in run.nets():
        now = represent(net, x)
        if now.features is None or now.outputs.shape[1] != run.data.num_classes:
            raise NotApplicable(f"{run.name} has no last linear layer with an output for each class")
        weight = net.get_parameter(f"{now.head}.weight")
        measures.append(neural_collapse(now.features, y, weight=weight, predictions=now.outputs.argmax(1)))
    history = collapse_history(run.steps, measures)
    return AnalysisResult(
        file,
        f"Neural collapse of {run.name}",
        f"On {len(x)} training samples, features before the last layer; each measure is 0 where collapse is "
        "complete (Papyan, Han and Donoho, arXiv 2008.08186).",
        history,
        f"NC1 {history.within[0]:.2g} → {history.within[-1]:.2g}, "
        f"NC3 {history.duality[0]:.2f} → {history.duality[-1]:.2f}"
        if math.isfinite(history.within[-1])
        else undetermined(run),
        run.name,
        wide=True,
    )
