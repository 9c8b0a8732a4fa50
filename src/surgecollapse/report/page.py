"""From run directories to one page with its pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from surgecollapse.errors import ConfigError, needs
from surgecollapse.record.whole_files import write_whole
from surgecollapse.report.result import result, settings
from surgecollapse.report.rundata import RunData
from surgecollapse.report.summary import readable_bytes, summarize

if TYPE_CHECKING:
    from surgecollapse.events import Intervention
    from surgecollapse.report.markup import Section, Table
    from surgecollapse.report.style import Picture

MOST_ROWS = 400
"""Interventions listed in the page for each run; the run store has all."""


def write_report(runs: Sequence[Path | RunData], out: Path) -> Path:
    """Write one self-contained page about one or several runs, and its pictures as PNGs beside it.

    What a run does not have (labels, interventions, sketches …) is named in the page.

    Args:
        runs: run directories (the first is what the others are compared with), or runs collected already.
        out: folder for ``index.html`` and the PNGs; made if it is not there, existing files are replaced.

    Returns:
        The path of the page.

    Raises:
        ValueError: without any run, or if a directory holds no readable run.
        ModuleNotFoundError: without matplotlib, scikit-learn or Jinja, with what to install.
        OSError: if ``out`` cannot be written.
    """
    if not runs:
        raise ValueError("expected at least one run directory to report on, got none")
    _require_plots()
    from surgecollapse.report.collect import collect_all
    from surgecollapse.report.markup import page_html
    from surgecollapse.report.style import save_png

    data = collect_all(runs)
    _refuse_mixed(data)
    parts = sections(data)
    tasks = ", ".join(dict.fromkeys(run.task for run in data if run.task)) or "a run"
    title = f"surgecollapse: {tasks}"
    text = page_html(title, _lead(data), parts, _foot(data))
    page = out / "index.html"
    try:
        # The page before its pictures: it needs none of them, and on a full disk it is what matters.
        write_whole(page, text)
        for picture in (picture for part in parts for picture in part.pictures):
            save_png(picture.figure, out / f"{picture.name}.png")
    except OSError as error:
        reason = error.strerror or error
        raise OSError(f"cannot write the report in {out} ({reason}): free space or choose another --out") from error
    return page


def _refuse_mixed(runs: Sequence[RunData]) -> None:
    """Refuse runs of several tasks, whose curves have no common meaning; loops of one's own do not say their task.

    Raises:
        ConfigError: naming a run of each task.
    """
    found = {run.task: run.directory.name for run in reversed(runs) if run.config}
    if len(found) > 1:
        named = ", ".join(f"{task} ({name})" for task, name in sorted(found.items()))
        raise ConfigError(f"a report is of one task, these runs are of {len(found)}: {named}. Report each by itself")


def _require_plots() -> None:
    """Say what to install if the plotting extra is missing."""
    with needs("the report", "lab"):
        for package in ("jinja2", "matplotlib", "sklearn"):
            import_module(package)


def _lead(runs: Sequence[RunData]) -> str:
    names = " and ".join(run.name for run in runs) if len(runs) < 3 else f"{len(runs)} runs"
    unfinished = [run.name for run in runs if not run.finished]
    diverged = [run.name for run in runs if run.diverged]
    tail = f" Not finished: {', '.join(unfinished)}." if unfinished else ""
    tail += f" Diverged: {', '.join(diverged)}." if diverged else ""
    steps = [f"{run.steps:,}" for run in runs]
    count = f"{steps[0]} optimizer steps{' each' * (len(runs) > 1)}" if len(set(steps)) == 1 else (
        f"{', '.join(steps)} optimizer steps")  # fmt: skip
    return f"Report on {names}: {count}.{tail}"


def _foot(runs: Sequence[RunData]) -> str:
    places = ", ".join(f"`{run.directory}`" for run in runs)
    notes = " ".join(f"{run.name}: {note}." for run in runs for note in run.notes)
    return f"Made from {places}. {notes} Metrics by scikit-learn, pictures by matplotlib.".replace("  ", " ")


def stem(base: str, index: int, runs: Sequence[RunData]) -> str:
    """File stem of a picture that each run has: numbered where there are several.

    >>> stem("roc", 1, [RunData("a", Path()), RunData("b", Path())]), stem("roc", 0, [RunData("a", Path())])
    ('roc-2', 'roc')
    """
    return base if len(runs) == 1 else f"{base}-{index + 1}"


def sections(runs: Sequence[RunData], anchors: Sequence[str] = ()) -> list[Section]:
    """The parts of the page, in order; parts that have nothing to show say so.

    Args:
        runs: what they show.
        anchors: only these of :data:`PARTS`; by default all.
    """
    return [part(runs) for anchor, part in PARTS.items() if not anchors or anchor in anchors]


def _summary(runs: Sequence[RunData]) -> Section:
    from surgecollapse.report.compare import overview
    from surgecollapse.report.markup import Section, Table

    found = [summarize(run, runs) for run in runs]
    rows = [summary.cells() for summary in found]
    # With one number a row and one run a column, the table fits a phone.
    keys = [key for key in rows[0] if key != "run" and any(row[key] != "–" for row in rows)]
    overall = Table(
        heads=["", *(row["run"] for row in rows)],
        rows=[[HEADS.get(key, key), *(row[key] for row in rows)] for key in keys],
        left=[""],
        label="Summary",
    )
    splits = dict.fromkeys(run.predictions.split for run in runs if run.predictions)
    metrics = f"Metrics are on the {' and '.join(splits)} data; " if splits else ""
    text = (
        f"{metrics}precision, recall, F1 and AUC are means over classes. Sparsity counts exact zeros of the final "
        "model. Size counts non-zeros in their own type, plus one bit for each entry of a parameter that holds zeros."
    )
    if found[0].size:
        whole = readable_bytes(sum(v.nbytes for v in runs[0].parameters.values()))
        text += f" Stored whole, the model takes {whole}."
    part = Section("summary", "Summary", text, before=overall)
    part.add(overview(runs), "")
    return part


HEADS = {
    "precision": "precision (macro)", "recall": "recall (macro)", "F1": "F1 (macro)", "AUC": "AUC (one-vs-rest, macro)",
    "time": "training time", "sparsity": "sparsity of prunable weights", "of all": "sparsity of all parameters",
}  # fmt: skip


def _learning(runs: Sequence[RunData]) -> Section:
    from surgecollapse.report.curves import accuracy, gradients, loss
    from surgecollapse.report.markup import Section

    part = Section("learning", "Loss and accuracy")
    part.add(loss(runs), "No run recorded a loss.")
    part.add(accuracy(runs), "No accuracy was recorded: the task has no classes, or nothing was evaluated.")
    transformed = gradients(runs)
    if transformed is not None:
        part.add(transformed, "")
    return part


def _entropy(runs: Sequence[RunData]) -> Section:
    from surgecollapse.report.markup import Section
    from surgecollapse.report.timeline import timeline

    part = Section("entropy", "Entropy and interventions")
    for index, run in enumerate(runs):
        part.add(timeline(run, stem("entropy", index, runs)), f"{run.name} took no readings of its activations.")
    for run in runs:
        if run.interventions:
            part.tables.append(_intervention_table(run))
        else:
            part.missing.append(f"{run.name}: nothing was done to the weights beside training.")
    return part


def _intervention_table(run: RunData) -> Table:
    from surgecollapse.report.markup import Table

    left = ("step", "kind", "phase", "reason")
    more = f"The first {MOST_ROWS} are listed; all are in `{run.directory / 'run.db'}`."
    return Table(
        heads=(*left, "sparsity", "pruned", "grown", "energy", "injected"),
        rows=[_row(event) for event in run.interventions[:MOST_ROWS]],
        left=left,
        label=f"All {len(run.interventions):,} interventions of {run.name}",
        opened=True,
        note=more if len(run.interventions) > MOST_ROWS else "",
    )


def _row(event: Intervention) -> list[str]:
    before, after = f"{100 * event.sparsity_before:.1f}", f"{100 * event.sparsity_after:.1f} %"
    change = f"{before} → {after}" if event.sparsity_before != event.sparsity_after else after
    energy = f"{event.energy_before:.4g} → {event.energy_after:.4g}"
    energies = [energy if event.energy_before or event.energy_after else "–", f"{event.energy_injected:.4g}"]
    counts = [f"{event.pruned:,}", f"{event.grown:,}"]
    return [f"{event.step:,}", event.kind, event.phase, event.reason, change, *counts, *energies]


def _energy(runs: Sequence[RunData]) -> Section:
    from surgecollapse.report.energy import energy, ledger, sparsity
    from surgecollapse.report.markup import Section

    part = Section("energy", "Sparsity and energy")
    part.add(sparsity(runs), "")
    part.add(energy(runs), "No run recorded the energy of its weights.")
    for index, run in enumerate(runs):
        if run.interventions:
            part.add(ledger(run, stem("ledger", index, runs)), f"{run.name}: no intervention changed any energy.")
    return part


def _classification(runs: Sequence[RunData]) -> Section:
    from surgecollapse.report.classification import confusion, per_class, roc
    from surgecollapse.report.markup import Section

    part = Section("classification", "Classification")
    kinds: list[tuple[str, Callable[[RunData, str], Picture | None]]] = [("confusion", confusion), ("roc", roc)]
    able = [(index, run) for index, run in enumerate(runs) if run.predictions is not None]
    for name, draw in kinds:
        for index, run in able:
            part.add(draw(run, stem(name, index, runs)), f"{run.name}: no {name} can be drawn from one class.")
    for run in runs:
        if run.predictions is None:
            part.missing.append(f"{run.name}: no class predictions (not a classification task, or no final model).")
    if able:
        part.add(per_class(runs), "")
        part.tables.append(_class_table([run for _, run in able]))
    return part


def _class_table(runs: Sequence[RunData]) -> Table:
    from surgecollapse.report.classification import evaluate, shown_classes
    from surgecollapse.report.markup import Table

    predictions = [run.predictions for run in runs if run.predictions is not None]
    scores = [evaluate(p) for p in predictions]
    order = shown_classes(scores[0], scores)
    rows: list[list[str]] = []
    for k in order:
        for run, score, p in zip(runs, scores, predictions, strict=True):
            if k < len(score.f1):
                numbers = [f"{v[k]:.4f}" for v in (score.precision, score.recall, score.f1)]
                rows.append([p.names[k], run.name, *numbers, f"{score.support[k]:,}"])
    for run, score in zip(runs, scores, strict=True):
        total = f"{int(score.support.sum()):,}"
        rows.append(["mean (macro)", run.name, *(f"{v:.4f}" for v in score.macro), total])
    left = ("class", "run")
    return Table(
        heads=(*left, "precision", "recall", "F1", "rows"),
        rows=rows,
        left=left,
        label="Precision, recall and F1 of each class",
    )


def _weights(runs: Sequence[RunData]) -> Section:
    from surgecollapse.report.markup import Section
    from surgecollapse.report.weights import histograms

    part = Section("weights", "Weights and gradients")
    part.add(histograms(runs, "weights"), "There is no final model to take weights from.")
    part.add(histograms(runs, "gradients"), "There is no final model to take gradients from.")
    return part


def _trajectory(runs: Sequence[RunData]) -> Section:
    from surgecollapse.report.markup import Section
    from surgecollapse.report.spectrum import slow_and_fast, slow_gradients
    from surgecollapse.report.trajectory import trajectory

    part = Section("trajectory", "Path through parameter space")
    part.add(trajectory(runs), "No run kept sketches of its weights, so that no path can be drawn.")
    part.add(slow_and_fast(runs), "No run kept eight sketches at even distances, so that no spectrum can be drawn.")
    pictures = [p for i, run in enumerate(runs, 1) if (p := slow_gradients(run, i)) is not None]
    for picture in pictures:
        part.add(picture, "")
    if not pictures:
        part.add(None, "No run traced its gradients: train with `gradient_trace_every`.")
    return part


def _fourier(runs: Sequence[RunData]) -> Section:
    from surgecollapse.report.fourier import fourier
    from surgecollapse.report.markup import Section

    part = Section("fourier", "Fourier components")
    part.add(fourier(runs), "No weight has an axis to transform.")
    return part


PARTS: dict[str, Callable[[Sequence[RunData]], Section]] = {
    "result": result,
    "summary": _summary,
    "learning": _learning,
    "entropy": _entropy,
    "energy": _energy,
    "classification": _classification,
    "weights": _weights,
    "trajectory": _trajectory,
    "fourier": _fourier,
    "settings": settings,
}
"""The parts of the page by their anchors, in order."""
