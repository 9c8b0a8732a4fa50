"""The table that sums up one or several runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from surgecollapse.report.rundata import RunData


@dataclass(frozen=True)
class Summary:
    """One run in numbers; ``None`` where a number does not exist (no classes, nothing recorded)."""

    name: str
    policy: str
    accuracy: float | None
    precision: float | None
    recall: float | None
    f1: float | None
    """Precision, recall and F1 are means over classes (macro)."""
    auc: float | None
    """Area under the ROC, one-vs-rest, mean over classes."""
    validation_loss: float | None
    sparsity: float | None
    """Share of exact zeros in the prunable parameters of the final model."""
    sparsity_all: float | None
    """Share of exact zeros in all its parameters."""
    nonzeros: int | None
    parameters: int | None
    size: int | None
    """Bytes of the non-zeros, and one bit for each entry of parameters that hold zeros: see :func:`packed_bytes`."""
    seconds: float | None
    density: float | None
    """Mean over the steps of the share of prunable weights that were open."""
    interventions: int
    """Without decisions that were skipped."""

    def cells(self) -> dict[str, str]:
        """The row as text, by column heading."""
        return {
            "run": self.name,
            "policy": "no_op (readings only)" if self.policy == "no_op" else self.policy,
            "accuracy": _share(self.accuracy),
            "precision": _share(self.precision),
            "recall": _share(self.recall),
            "F1": _share(self.f1),
            "AUC": "–" if self.auc is None else f"{self.auc:.4f}",
            "validation loss": "–" if self.validation_loss is None else f"{self.validation_loss:.4f}",
            "sparsity": _share(self.sparsity),
            "of all": _share(self.sparsity_all),
            "mean density": "–" if self.density is None else f"{self.density:.3f}",
            "non-zeros": "–" if self.nonzeros is None else f"{self.nonzeros:,}",
            "size": "–" if self.size is None else readable_bytes(self.size),
            "time": "–" if self.seconds is None else f"{self.seconds:.1f} s",
            "interventions": str(self.interventions),
        }


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.2f} %"


def readable_bytes(size: int) -> str:
    """A size in decimal units.

    >>> readable_bytes(813), readable_bytes(52_300), readable_bytes(4_000_000)
    ('813 B', '52.3 kB', '4.0 MB')
    """
    if size < 1000:
        return f"{size} B"
    for unit, scale in (("kB", 1e3), ("MB", 1e6), ("GB", 1e9)):
        if size < 1000 * scale or unit == "GB":
            return f"{size / scale:.1f} {unit}"
    raise AssertionError("unreachable")


def prunable_names(run: RunData, runs: Sequence[RunData]) -> frozenset[str]:
    """What counts as prunable: by the run itself, else by the others (for the plain run), else all matrices."""
    known = run.prunable or frozenset().union(*(other.prunable for other in runs))
    found = known & set(run.parameters)
    return found or frozenset(name for name, value in run.parameters.items() if value.ndim >= 2)


def zero_share(values: Sequence[np.ndarray]) -> float | None:
    """Share of exact zeros over all entries of the arrays; ``None`` where there is no entry."""
    total = sum(v.size for v in values)
    return 1 - sum(int(np.count_nonzero(v)) for v in values) / total if total else None


def summarize(run: RunData, runs: Sequence[RunData] = ()) -> Summary:
    """The numbers of one run; ``runs`` are all runs of the report, itself included."""
    from surgecollapse.lab.training.flops import mean_density
    from surgecollapse.report.classification import evaluate

    scores = evaluate(run.predictions) if run.predictions is not None else None
    values = list(run.parameters.values())
    prunable = prunable_names(run, runs)
    loss = run.measurements.get("loss/validation")
    from surgecollapse.functional.masks import packed_bytes  # brings torch

    return Summary(
        name=run.name,
        policy=run.policy,
        accuracy=scores.accuracy if scores else None,
        precision=scores.macro[0] if scores else None,
        recall=scores.macro[1] if scores else None,
        f1=scores.macro[2] if scores else None,
        auc=scores.auc_macro if scores else None,
        validation_loss=loss.last if loss is not None else None,
        sparsity=zero_share([run.parameters[name] for name in prunable]),
        sparsity_all=zero_share(values),
        nonzeros=sum(int(np.count_nonzero(v)) for v in values) if values else None,
        parameters=sum(v.size for v in values) if values else None,
        size=sum(packed_bytes(v.size, int(np.count_nonzero(v)), v.itemsize) for v in values) if values else None,
        seconds=run.seconds,
        density=mean_density(run.interventions, _sizes(run), run.steps),
        interventions=sum(event.kind != "skip" for event in run.interventions),
    )


def _sizes(run: RunData) -> dict[str, int]:
    """Values of each prunable parameter."""
    return {name: run.parameters[name].size for name in run.prunable if name in run.parameters}


def table(runs: Sequence[Path | RunData]) -> list[dict[str, str]]:
    """The small comparison table as rows of text by column heading, for a terminal.

    Args:
        runs: run directories, or runs that were collected already.
    """
    from surgecollapse.report.collect import collect_all

    data = collect_all(runs)
    wanted: tuple[str, ...] = (
        "run",
        "accuracy",
        "F1",
        "sparsity",
        "of all",
        "mean density",
        "size",
        "time",
        "interventions",
    )
    rows = [summarize(run, data).cells() for run in data]
    regression = all(run.predictions is None for run in data)
    if regression:
        wanted = ("run", "validation loss", "sparsity", "of all", "mean density", "size", "time", "interventions")
    return [{key: row[key] for key in wanted} for row in rows]
