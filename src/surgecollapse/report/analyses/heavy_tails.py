"""Heavy tails of spectra."""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgecollapse.analysis.heavy_tails import heavy_tails
from surgecollapse.report.analyses.registry import analysis
from surgecollapse.report.analyses.result import AnalysisResult, each_run

if TYPE_CHECKING:
    from surgecollapse.report.analyses.loaded_run import LoadedRun


@analysis("heavy_tails", "Heavy tails")
@each_run("heavy_tails")
def _tails(run: LoadedRun, file: str) -> AnalysisResult:
    """The spectrum of each weight matrix: the exponent of its power-law tail, and what exceeds a random matrix.

    A power law p(λ) ∝ λ^−α is fitted to the largest eigenvalues of WᵀW/n. There always is a best fit: trust α only
    where ``distance`` is below about 1/√``tail``. Eigenvalues beyond the Marchenko–Pastur edge are counted as spikes.

    When to use:
        To compare the weights of networks without data.

    Cost:
        One singular-value decomposition for each weight matrix of the final network. No data.

    Deviations:
        None: the tail is fitted by maximum likelihood, and its start is chosen by the Kolmogorov–Smirnov distance.

    Source:
        Martin and Mahoney 2021, arXiv 1810.01075; Clauset, Shalizi, Newman 2009, arXiv 0706.1062.
    """
    tails = heavy_tails({name: p.detach() for name, p in run.model.named_parameters()})
    alphas = [layer.alpha for layer in tails.layers if not layer.doubt]
    doubts = "; ".join(f"{layer.layer}: {layer.doubt}" for layer in tails.layers if layer.doubt)
    words = f"α {min(alphas):.1f} to {max(alphas):.1f}" if alphas else "α"
    if doubts:
        words += f", not determined of {doubts}" if alphas else f" not determined ({doubts})"
    left_out = f" Left out, as they are not finite: {', '.join(tails.left_out)}." if tails.left_out else ""
    return AnalysisResult(
        file,
        f"Spectra of the weights of {run.name}",
        "Share of the eigenvalues of WᴴW/n above x. The line is the power law that fits the tail best, where it "
        "passes the test of Kolmogorov and Smirnov. Right of the dotted line no random matrix with that many "
        f"non-zero entries and that variance has eigenvalues.{left_out}",
        tails,
        f"{words}, spikes {sum(layer.spikes for layer in tails.layers)}",
        run.name,
        wide=True,
    )
