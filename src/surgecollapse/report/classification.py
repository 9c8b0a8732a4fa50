"""What the final model gets right: confusion matrix, ROC, precision, recall and F1 on held-out data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter
from sklearn.metrics import (  # type: ignore[import-untyped]
    accuracy_score,
    auc,
    confusion_matrix,
    precision_recall_fscore_support,
    roc_curve,
)

from surgecollapse.analysis.colors import plain
from surgecollapse.report.rundata import Array, Predictions, RunData
from surgecollapse.report.style import (
    BLUE,
    FAINT,
    INK,
    LINES,
    RUNS,
    Picture,
    canvas,
    legend_above,
    power,
    shorten,
    styled,
)

MANY_CLASSES = 20
"""Above this number of classes, only averages and the worst classes are shown."""
MOST_CURVES = 8
"""Above this number of classes, the ROC of single classes is drawn without a legend entry each."""
SHORT_LIST = 10


@dataclass(frozen=True)
class Scores:
    """Classification metrics, each in [0, 1]; per class and averaged with equal weight for each class (macro)."""

    accuracy: float
    precision: Array
    recall: Array
    f1: Array
    support: Array
    """Rows of each class, shape ``(K,)``."""
    macro: tuple[float, float, float]
    """Mean precision, recall and F1 over the classes that occur."""
    auc_macro: float | None
    auc_micro: float | None


@dataclass(frozen=True)
class Roc:
    """One receiver operating characteristic: false and true positive rates, and the area under it."""

    false: Array
    true: Array
    area: float


def rocs(predictions: Predictions) -> tuple[dict[int, Roc], Roc | None, Roc | None]:
    """One-vs-rest ROC of each class that has rows and counter-rows, their macro mean, and the micro average.

    Two classes are one problem: then the curve of class 1 is the only one.

    Returns:
        Curves by class, macro average (mean true positive rate at equal false positive rate), micro average (all
        row–class pairs pooled). The averages are ``None`` where no class can be ranked.

    >>> perfect = Predictions(np.array([0, 1]), np.array([[0.9, 0.1], [0.2, 0.8]]), ("no", "yes"), "test")
    >>> {k: r.area for k, r in rocs(perfect)[0].items()}
    {1: 1.0}
    """
    labels, scores = predictions.labels, predictions.scores
    classes = [1] if scores.shape[1] == 2 else range(scores.shape[1])
    curves: dict[int, Roc] = {}
    for k in classes:
        positive = labels == k
        if positive.any() and not positive.all():
            false, true, _ = roc_curve(positive, scores[:, k])
            curves[k] = Roc(false, true, float(auc(false, true)))
    if not curves:
        return {}, None, None
    # Denser towards 0, where good classifiers differ.
    grid = np.concatenate([[0.0], np.geomspace(1e-5, 1.0, 400)])
    mean = np.mean([_at(grid, c) for c in curves.values()], axis=0)
    macro = Roc(np.append(0.0, grid), np.append(0.0, mean), float(np.mean([c.area for c in curves.values()])))
    hot = labels[:, None] == np.arange(scores.shape[1])
    false, true, _ = roc_curve(hot.ravel(), scores.ravel())
    return curves, macro, Roc(false, true, float(auc(false, true)))


def _at(grid: Array, curve: Roc) -> Array:
    """True positive rate of a curve at rates that ascend from 0; where it rises upright at 0, its top there."""
    rates = np.interp(grid, curve.false, curve.true)
    rates[0] = curve.true[curve.false == 0].max()
    return np.asarray(rates)


def evaluate(predictions: Predictions) -> Scores:
    """All classification metrics of one run, by scikit-learn.

    >>> two = Predictions(np.array([0, 1, 1]), np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]]), ("a", "b"), "test")
    >>> scores = evaluate(two)
    >>> round(scores.accuracy, 3), scores.recall.tolist()
    (0.667, [1.0, 0.5])
    """
    every = list(range(predictions.scores.shape[1]))
    precision, recall, f1, support = precision_recall_fscore_support(
        predictions.labels, predictions.predicted, labels=every, zero_division=0
    )
    present = np.asarray(support) > 0
    means = tuple(float(np.mean(np.asarray(v)[present])) for v in (precision, recall, f1))
    _, macro, micro = rocs(predictions)
    return Scores(
        accuracy=float(accuracy_score(predictions.labels, predictions.predicted)),
        precision=np.asarray(precision),
        recall=np.asarray(recall),
        f1=np.asarray(f1),
        support=np.asarray(support),
        macro=(means[0], means[1], means[2]),
        auc_macro=macro.area if macro else None,
        auc_micro=micro.area if micro else None,
    )


def draw_confusion(ax: Axes, matrix: Array, classes: Sequence[str]) -> None:
    """Draw a confusion matrix with counts (many classes: shades only).

    Args:
        ax: where.
        matrix: shape (K, K), rows are true classes.
        classes: their K names.
    """
    count = len(classes)
    shades = LinearSegmentedColormap.from_list("blues", [BLUE + "26", BLUE])
    shown = np.ma.masked_equal(matrix, 0)
    image = ax.imshow(shown, cmap=shades, norm=LogNorm(vmin=1, vmax=max(2, int(matrix.max()))))
    ax.grid(visible=False)
    ax.spines[:].set_visible(True)
    if count <= MANY_CLASSES:
        for i, j in zip(*np.nonzero(matrix), strict=True):
            dark = matrix[i, j] ** 2 > matrix.max()
            # White on the full blue of either theme; pale cells let the page through, and so take its ink.
            ax.text(j, i, str(matrix[i, j]), ha="center", va="center", fontsize=9.5,
                    color="#ffffff" if dark else INK)  # fmt: skip
        names = [plain(shorten(name, 10)) for name in classes]
        long = max(map(len, names)) > 2
        ax.set_xticks(range(count), names, rotation=90 if long else 0)
        ax.set_yticks(range(count), names)
    else:
        bar = ax.figure.colorbar(image, ax=ax, shrink=0.8)
        bar.set_label("rows")
        bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
        bar.ax.yaxis.set_minor_formatter(NullFormatter())
    ax.set_xlabel("predicted class")
    ax.set_ylabel("true class")


@styled
def confusion_figure(matrix: Array, classes: Sequence[str]) -> Figure:
    """A confusion matrix alone; arguments as of :func:`draw_confusion`."""
    size = 4.8 if len(classes) <= 12 else 5.8
    figure = canvas(size + 0.5, size)
    draw_confusion(figure.add_subplot(), matrix, classes)
    return figure


@styled
def confusion(run: RunData, name: str) -> Picture | None:
    """The confusion matrix of one run; ``None`` without predictions."""
    if run.predictions is None:
        return None
    count = len(run.predictions.names)
    matrix = confusion_matrix(run.predictions.labels, run.predictions.predicted, labels=list(range(count)))
    figure = confusion_figure(matrix, run.predictions.names)
    wrong = int((run.predictions.predicted != run.predictions.labels).sum())
    caption = (
        f"Confusion matrix on the {run.predictions.split} data: {wrong} of {len(run.predictions.labels)} rows are "
        "wrong. Shades are logarithmic; an empty cell is none."
    )
    return Picture(name, f"Confusion: {run.name}", caption, figure)


@styled
def roc(run: RunData, name: str) -> Picture | None:
    """ROC of one run, one-vs-rest with both averages; ``None`` where no class can be ranked."""
    if run.predictions is None:
        return None
    curves, macro, micro = rocs(run.predictions)
    if macro is None or micro is None:
        return None
    figure = canvas(4.8, 5.2)
    ax = figure.add_subplot()
    # Curves of a good classifier lie in the corner: a logarithmic axis opens it.
    left = 0.5 / len(run.predictions.labels) if macro.area > 0.97 else 0.0
    chance = np.geomspace(left, 1, 100) if left else np.array([0.0, 1.0])
    ax.plot(chance, chance, color=FAINT, linestyle=":", linewidth=1, label="chance")
    if 1 < len(curves) <= MANY_CLASSES:
        _single_classes(ax, curves, run.predictions, left)
    averages = {"macro": macro, "micro": micro} if len(curves) > 1 else {"the second class": macro}
    for (color, mark), dash, (what, curve) in zip(RUNS, ("-", "--"), averages.items(), strict=False):
        ax.plot(np.maximum(curve.false, left), curve.true, color=color, linestyle=dash, linewidth=2.1, marker=mark,
                markevery=0.12, label=f"{what}: AUC {curve.area:.4f}")  # fmt: skip
    ax.set_ylim(-0.02, 1.02)
    if left:
        ax.set(xscale="log", xlim=(left, 1.0))
        ax.xaxis.set_major_formatter(FuncFormatter(power))
        ax.xaxis.set_minor_formatter(NullFormatter())
    else:
        ax.set(xlim=(-0.02, 1.02), aspect="equal")
    ax.set_xlabel("false positive rate" + " (logarithmic, left edge: 0)" * bool(left))
    ax.set_ylabel("true positive rate")
    legend_above(figure, [ax], columns=2)
    caption = (
        f"Receiver operating characteristic on the {run.predictions.split} data, each class against the rest; "
        "macro: mean over classes; micro: all row–class pairs pooled."
    )
    return Picture(name, f"ROC: {run.name}", caption, figure)


def _single_classes(ax: Axes, curves: dict[int, Roc], predictions: Predictions, left: float) -> None:
    """Draw the ROC of each class; few classes get a line and a legend entry of their own."""
    few = len(curves) <= MOST_CURVES
    for (k, curve), i in zip(curves.items(), range(len(curves)), strict=True):
        color, dash = LINES[(i + 2) % len(LINES)] if few else (FAINT, "-")
        label = f"{plain(shorten(predictions.names[k], 12))}: {curve.area:.4f}" if few else "single classes"
        ax.plot(np.maximum(curve.false, left), curve.true, color=color, linestyle=dash,
                linewidth=1.1 if few else 0.6, label=label)  # fmt: skip


@styled
def per_class(runs: Sequence[RunData]) -> Picture | None:
    """Precision, recall and F1 of every class, all runs beside each other; ``None`` without any predictions.

    Of many classes, the worst are shown.
    """
    able = [(style, run, run.predictions) for style, run in zip(RUNS, runs, strict=False) if run.predictions]
    if not able:
        return None
    scores = [evaluate(predictions) for _, _, predictions in able]
    first = able[0][2]
    order = shown_classes(scores[0], scores)
    able = [item for item, score in zip(able, scores, strict=True) if len(score.f1) == len(scores[0].f1)]
    scores = [score for score in scores if len(score.f1) == len(scores[0].f1)]
    figure = canvas(10.4, 1.6 + 0.3 * len(order))
    panels = figure.subplots(1, 3, sharey=True, sharex=True)
    shift = 0.5 / max(len(able), 2)
    for ax, what in zip(panels, ("precision", "recall", "f1"), strict=True):
        for i, (((color, mark), run, _), score) in enumerate(zip(able, scores, strict=True)):
            places = np.arange(len(order)) + (i - (len(able) - 1) / 2) * shift
            values = getattr(score, what)[order]
            ax.hlines(places, 0, values, color=color, linewidth=1, linestyle="-" if i else "--")
            ax.plot(values, places, linestyle="none", marker=mark, color=color, label=run.label, clip_on=False)
        ax.set_xlabel({"f1": "F1"}.get(what, what))
        ax.grid(visible=False, axis="y")
    low = min(float(v[order].min()) for score in scores for v in (score.precision, score.recall, score.f1))
    low = max(0.0, low - 0.1 * (1.02 - low) - 0.01)
    panels[0].set_xlim(low, 1 + 0.02 * (1 - low))
    panels[0].xaxis.set_major_locator(MaxNLocator(4))
    panels[0].set_yticks(range(len(order)), [plain(shorten(first.names[k], 12)) for k in order])
    panels[0].set_ylim(len(order) - 0.4, -0.6)
    panels[0].set_ylabel("class")
    legend_above(figure, [panels[0]], columns=4)
    caption = f"Precision, recall and F1 on the {first.split} data, from 0 to 1. The axes start at {low:.2f}."
    if len(order) < len(first.names):
        caption += f" The {len(order)} classes of lowest F1, of {len(first.names)}."
    return Picture("classes", "Precision, recall and F1 of each class", caption, figure, wide=True)


def shown_classes(first: Scores, scores: Sequence[Scores]) -> Array:
    """Classes to list: all in their order up to ``MANY_CLASSES``, else those of lowest F1 in any run."""
    if len(first.f1) <= MANY_CLASSES:
        return np.arange(len(first.f1))
    worst = np.min([np.where(s.support > 0, s.f1, 2.0) for s in scores if len(s.f1) == len(first.f1)], axis=0)
    return np.asarray(np.argsort(worst, kind="stable")[:SHORT_LIST])
