"""Fourier components."""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgecollapse.analysis.fourier import fourier_history
from surgecollapse.lab.tasks.modular import Modular
from surgecollapse.report.analyses.registry import analysis
from surgecollapse.report.analyses.result import AnalysisResult, NotApplicable, each_run

if TYPE_CHECKING:
    from surgecollapse.report.analyses.loaded_run import LoadedRun


@analysis("fourier", "Fourier components")
@each_run("fourier")
def _fourier(run: LoadedRun, file: str) -> AnalysisResult:
    """Fourier components of the token table in modular arithmetic, through training.

    Shares of the power by frequency k over the tokens t of a table W of p rows, with the Gini coefficient and the
    inverse participation ratio of √P::

        P_k = Σ_j |Σ_t W_tj exp(−2πi·kt/p)|²,  k = 1 … ⌊p/2⌋

    Networks that have learned modular addition keep few frequencies.

    When to use:
        For runs on modular arithmetic: concentration rises as the network finds the circuit.

    Cost:
        One Fourier transform of the token table for each checkpoint. No data.

    Deviations:
        None.

    Source:
        Nanda et al. 2023, arXiv 2301.05217.
    """
    from surgecollapse.report.fourier import token_table

    learned = run.config.data
    if not isinstance(learned, Modular):
        raise NotApplicable(f"{run.name} learns {learned.task}: only modular arithmetic has cyclic tokens")
    tables, name = [], ""
    for _, net in run.nets():
        weights = {key: p.detach().double().numpy() for key, p in net.named_parameters()}
        entry = token_table(weights, learned.modulus, run.data.vocabulary)
        if entry is None:
            raise NotApplicable(f"{run.name} has no table by which tokens enter")
        name, table = entry
        tables.append(table.copy())
    history = fourier_history(run.steps, tables)
    return AnalysisResult(
        file,
        f"Fourier components of {name} in {run.name}",
        "Share of the power by frequency over the tokens, and how concentrated its norms are. Nets that have "
        "learned modular addition keep few frequencies.",
        history,
        f"Gini {history.gini[0]:.2f} → {history.gini[-1]:.2f}, IPR {history.ipr[0]:.3f} → {history.ipr[-1]:.3f}",
        run.name,
        wide=True,
    )
