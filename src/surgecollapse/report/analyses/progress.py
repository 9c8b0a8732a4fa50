"""Progress measures: circuit and memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgecollapse.analysis.progress import progress_history
from surgecollapse.forecast.phases import phases
from surgecollapse.report.analyses.modular_progress import modular_progress
from surgecollapse.report.analyses.registry import analysis
from surgecollapse.report.analyses.result import AnalysisResult, each_run

if TYPE_CHECKING:
    from surgecollapse.report.analyses.loaded_run import LoadedRun


@analysis("progress", "Circuit and memory")
@each_run("progress")
def _progress(run: LoadedRun, file: str) -> AnalysisResult:
    """How much of a network's answer is the circuit and how much is memory: restricted and excluded loss.

    The restricted loss keeps only the waves w_k of the key frequencies K in the logits z; the excluded loss removes
    them, on training questions::

        z_K = Σ_{k∈K} Σ_w ⟨z, w_k⟩ w_k
        restricted logits = mean z + z_K
        excluded logits = z − z_K

    The circuit has formed where the restricted loss is low; memory is gone where the excluded loss
    is high.

    When to use:
        For runs on modular addition or subtraction. Both losses move long before the test loss does.

    Cost:
        One forward pass of all p² questions for each checkpoint.

    Deviations:
        The key frequencies are the strongest of the final network's logits.

    Source:
        Nanda et al. 2023, arXiv 2301.05217, section 5.
    """
    keys = modular_progress(run.model, run.config, run.data).frequencies
    measures = [modular_progress(net, run.config, run.data, keys) for _, net in run.nets()]
    went = phases(
        run.curve.steps.tolist(),
        run.training_curve.values.tolist(),
        run.curve.values.tolist(),
        validation_loss=run.loss_curve.values.tolist(),
    )
    spans = [(span.phase, span.first, span.last) for span in went.spans]
    history = progress_history(run.steps, measures, spans)
    return AnalysisResult(
        file,
        f"Circuit and memory in {run.name}",
        f"Loss of the waves of the frequencies {', '.join(map(str, sorted(keys)))} alone (restricted), which are the "
        "strongest of the final net, and of everything else on training questions (excluded); Nanda et al., arXiv "
        "2301.05217. Bands are phases by the record of the run.",
        history,
        f"restricted {history.restricted[0]:.2g} → {history.restricted[-1]:.2g}, "
        f"excluded {min(history.excluded):.2g} → {history.excluded[-1]:.2g}",
        run.name,
        wide=True,
    )
