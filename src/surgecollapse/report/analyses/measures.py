"""Analyses of representations, weights, circuits and learning curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from surgecollapse.analysis.fourier import fourier_history
from surgecollapse.analysis.heavy_tails import heavy_tails
from surgecollapse.analysis.information_plane import CAVEAT, information_plane
from surgecollapse.analysis.intrinsic_dimension import intrinsic_dimensions
from surgecollapse.analysis.neural_collapse import collapse_history
from surgecollapse.analysis.progress import progress_history
from surgecollapse.analysis.representations import represent
from surgecollapse.analysis.similarity import representation_change, similarity_map
from surgecollapse.analysis.universality import universality
from surgecollapse.forecast.phases import phases
from surgecollapse.functional import neural_collapse
from surgecollapse.lab.tasks.modular import Modular
from surgecollapse.report.analyses.loaded_run import thin
from surgecollapse.report.analyses.modular_progress import modular_progress
from surgecollapse.report.analyses.registry import analysis
from surgecollapse.report.analyses.result import AnalysisResult, NotApplicable, each_run, stem

if TYPE_CHECKING:
    from surgecollapse.functional import NeuralCollapse
    from surgecollapse.report.analyses.loaded_run import LoadedRun


def _undetermined(run: LoadedRun) -> str:
    """What is said of a number at the end of training that is not finite."""
    return f"not determined: not finite are {', '.join(run.broken)}" if run.broken else "not determined: too few values"


@analysis("cka", "Representations")
def _cka(subjects: Sequence[LoadedRun]) -> list[AnalysisResult]:
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
    for index, run in enumerate(subjects):
        layers = [one.layers for one in run.history]
        change = representation_change(run.steps, layers)
        ends = zip((row[-1] for row in change.to_first), change.layers, strict=True)
        moved = min(((value, name) for value, name in ends if math.isfinite(value)), default=None)
        found.append(
            AnalysisResult(
                stem("cka", index, len(subjects)),
                f"Representations of {run.name} through training",
                f"Similarity of each layer at {len(run.steps)} times with itself at the start and at the end, on "
                f"{len(run.validation[0])} validation samples. Runs with `keep_checkpoints = 0` and a smaller "
                "`checkpoint_every` have more times.",
                change,
                f"start to end {moved[0]:.2f} in {moved[1]}" if moved else _undetermined(run),
                run.name,
                wide=True,
            )
        )
        grid = similarity_map(layers[-1], layers[-1], names=(run.name, run.name))
        found.append(
            AnalysisResult(
                stem("cka-layers", index, len(subjects)),
                f"Layers of {run.name}",
                "Similarity of each layer with each other at the end of training.",
                grid,
                f"first to last layer {grid.values[0][-1]:.2f}"
                if math.isfinite(grid.values[0][-1])
                else _undetermined(run),
                run.name,
            )
        )
    return [*found, *_between(subjects)]


def _between(subjects: Sequence[LoadedRun]) -> list[AnalysisResult]:
    """The first net with each of the others, where they read the same samples."""
    found = []
    for index, other in enumerate(subjects[1:]):
        first = subjects[0]
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


@analysis("neural_collapse", "Neural collapse")
@each_run("neural_collapse")
def _collapse(run: LoadedRun, file: str) -> AnalysisResult:
    """Neural collapse NC1 to NC4: features and classifier on their way to the corners of a simplex.

    Each measure is 0 where collapse is complete: within-class variance (NC1), norms and angles of the class means
    (NC2), classifier against class means (NC3), disagreement with the nearest class mean (NC4).

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
        else _undetermined(run),
        run.name,
        wide=True,
    )


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
        f"TwoNN {min(known):.1f} to {max(known):.1f}" if known else _undetermined(run),
        run.name,
    )


@analysis("fourier", "Fourier components")
@each_run("fourier")
def _fourier(run: LoadedRun, file: str) -> AnalysisResult:
    """Fourier components of the token table in modular arithmetic, through training.

    Shares of the power by frequency over the tokens, with their Gini coefficient and inverse participation ratio.
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


@analysis("progress", "Circuit and memory")
@each_run("progress")
def _progress(run: LoadedRun, file: str) -> AnalysisResult:
    """How much of a network's answer is the circuit and how much is memory: restricted and excluded loss.

    The restricted loss keeps only the waves of the key frequencies in the logits; the excluded loss removes them, on
    training questions. The circuit has formed where the restricted loss is low; memory is gone where the excluded loss
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


@analysis("information", "Information plane")
@each_run("information")
def _information(run: LoadedRun, file: str) -> AnalysisResult:
    """The information plane: binned estimates of I(input; layer) and I(layer; label).

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
        else _undetermined(run),
        run.name,
        wide=True,
    )


@analysis("universality", "Universality")
def _universality(subjects: Sequence[LoadedRun]) -> list[AnalysisResult]:
    """Whether the learning curves of several runs become one curve when they are rescaled.

    Time is divided by each run's own half-way time, and levels run from 0 at the start to 1 at the end. The distance is
    the mean gap of two curves over ln t.

    When to use:
        For two or more runs of one task.

    Cost:
        None beside reading the records.

    Deviations:
        The paper divides by final time and loss; half-way time suits curves that rise late, as in grokking.

    Source:
        Qiu et al. 2025, arXiv 2507.02119.
    """
    if len(subjects) < 2:
        raise NotApplicable("it compares the learning curves of two runs at least")
    tasks = {(run.config.data.task, getattr(run.config.data, "operation", "")) for run in subjects}
    if len(tasks) > 1:
        raise NotApplicable(
            f"it compares runs of one task, these are of {', '.join(sorted(' '.join(t) for t in tasks))}"
        )
    found = universality({run.name: (run.curve.steps, run.curve.values) for run in subjects})
    left = f" Left out, as they did not move: {', '.join(found.left_out)}." if found.left_out else ""
    caption = (
        "Validation accuracy as recorded, and with time in units of each run's own half-way time t½ and the level from "
        f"0 at its start to 1 at its end. The distance is the mean gap of two curves over ln t.{left}"
    )
    return [
        AnalysisResult(
            "universality",
            "Learning curves, rescaled",
            caption,
            found,
            f"distance {found.before:.3f} → {found.after:.3f}",
            ", ".join(curve.name for curve in found.curves),
            wide=True,
        )
    ]
